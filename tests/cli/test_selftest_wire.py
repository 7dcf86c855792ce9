"""What the self-test's stranger sees on the wire: a gateway that obeys what it must not is a miss, silence no end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.cli.selftest import live, plays_smtp, plays_tls, stranger
from appliance.cli.selftest.play import Play, Result
from appliance.cli.selftest.stranger import Reply, Stranger

#: What a scripted gateway does at the end of its script.
SILENCE, END = "silence", "end"


@contextlib.asynccontextmanager
async def gateway(*script: str, then: str = SILENCE) -> AsyncIterator[tuple[Stranger, list[bytes]]]:
    """A stranger, and what it said to a gateway that says each line of `script`: the first at once, each other as an
    answer to one line."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, said in enumerate(script):
            if number:
                heard.append(await reader.readline())
            writer.write(said.encode())
        while then == SILENCE and (line := await reader.readline()):
            heard.append(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Stranger("127.0.0.1", server.sockets[0].getsockname()[1]), heard


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stranger, "PATIENCE", 1.0)
    monkeypatch.setattr(stranger, "UNASKED", 0.05)
    monkeypatch.setattr(stranger, "LEAVE", 0.1)


def play(one: Stranger | None = None, wait: float = 0.0) -> Play:
    made = Play(*(cast("Any", None) for _ in range(6)))
    checks = {"early_talker": SimpleNamespace(knobs=SimpleNamespace(wait=wait))}
    limits = SimpleNamespace(errors_soft=10, errors_hard=10)
    wiring = SimpleNamespace(limits=limits, smtp=SimpleNamespace(size_limit=1000))
    made.snapshot = cast("Any", SimpleNamespace(wiring=wiring, policies=SimpleNamespace(checks=checks)))

    async def nothing(_reply: Reply) -> None:
        return None

    made.gateway = cast("Any", SimpleNamespace(decided=nothing))
    if one is not None:
        vars(made)["stranger"] = lambda: Stranger(*one._place)
    return made


@pytest.mark.parametrize("greeting", ["554 5.7.1 Go away\r\n", "220-wait\r\n"])
async def test_who_is_not_greeted_says_nothing_and_takes_no_later_reply_for_an_answer(greeting: str) -> None:
    async with gateway(greeting, "220 now\r\n250 late\r\n") as (one, heard), one:
        assert one.greeting.code != 220
        replies = [await one.hello(), await one.envelope("a@b.example", "c@d.example"), await one.reply()]
        assert {reply.code for reply in replies} == {0}
        assert all(one.greeting.short in reply.text for reply in replies)
    assert not any(heard)


async def test_who_got_no_answer_says_nothing_more() -> None:
    async with gateway("220 hello\r\n") as (one, heard), one:
        assert (await one.say("NOOP")).silent
        assert (await one.say("RSET")).silent
    assert b"RSET\r\n" not in heard


@pytest.mark.parametrize("scenario", [plays_smtp.relay, plays_smtp.announced, plays_tls.injection])
@pytest.mark.parametrize(
    ("greeting", "wait", "state", "words"),
    [
        ("554 5.7.1 Go away\r\n", 0.0, "miss", "554 5.7.1 Go away"),
        ("220-wait\r\n", 0.0, "miss", "no answer within"),
        ("220-wait\r\n", 25.0, "skipped", "wait = 25 s"),
    ],
)
async def test_a_raw_dialogue_stops_where_nobody_is_greeted(
    scenario: Any, greeting: str, wait: float, state: str, words: str
) -> None:
    async with gateway(greeting) as (one, heard):
        result: Result = await scenario(play(one, wait))
    assert result.state == state
    assert words in (result.why if state == "skipped" else result.got)
    assert not any(heard)


FEATURES = "250-gateway\r\n250 STARTTLS\r\n"


