"""The client of a content filter before the queue: every fault of threats part 4 at every step of its session, places and
deadlines, and how it fares."""

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.connectors import breaker, faring, proxy_filter
from appliance.connectors.proxy_filter import ProxyFilter, ProxyFilters, Settings
from appliance.mail.policy_service import Place
from appliance.protocol.errors import Unavailable
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient, Result
from tests.connectors.smtp_peer import SILENT, Peer
from tests.peers.hostile import FAULTS, Good, Hostile, reset, trickles

CONTENT = b"Subject: hi\r\n\r\nhello\r\n" + 20 * b"a line of the body\r\n"
FEATURES = b"250-filter\r\n250-PIPELINING\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n"
#: What a filter answers to, in order, and what it says.
STEPS = {
    "greeting": b"220 filter ESMTP\r\n",
    "EHLO": FEATURES,
    "XFORWARD": b"250 2.0.0 Ok\r\n",
    "MAIL": b"250 2.1.0 Ok\r\n",
    "RCPT": b"250 2.1.5 Ok\r\n",
    "DATA": b"354 go on\r\n",
    ".": b"250 2.0.0 Ok: queued as 123\r\n",
}


def good(step: str) -> Good:
    """A filter that is well until `step`."""

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if step == "greeting":
            return
        writer.write(STEPS["greeting"])
        body = False
        while line := await reader.readline():
            verb = line.split()[0].decode() if line.split() else ""
            if body and verb != ".":
                continue
            if verb == step:
                return
            body = verb == "DATA"
            writer.write(STEPS.get(verb, b"250 ok\r\n"))
        raise asyncio.IncompleteReadError(b"", None)

    return Good(read, STEPS[step])


def settings(*ports: int, **more: Any) -> Settings:
    places = tuple(Place(host="127.0.0.1", port=port) for port in ports)
    given = {"name": "scan", "ehlo": "mx.example.com", "concurrency": 20, "timeout": 10.0, "total_timeout": 10.0}
    return Settings(places=places, **(given | more))


def message(*recipients: str, **more: Any) -> Outgoing:
    to = tuple(map(OutgoingRecipient, recipients or ("a@example.com",)))
    told = {"NAME": "client.example.org", "ADDR": "192.0.2.1", "IDENT": "4F00", "PROTO": "ESMTP"}
    return Outgoing("s@example.org", to, **({"xforward": told, "together": True} | more))


def pieces(content: bytes = CONTENT, size: int = 100) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


async def handed(filter_: ProxyFilter, transaction: str = "4F00", **more: Any) -> tuple[Result, ...]:
    return await filter_.send(message(**more), pieces(), transaction)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    class Log:
        def error(self, text: str, **more: Any) -> None:
            lines.append({"text": text} | more)

        def warning(self, text: str, **more: Any) -> None:
            lines.append({"text": text} | more)

    monkeypatch.setattr(proxy_filter, "log", Log())
    return lines


def settled() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# ---------------------------------------------------------------------- faults

#: These happen before any step, and are tried there.
AT_ONCE = {"hangs_at_once", "hangs_up_early", "dies_in_the_body", "refuses", "absent"}
CASES = [(fault, step) for fault in FAULTS for step in STEPS if step == "greeting" or fault not in AT_ONCE]
#: A second answer behind the end of the content comes too late to change the first.
CASES.remove(("two_answers", "."))


@pytest.mark.parametrize(("fault", "step"), CASES)
async def test_each_fault_at_each_step(fault: str, step: str, said: list[dict[str, Any]]) -> None:
    clock = asyncio.get_running_loop().time
    async with Hostile(good(step), FAULTS[fault]) as server:
        filters = ProxyFilters(1)
        quick = settings(server.port, timeout=0.15, total_timeout=0.5)
        filters.follow([quick])
        one = filters.of(quick)
        before, began = settled(), clock()
        with pytest.raises(Unavailable):
            await handed(one)
        assert clock() - began < 8
        [line] = said
        assert line["text"] == "proxy filter failed" and line["proxy_filter"] == "scan" and line["transaction"] == "4F00"
        assert float(line["seconds"]) <= 5 and line["why"] and line["step"]
        assert str(server.port) in line["address"]
        facts = filters.health()
        assert "4F00" in facts["degraded"][0]["last"] and facts["scan"]["failed"] == 1
        assert facts["scan"]["connections"] == 0
        await server.be(None)
        filters.close()
    await asyncio.sleep(0)
    assert settled() <= before


