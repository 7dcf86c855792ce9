"""Every fault of threats part 4, at every step of a milter's session: the default in bounded time, one line in the log,
nothing is left behind, and the next message is well when the milter is."""

import asyncio
import gc
import os
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.connectors import milter_health, milter_wire
from appliance.connectors.milter import Link
from appliance.connectors.milters import Milters
from appliance.daemons.fronts.content import RamContent
from appliance.mail.milter import Milter
from appliance.mail.policy_service import Place
from tests.connectors.test_milter_client import MAIL, at, to, whole_session
from tests.peers.good_milter import STEPS, good
from tests.peers.hostile import FAULTS, Act, Hostile, Question, Reader, Writer, reset, trickles
from tests.peers.milter_server import MilterServer, packed

TIMES = ("connect_timeout", "command_timeout", "content_timeout")
#: For one that hangs. Who answers has longer than a busy machine stands still.
QUICK = dict.fromkeys(TIMES, 0.4) | {"total_timeout": 1.0}


def milter(port: int, **more: Any) -> Milter:
    timeouts = dict.fromkeys((*TIMES, "total_timeout"), 10.0)
    return Milter(**({"name": "m", "place": Place(host="127.0.0.1", port=port)} | timeouts | more))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    class Log:
        def error(self, text: str, **more: Any) -> None:
            lines.append({"text": text} | more)

        def warning(self, text: str, **more: Any) -> None:
            return None

    monkeypatch.setattr(milter_health, "log", Log())
    return lines


async def played(link: Link) -> list[str]:
    return [(await link.ask(ctx, ())).word for ctx in whole_session()]


def settled() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())


#: These happen before any step, and are tried there.
AT_ONCE = {"hangs_at_once", "hangs_up_early", "dies_in_the_body", "refuses", "absent"}
HANGS = {"hangs_at_once", "dies_in_the_body", "hangs_behind_the_question", "hangs_in_its_answer", "endless", "too_late"}
CASES = [(fault, step) for fault in FAULTS for step in STEPS if step == "negotiation" or fault not in AT_ONCE]


#: Every header field is asked about; behind the body there is one event more.
NEXT = dict(zip(STEPS, (*STEPS[1:], ""), strict=True)) | {"header": "header"}
STEPS_OF_THE_SESSION = (*STEPS[:6], *["header"] * 5, *STEPS[7:])


@pytest.mark.parametrize(("fault", "step"), CASES)
async def test_each_fault_at_each_step(fault: str, step: str, said: list[dict[str, Any]]) -> None:
    clock = asyncio.get_running_loop().time
    async with Hostile(good(step), FAULTS[fault]) as server:
        milters = Milters("mx.example.com", 1 << 20)
        one = milter(server.port, **(QUICK if fault in HANGS else {}))
        milters.follow((one,), "mx.example.com", 1 << 20)
        link = milters.link(one)
        before = settled()
        began = clock()
        words = await played(link)
        assert clock() - began < 8
        assert words[-1] == "failed"
        (line,) = said
        assert line["text"] == "milter failed" and line["milter"] == "m" and line["transaction"] == "4F00"
        assert float(line["seconds"]) <= 5 and line["why"]
        named = "connecting" if fault == "absent" else step
        assert line["step"] == named or fault == "two_answers"  # the second may come with the next question
        facts = milters.health()
        assert "4F00" in facts["degraded"][0]["last"] and facts["m"]["failed"] == 1
        link.close()
        milters.close()
        await server.be(None)
    del link
    await asyncio.sleep(0)
    assert milters.health()["m"]["connections"] == 0
    assert settled()[0] <= before[0]


@pytest.mark.parametrize("step", STEPS)
async def test_an_answer_octet_by_octet_is_an_answer(step: str, said: list[dict[str, Any]]) -> None:
    """From this event on every answer comes so; the milter hangs up behind the one at which it is a question."""

    async with Hostile(good(step), trickles) as server:
        link = Milters("mx", 1 << 20).link(milter(server.port))
        words = await played(link)
        if step == "END-OF-MESSAGE":
            assert set(words) == {"continue"} and not said
        else:
            assert words[-1] == "failed"
            assert said[0]["step"] == NEXT[step], "the answer itself was one"
        link.close()


async def test_a_whole_session_octet_by_octet(said: list[dict[str, Any]]) -> None:
    """Every step in turn, over one connection."""
    heard: list[str] = []

    async def trickles_on(_question: Question, reader: Reader, writer: Writer) -> None:
        for step in STEPS_OF_THE_SESSION:
            await trickles(good(step), reader, writer)
            heard.append(step)
        await reader.read()

    async with Hostile(good("negotiation"), trickles_on) as server:
        link = Milters("mx", 1 << 20).link(milter(server.port))
        assert set(await played(link)) == {"continue"} and not said
        assert heard == list(STEPS_OF_THE_SESSION) and server.connections == 1
        link.close()