@pytest.mark.parametrize(
    ("answer", "then", "state"),
    [
        ("554 5.5.0 Out of step\r\n", END, "ok"),
        ("", END, "ok"),
        ("", SILENCE, "miss"),
        ("554 5.5.0 Out of step\r\n", SILENCE, "miss"),
        ("454 4.7.0 No TLS\r\n250 Ok\r\n250 Ok\r\n", SILENCE, "miss"),
        ("220 Go\r\n250 Ok\r\n250 Ok\r\n", SILENCE, "miss"),
        ("220 Go\r\n", SILENCE, "miss"),
        ("220 Go\r\n", END, "ok"),
    ],
)
async def test_what_stands_behind_starttls_must_be_gone_and_silence_is_no_end(
    monkeypatch: pytest.MonkeyPatch, answer: str, then: str, state: str
) -> None:
    async def nothing(_stranger: Stranger) -> str:
        return ""

    monkeypatch.setattr(plays_tls, "_remembered", nothing)
    async with gateway("220 hello\r\n", FEATURES, answer, then=then) as (one, _heard):
        assert (await plays_tls.injection(play(one))).state == state


@pytest.mark.parametrize(
    ("ready", "behind", "wrong"),
    [
        (Reply(220, "Go"), Reply(503, "5.5.1 Error: send HELO/EHLO first"), False),
        (Reply(220, "Go"), Reply(250, "2.1.0 Ok"), True),
        (Reply(220, "Go"), Reply(450, "4.7.1 Later"), True),
        (Reply(220, "Go"), Reply(0, "the gateway hung up"), True),
        (Reply(0, "TLS: no"), Reply(503, "5.5.1 Error: send HELO/EHLO first"), True),
    ],
)
async def test_behind_tls_the_ehlo_of_before_counts_no_more(ready: Reply, behind: Reply, wrong: bool) -> None:
    said: list[str] = []

    async def say(line: str) -> Reply:
        said.append(line)
        return behind

    async def handshake() -> Reply:
        return ready

    async with gateway("220 hello\r\n", "250-gateway\r\n250 STARTTLS\r\n") as (one, _heard):
        vars(one)["starttls"] = handshake
        vars(one)["hello"] = handshake
        vars(one)["say"] = say
        assert bool(await plays_tls._remembered(one)) is wrong
    assert said == ["MAIL FROM:<probe@regular.example>"] * (ready.code == 220)


class Secured:
    """A stranger behind a handshake, with replies that come of themselves and to commands."""

    def __init__(self, unasked: list[Reply | None], replies: list[Reply]) -> None:
        self._unasked, self._replies = unasked, replies

    async def unasked(self) -> Reply | None:
        return self._unasked.pop(0)

    async def handshake(self, ready: Reply) -> Reply:
        return ready

    async def say(self, _line: str) -> Reply:
        return self._replies.pop(0)


OK, BYE = Reply(250, "Ok"), Reply(221, "Bye")


@pytest.mark.parametrize(
    ("unasked", "replies", "wrong"),
    [
        ([None, None], [OK, BYE], False),
        ([None, OK], [], True),
        ([OK], [], True),
        ([None, None], [OK, OK], True),
        ([None, None], [Reply(0, "no answer within 20 s"), BYE], True),
        ([None, Reply(0, "the gateway hung up")], [], False),
    ],
)
async def test_behind_tls_nothing_comes_unasked_and_one_answer_to_one_command(
    unasked: list[Reply | None], replies: list[Reply], wrong: bool
) -> None:
    one = cast("Any", Secured(unasked, replies))
    assert bool(await plays_tls._behind_tls(one, Reply(220, "Go"))) is wrong


@pytest.mark.parametrize(
    ("script", "then", "state"),
    [
        (("220 hi\r\n", "250 hello\r\n", "500 5.5.2 no\r\n"), SILENCE, "ok"),
        (("220 hi\r\n", "250 hello\r\n", "250 2.0.0 Ok\r\n"), SILENCE, "miss"),
        (("220 hi\r\n", "250 hello\r\n"), SILENCE, "miss"),
        (("554 5.7.1 Go away\r\n",), SILENCE, "miss"),
        ((), END, "miss"),
    ],
)
async def test_live_a_gateway_that_says_nothing_has_not_refused_a_bare_lf(
    script: tuple[str, ...], then: str, state: str
) -> None:
    async with gateway(*script, then=then) as (one, _heard):
        made = live.Live.__new__(live.Live)
        vars(made)["stranger"] = lambda: one
        assert (await made.bare_lf()).state == state