@pytest.mark.parametrize("step", STEPS)
async def test_an_answer_octet_by_octet_is_an_answer(step: str, said: list[dict[str, Any]]) -> None:
    """The one behind the content: whoever trickles another one hangs up behind it."""
    async with Hostile(good(step), trickles) as server:
        one = ProxyFilter(settings(server.port), 1)
        if step == ".":
            [result] = await handed(one)
            assert result.kind == "delivered" and not said
        else:
            with pytest.raises(Unavailable):
                await handed(one)
            assert len(said) == 1
        one.health.close()


async def test_the_first_answer_to_the_content_counts() -> None:
    async with Hostile(good("."), FAULTS["two_answers"]) as server:
        [result] = await handed(ProxyFilter(settings(server.port), 1))
        assert result.kind == "delivered" and result.text.endswith("queued as 123")


@pytest.mark.parametrize("octets", [1, 100, 300])
async def test_a_filter_that_dies_in_the_middle_of_the_body(octets: int, said: list[dict[str, Any]]) -> None:
    async def dies(well: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await well.read(reader, writer)
        writer.write(STEPS["DATA"])
        await reader.readexactly(octets)
        reset(writer)

    async with Hostile(good("DATA"), dies) as server:
        one = ProxyFilter(settings(server.port), 1)
        with pytest.raises(Unavailable):
            await handed(one)
        assert len(said) == 1
        one.health.close()


async def test_a_filter_that_reads_no_more_of_the_body(said: list[dict[str, Any]]) -> None:
    """Its buffer is full: the deadline of the step counts, and what was sent has no end."""
    heard = asyncio.get_running_loop().create_future()

    async def reads_on_when_it_is_over(well: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await well.read(reader, writer)
        writer.write(STEPS["DATA"])
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while not said:
            await asyncio.sleep(0.01)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        try:
            heard.set_result((await reader.read(-1)).endswith(b"\r\n.\r\n"))
        except ConnectionResetError:
            heard.set_result(False)

    async with Hostile(good("DATA"), reads_on_when_it_is_over) as server:
        one = ProxyFilter(settings(server.port, timeout=0.4), 1)
        with pytest.raises(Unavailable, match="timed out while sending message body"):
            await one.send(message(), pieces(100 * 1024 * CONTENT, 1 << 16), "4F00")
        assert not await heard
        one.health.close()


@pytest.mark.parametrize("reply", [b"220 hello\r\n", b"354 more\r\n", b"199 what\r\n", b"621 no\r\n"])
async def test_only_the_word_of_the_protocol_is_consent(reply: bytes) -> None:
    peer = await Peer(end=reply).start()
    one = ProxyFilter(settings(peer.port), 1)
    with pytest.raises(Unavailable):
        await handed(one)
    one.health.close()
    await peer.stop()


# ---------------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    ("says", "kinds"),
    [
        ({"end": b"554 5.7.1 virus\r\n"}, ["failed", "failed"]),
        ({"end": b"451 4.7.1 later\r\n"}, ["deferred", "deferred"]),
        ({"mail": b"550 5.7.1 not you\r\n"}, ["failed", "failed"]),
        ({"rcpt": [b"550 5.1.1 nobody\r\n", b"250 ok\r\n"]}, ["failed", "delivered"]),
        ({"rcpt": [b"500 5.5.2 what\r\n", b"250 ok\r\n"]}, ["failed", "delivered"]),
        ({"rcpt": [b"250 ok\r\n", b"450 4.2.0 full\r\n"]}, ["deferred", "deferred"]),
        ({"data": b"554 5.7.1 no\r\n"}, ["failed", "failed"]),
    ],
)
async def test_its_answers_are_those_of_the_recipients(says: dict[str, Any], kinds: list[str]) -> None:
    peer = await Peer("PIPELINING", **says).start()
    one = ProxyFilter(settings(peer.port), 1)
    results = await one.send(message("a@example.com", "b@example.com"), pieces(), "4F00")
    assert [result.kind for result in results] == kinds
    assert peer.bodies == ([CONTENT] if "delivered" in kinds or "end" in says else [])
    assert one.health.facts()["state"] == "well" and not one.health.degraded
    await peer.stop()


@pytest.mark.parametrize(
    "says",
    [
        {"greeting": b"554 no\r\n"},
        {"ehlo": b"421 busy\r\n"},
        {"mail": b"503 5.5.1 EHLO?\r\n"},
        {"rcpt": b"500 what\r\n"},
        {"end": b"554 5.5.2 huh\r\n"},
        {"end": b"421 bye\r\n"},
    ],
)
async def test_one_that_lost_the_thread_refuses_nothing(says: dict[str, Any], said: list[dict[str, Any]]) -> None:
    peer = await Peer(**says).start()
    one = ProxyFilter(settings(peer.port), 1)
    with pytest.raises(Unavailable):
        await handed(one)
    assert len(said) == 1 and one.health.degraded
    one.health.close()
    await peer.stop()


@pytest.mark.parametrize("reply", [b"501 5.5.4 Bad HELO syntax\r\n", b"450 4.3.0 later\r\n", b"354 go on\r\n"])
@pytest.mark.parametrize("pipelining", [["PIPELINING"], []])
async def test_one_that_refuses_to_hear_whose_mail_it_is_gets_none(
    pipelining: list[str], reply: bytes, said: list[dict[str, Any]]
) -> None:
    """As in Postfix: it would take the client for us, and look at less."""
    peer = await Peer(*pipelining, "XFORWARD NAME ADDR HELO", xforward=reply).start()
    one = ProxyFilter(settings(peer.port), 1)
    with pytest.raises(Unavailable, match="at XFORWARD"):
        await handed(one)
    assert said[0]["step"] == "XFORWARD" and reply.decode().strip() in said[0]["why"]
    assert "DATA" not in peer.commands and not peer.bodies and one.health.degraded
    one.health.close()
    await peer.stop()


async def test_the_dialogue_is_that_of_postfix() -> None:
    """Our name, XFORWARD where it is offered, DATA although BDAT is offered, no TLS, one message a connection, QUIT."""
    peer = await Peer("PIPELINING", "CHUNKING", "STARTTLS", "8BITMIME", "DSN", "SIZE", "XFORWARD NAME ADDR IDENT").start()
    one = ProxyFilter(settings(peer.port, ehlo="gw.example.com"), 1)
    for _ in range(2):
        await one.send(message(size=500, body="8BITMIME", ret="HDRS", envid="x"), pieces(), "4F00")
    while peer.open:
        await asyncio.sleep(0.01)
    assert peer.sessions == 2 and peer.bodies == [CONTENT, CONTENT]
    assert peer.commands[: len(peer.commands) // 2] == [
        "EHLO gw.example.com",
        "XFORWARD NAME=client.example.org ADDR=192.0.2.1 IDENT=4F00",
        "MAIL FROM:<s@example.org> SIZE=500 BODY=8BITMIME RET=HDRS ENVID=x",
        "RCPT TO:<a@example.com>",
        "DATA",
        "QUIT",
    ]
    await peer.stop()


async def test_it_may_be_on_a_unix_socket(tmp_path: Any) -> None:
    peer = await Peer().start(tmp_path / "filter")
    one = ProxyFilter(Settings("x", (Place(path=str(tmp_path / "filter")),), "mx", 1, 10.0, 10.0), 1)
    assert (await handed(one))[0].kind == "delivered"
    await peer.stop()


async def test_the_next_place_is_tried_where_one_is_not_reached() -> None:
    peer = await Peer().start()
    away = Hostile(good("greeting"), None)
    one = ProxyFilter(settings(away.port, peer.port), 1)
    assert (await handed(one))[0].kind == "delivered" and one.health.facts()["state"] == "well"
    await peer.stop()


# ---------------------------------------------------------------------- places and time


async def test_no_more_messages_at_once_than_it_takes() -> None:
    peer = Peer()
    peer.hold = asyncio.Event()
    await peer.start()
    one = ProxyFilter(settings(peer.port, timeout=5.0, total_timeout=5.0), 2)
    tasks = [asyncio.create_task(handed(one)) for _ in range(6)]
    while len(peer.bodies) < 2:
        await asyncio.sleep(0.01)
    assert peer.open == 2 and one.health.connections == 2
    peer.hold.set()
    await asyncio.gather(*tasks)
    assert peer.most_open == 2 and len(peer.bodies) == 6
    await peer.stop()


@pytest.mark.parametrize(("concurrency", "workers", "share"), [(20, 4, 5), (2, 4, 1), (5, 0, 5), (7, 2, 3)])
async def test_workers_share_what_it_takes(concurrency: int, workers: int, share: int) -> None:
    filters = ProxyFilters(workers)
    one = filters.of(settings(1, concurrency=concurrency))
    assert one._places._value == share
    assert filters.of(settings(1, concurrency=concurrency)) is one


async def test_who_waits_for_a_place_waits_as_long_as_all_may_take(said: list[dict[str, Any]]) -> None:
    """And it says nothing against the filter, however often."""
    peer = Peer()
    peer.hold = asyncio.Event()
    await peer.start()
    one = ProxyFilter(settings(peer.port, timeout=30.0, total_timeout=30.0), 1)
    first = asyncio.create_task(handed(one))
    while not peer.bodies:
        await asyncio.sleep(0.01)
    one.settings = settings(peer.port, total_timeout=0.1)
    late = await asyncio.gather(*(handed(one, f"4F0{n}") for n in range(8)), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in late)
    assert {line["step"] for line in said} == {"waiting for a free place"} and not one.health.breaker.is_open
    assert not isinstance(one.health.degraded, str) and one.health.degraded["touched"] == 8
    peer.hold.set()
    assert (await first)[0].kind == "delivered" and not one.health.degraded
    one.health.close()
    await peer.stop()


async def test_nothing_extends_the_time_for_all(said: list[dict[str, Any]]) -> None:
    """Each step is quick enough; all of them together are not."""

    async def dawdles(well: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STEPS["greeting"])
        while await reader.readline():
            await asyncio.sleep(0.5)
            writer.write(b"250 ok\r\n")

    async with Hostile(good("."), dawdles) as server:
        one = ProxyFilter(settings(server.port, total_timeout=3.0), 1)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="no answer in time, at "):
            await one.send(message(*(f"{n}@example.com" for n in range(20))), pieces(), "4F00")
        assert 2.9 < asyncio.get_running_loop().time() - began < 9
        assert len(said) == 1 and one._places._value == 1
        one.health.close()


