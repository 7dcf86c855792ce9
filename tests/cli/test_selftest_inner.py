"""The inner server of the self-test: it counts copies and keeps what MAIL said, and rows look at both."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from appliance.cli.selftest import inner, plays_framing, plays_smtp, plays_trouble
from appliance.cli.selftest.fate import Became
from appliance.cli.selftest.inner import Inner
from appliance.cli.selftest.play import Mail, Play, Result
from appliance.cli.selftest.stranger import Reply


@pytest_asyncio.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Inner]:
    monkeypatch.setattr(inner, "AGAIN", 0.05)
    made = Inner(lambda _address: True)
    await made.up()
    yield made
    await made.down()


async def deliver(server: Inner, octets: bytes, words: str = "") -> None:
    """As a gateway does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        f"MAIL FROM:<a@b.example>{words}\r\nRCPT TO:<c@d.example>\r\nDATA\r\n".encode() + octets + b".\r\nQUIT\r\n"
    )
    assert (await reader.read()).count(b"\n250 2.0.0 Kept") == 1
    writer.close()


async def test_copies_are_counted_and_what_mail_said_is_kept(server: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.gather(deliver(server, b"x: one\r\n", " SIZE=6"), deliver(server, b"x: two\r\n", " BODY=8BITMIME"))
    assert server.told(b"one") == "MAIL FROM:<a@b.example> SIZE=6"
    assert server.told(b"two") == "MAIL FROM:<a@b.example> BODY=8BITMIME"
    assert server.told(b"three") == "" and not await server.has_again(b"one")
    monkeypatch.setattr(inner, "AGAIN", 30.0)
    coming = asyncio.create_task(server.has_again(b"one"))
    await deliver(server, b"x: one\r\n")
    assert await coming and await server.has(b"one", 0.0) == b"x: one\r\n"


def play(server: Inner, copies: int, words: str = "") -> Play:
    """Every mail is taken, and delivered so often."""
    made = Play(*(cast("Any", None) for _ in range(6)))

    async def send(mail: Mail, stranger: Any = None, way: Any = None) -> Reply:
        if stranger is not None:
            stranger.features = {"8BITMIME": ""}
        if callable(counted := getattr(way, "content", None)) and isinstance(counted, plays_framing._Counted):
            counted.sent = True
        for _ in range(copies):
            await deliver(server, mail.octets, words)
        return Reply(250, "2.0.0 Ok")

    async def compare(*_: object) -> Result:
        return Result("ok", "delivered", "delivered")

    async def judge(mail: Mail, *_: object) -> Result:
        await send(mail)
        return Result("ok", "delivered", "delivered")

    async def of(token: str, *_: object) -> Became:
        return Became("delivered", await server.has(token.encode(), 1))

    vars(made).update(send=send, compare=compare, judge=judge, stranger=lambda: SimpleNamespace())
    made.inner, made.fate = server, cast("Any", SimpleNamespace(of=of))
    return made


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("row", [plays_smtp.clean, plays_framing.smuggling])
async def test_a_mail_that_comes_twice_is_a_miss(server: Inner, row: Any, copies: int) -> None:
    result = await row(play(server, copies))
    assert (result.state, "twice" in result.got) == (("ok", False) if copies == 1 else ("miss", True)), result


@pytest.mark.parametrize("copies", [1, 2])
async def test_a_mail_that_waited_and_comes_twice_is_a_miss(server: Inner, copies: int) -> None:
    made, later = play(server, copies), list[Mail]()

    async def send(mail: Mail) -> Reply:
        later.append(mail)
        return Reply(250, "2.0.0 Ok")

    async def of(*_: object) -> Became:
        for _ in range(copies):
            await deliver(server, later[0].octets)
        return Became("delivered", later[0].octets)

    async def nothing(*_: object) -> None:
        return None

    vars(made)["send"], made.fate = send, cast("Any", SimpleNamespace(of=of))
    made.inner.has = nothing  # type: ignore[method-assign, assignment]
    result = await plays_trouble.no_inner(made)
    assert result.state == ("ok" if copies == 1 else "miss"), result


@pytest.mark.parametrize(("words", "state"), [(" SIZE=100 BODY=8BITMIME", "ok"), (" SIZE=100", "miss"), ("", "miss")])
async def test_8_bit_content_is_told_inside(server: Inner, words: str, state: str) -> None:
    assert (await plays_framing.eight_bit(play(server, 1, words))).state == state