@pytest.mark.parametrize("octets", [1, 300, 40000])
async def test_a_milter_that_dies_in_the_middle_of_the_body(octets: int, said: list[dict[str, Any]]) -> None:
    """It took the first of many chunks and said nothing against it; it is killed inside the next one."""
    reached: list[int] = []

    async def dies(question: Question, reader: Reader, writer: Writer) -> None:
        await question.read(reader, writer)
        writer.write(question.answer)
        reached.append(len(await reader.readexactly(octets)))
        reset(writer)

    async with Hostile(good("body"), dies, limit=4096) as server:
        milters = Milters("mx", 1 << 24)
        times = {"command_timeout": 5.0, "content_timeout": 5.0, "total_timeout": 5.0}
        link = milters.link(milter(server.port, **times))
        clock = asyncio.get_running_loop().time
        began = clock()
        words = [(await link.ask(ctx, ())).word for ctx in whole_session()[:-1]]
        assert set(words) == {"continue"}
        content = RamContent(MAIL + b"a line of the body\r\n" * 700_000)
        assert (await link.ask(at("message", content=content), ())).word == "failed"
        assert clock() - began < 4.0 and reached == [octets]
        (line,) = said
        assert line["step"] == "body" and line["why"], line
        link.close()


async def test_the_time_of_a_transaction_is_that_of_all_its_steps(said: list[dict[str, Any]]) -> None:
    """Each step is answered well within its own time."""

    async def slow(_: Question, reader: Reader, writer: Writer) -> None:
        while size := int.from_bytes(await reader.readexactly(4), "big"):
            letter = (await reader.readexactly(size))[:1]
            if letter == b"O":
                writer.write(packed([(b"O", struct.pack(">III", 6, 0x1FF, 0))]))
            elif letter not in b"DAQ":
                await asyncio.sleep(0.8)
                writer.write(packed([(b"c", b"")]))

    async with Hostile(good("MAIL"), slow) as server:
        link = Milters("mx", 1 << 20).link(milter(server.port, total_timeout=3.0))
        clock = asyncio.get_running_loop().time
        began = clock()
        words = await played(link)
        assert words[:2] == ["continue"] * 2 and words[-1] == "failed" and clock() - began < 8
        (line,) = said
        assert line["why"] == "no answer in time" and float(line["seconds"]) < 2.9, "of its step alone"
        link.reset()
        assert (await link.ask(at("mail"), ())).word == "continue", "the next one has its own time"
        link.close()


async def test_a_field_that_is_too_long_for_it_is_named(said: list[dict[str, Any]]) -> None:
    """As libmilter does: it hangs up."""
    async with MilterServer({b"L": lambda data: None if len(data) > 65535 else [(b"c", b"")]}) as server:
        link = Milters("mx", 1 << 20).link(milter(server.port, content_timeout=5.0, total_timeout=5.0))
        for octets, word in ((65_400, "continue"), (70_000, "failed"), (10, "continue")):
            content = RamContent(b"Received: x\r\nX-Long: " + b"y" * octets + b"\r\n\r\nbody\r\n")
            assert (await link.ask(at("message", content=content), ())).word == word
            link.reset()
        (line,) = said
        assert line["step"] == "header" and "a header field has 70007 octets (libmilter takes 65535)" in line["why"]
        link.close()


async def test_the_next_message_is_well_when_the_milter_is(said: list[dict[str, Any]]) -> None:
    async with MilterServer({b"M": []}) as server:
        link = Milters("mx", 1 << 20).link(milter(server.port, command_timeout=1.0))
        assert await played(link) == ["continue"] * 2 + ["failed"] * 4 and len(said) == 1
        server.says = {}
        link.reset()
        words = [(await link.ask(ctx, ())).word for ctx in whole_session()[2:]]
        assert words == ["continue"] * 4 and len(server.heard) == 2
        assert server.letters() == b"OCHMRTLLLLLNBE"  # the new connection heard of the whole session
        link.close()


async def test_one_that_hung_up_between_two_messages_is_no_failure(said: list[dict[str, Any]]) -> None:
    async with MilterServer() as server:
        link = Milters("mx", 1 << 20).link(milter(server.port))
        await played(link)
        link.reset()
        await server.__aexit__()
        await server.closed.wait()
        await server.__aenter__()
        for _ in range(100):  # the end of the connection comes over the loop
            await asyncio.sleep(0)
        assert [(await link.ask(ctx, ())).word for ctx in whole_session()[2:]] == ["continue"] * 4
        assert not said
        link.close()