async def test_one_that_keeps_failing_is_left_alone_and_looked_at(
    said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faring, "FIRST", 30.0)
    peer = await Peer(greeting=SILENT).start()
    one = ProxyFilter(settings(peer.port, timeout=0.05), 1)
    one.health.breaker._first = 0.1
    for n in range(breaker.THRESHOLD):
        with pytest.raises(Unavailable):
            await handed(one, f"4F1{n}")
    sessions = peer.sessions
    for n in range(3):
        with pytest.raises(Unavailable, match="left alone for a while") as left:
            await handed(one, f"4F2{n}")
        assert str(left.value).count("left alone") == 1
    assert "left alone" not in one.health.degraded["why"]
    assert peer.sessions == sessions  # it was not asked
    assert not await one.health.answers()
    peer.says["GREETING"] = b"220 back\r\n"
    while one.health.degraded:
        await asyncio.sleep(0.01)
    assert said[-1] == {"text": "proxy filter well again", "proxy_filter": "scan", "transactions_touched": 8}
    assert (await handed(one))[0].kind == "delivered" and len(peer.bodies) == 1
    one.health.close()
    await peer.stop()


async def test_other_settings_are_another_filter() -> None:
    filters = ProxyFilters(1)
    first = filters.of(settings(1))
    filters.follow([settings(1), settings(2, name="other")])
    assert filters.of(settings(1)) is first and set(filters.health()) == {"scan", "other", "degraded"}
    filters.follow([settings(1, timeout=7.0)])
    assert filters.of(settings(1, timeout=7.0)) is not first and set(filters.health()) == {"scan", "degraded"}


# ---------------------------------------------------------------------- content


class Gone(Exception):
    pass


def breaks(error: Exception) -> Callable[[], Iterator[bytes]]:
    def content() -> Iterator[bytes]:
        yield CONTENT
        raise error

    return content


@pytest.mark.parametrize("error", [Gone(), OSError(5, "Input/output error")])
async def test_content_that_breaks_off_is_never_ended(error: Exception, said: list[dict[str, Any]]) -> None:
    """That is none of the filter's fault."""
    peer = await Peer().start()
    one = ProxyFilter(settings(peer.port), 1)
    with pytest.raises(type(error)):
        await one.send(message(), breaks(error)(), "4F00")
    while peer.open:
        await asyncio.sleep(0.01)
    assert not peer.bodies and not said and not one.health.degraded and one._places._value == 1
    await peer.stop()


async def test_one_that_hangs_keeps_no_other_waiting() -> None:
    async with Hostile(good("MAIL"), FAULTS["hangs_behind_the_question"]) as bad, Hostile(good(".")) as well:
        filters = ProxyFilters(1)
        slow, quick = filters.of(settings(bad.port, timeout=2.0)), filters.of(settings(well.port, name="well"))
        waiting = asyncio.create_task(handed(slow))
        assert (await handed(quick))[0].kind == "delivered"
        assert not waiting.done()
        with pytest.raises(Unavailable):
            await waiting
        filters.close()