async def test_one_that_keeps_failing_costs_no_time(said: list[dict[str, Any]]) -> None:
    async with Hostile(good("negotiation"), FAULTS["hangs_at_once"]) as server:
        milters = Milters("mx", 1 << 20)
        one = milter(server.port, **QUICK)
        milters.follow([one], "mx", 1 << 20)
        clock = asyncio.get_running_loop().time
        for number in range(5):
            link = milters.link(one)
            await link.ask(at("connect", transaction=f"T{number}"), ())
            link.close()
        began = clock()
        for number in range(5, 8):
            link = milters.link(one)
            assert (await link.ask(at("connect", transaction=f"T{number}"), ())).word == "failed"
            link.close()
        assert clock() - began < 1.0, "each would have hung for 0.4 s"
        assert said[-1]["why"].count("left alone") == 1, said[-1]
        [why] = milters.health()["degraded"]
        assert "left alone" not in why["why"] and why["touched"] == 8
        milters.close()


async def test_a_discard_of_a_connection_is_put_up_with_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    log = SimpleNamespace(error=None, warning=lambda text, **more: lines.append({"text": text} | more))
    monkeypatch.setattr(milter_health, "log", log)
    async with MilterServer({b"C": [(b"d", b"")]}) as server:
        milters = Milters("mx", 1 << 20)
        assert await played(milters.link(milter(server.port))) == ["continue"] * 6
        milters.close()
    what = "DISCARD in answer to CONNECT means nothing"
    assert lines == [{"text": "milter says what means nothing", "milter": "m", "what": what}]


async def test_a_cancelled_question_leaves_no_connection(said: list[dict[str, Any]]) -> None:
    async with MilterServer({b"R": []}) as server:
        milters = Milters("mx", 1 << 20)
        link = milters.link(milter(server.port, command_timeout=60.0, total_timeout=60.0))
        for ctx in (at("connect"), at("helo"), at("mail")):
            await link.ask(ctx, ())
        asking = asyncio.ensure_future(link.ask(at("rcpt", recipient=to("r@example.com")), ()))
        while b"R" not in server.letters():
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.closed.wait()
        server.says = {}
        assert (await link.ask(at("rcpt", recipient=to("r@example.com")), ())).word == "continue"
        link.close()
        assert not said


async def test_closing_wakes_who_waits_and_is_no_failure(said: list[dict[str, Any]]) -> None:
    async with MilterServer({b"C": []}) as server:
        link = Milters("mx", 1 << 20).link(milter(server.port, command_timeout=60.0, total_timeout=60.0))
        asking = asyncio.ensure_future(link.ask(at("connect"), ()))
        while not server.heard or b"C" not in server.letters():
            await asyncio.sleep(0)
        link.close()
        assert (await asking).word == "failed" and not said
        await server.closed.wait()


async def test_others_do_not_notice(said: list[dict[str, Any]]) -> None:
    hangs: Act | None = FAULTS["hangs_behind_the_question"]
    async with Hostile(good("MAIL"), hangs) as bad, MilterServer() as well:
        milters = Milters("mx", 1 << 20)
        late = {"command_timeout": 2.0, "content_timeout": 2.0, "total_timeout": 3.0}
        first = milters.link(milter(bad.port, **late))
        second = milters.link(milter(well.port, name="w"))
        clock = asyncio.get_running_loop().time

        async def quick() -> float:
            began = clock()
            assert (await played(second))[-1] == "continue"
            return clock() - began

        slow, took = await asyncio.gather(played(first), quick())
        assert slow[-1] == "failed" and took < 1.9
        first.close()
        second.close()


class _Transport:
    """As far as a wire knows one."""

    def __init__(self) -> None:
        self.paused, self.written = False, b""

    def write(self, octets: bytes) -> None:
        self.written += octets

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def test_what_a_milter_says_without_end_waits_until_it_is_heard() -> None:
    wire, transport = milter_wire.Wire(), _Transport()
    wire.connection_made(cast(asyncio.BaseTransport, transport))
    wire.data_received(b"x" * milter_wire.MOST)
    assert not transport.paused
    wire.data_received(b"y")
    assert transport.paused and wire.unasked
    assert len(await wire.hear()) == milter_wire.MOST + 1
    assert not transport.paused and not wire.unasked


@pytest.mark.parametrize("lost", [False, True])
async def test_a_milter_that_reads_slowly_is_waited_for_unless_it_is_gone(lost: bool) -> None:
    wire, transport = milter_wire.Wire(), _Transport()
    wire.connection_made(cast(asyncio.BaseTransport, transport))
    wire.pause_writing()
    sending = asyncio.create_task(wire.send(b"body"))
    await asyncio.sleep(0)
    assert not sending.done() and transport.written == b"body"
    wire.connection_lost(None) if lost else wire.resume_writing()
    await asyncio.wait_for(sending, 5.0)
    if lost:
        with pytest.raises(ConnectionError, match="it hung up"):
            await wire.hear()
        with pytest.raises(ConnectionError, match="it hung up"):
            await wire.send(b"more")
