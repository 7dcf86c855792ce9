"""Every fault of threats part 4 at every step of SMTP, for those whom we ask by it: an inner server or a filter behind
the queue (never delivered, never refused, in bounded time), and a server that is asked for recipients (never known,
never unknown). LMTP is the same client, but for its greeting and for one answer for each recipient behind the dot."""

import asyncio
import gc
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from appliance.connectors import probing
from appliance.connectors.callahead import Callahead
from appliance.connectors.probing import Door
from appliance.connectors.smtp import connect
from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.protocol.smtp.address import Address
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient, Result
from appliance.stores.callahead_cache import CallaheadCache
from tests.peers.good_smtp import GOOD, SMTP_FAULTS, STEPS, SmtpQuestion
from tests.peers.hostile import Hostile, Question, Reader, Writer, goes_on, trickles

CONTENT = [b"Subject: x\r\n\r\n", b"a line of the body\r\n" * 50]
QUICK = Timeouts.each(0.4)
#: For who answers, however long the machine stands still meanwhile.
PATIENT = Timeouts.each(10.0)
#: These happen before any step, and are tried there.
AT_ONCE = {"hangs_at_once", "hangs_up_early", "dies_in_the_body", "refuses", "absent"}
#: Two answers behind the dot: the first is one, and nothing is asked any more.
ANSWERED = {("two_answers", "DOT")}


def cases(steps: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(fault, step) for fault in SMTP_FAULTS for step in steps if step == "CONNECT" or fault not in AT_ONCE]


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def delivered(port: int, protocol: str = "smtp", timeouts: Timeouts = PATIENT) -> Result:
    """What became of one message, as delivery asks."""
    target = Target(host="localhost", address="127.0.0.1", port=port, lmtp=protocol == "lmtp")
    try:
        session = await connect(target, "gw.example.com", timeouts=timeouts)
    except ConnectFailed as error:
        return Result("deferred", 0, "", str(error), "")
    try:
        message = Outgoing("s@example.org", (OutgoingRecipient("a@example.com"),))
        (result,) = (await session.send(message, iter(CONTENT))).results
        return result
    finally:
        session.close()


#: LMTP is another protocol where it greets, and behind the dot.
OTHERWISE = ("EHLO", "DOT")


@pytest.mark.parametrize(
    ("fault", "step", "protocol"),
    [(*case, "smtp") for case in cases(STEPS)] + [(*case, "lmtp") for case in cases(STEPS) if case[1] in OTHERWISE],
)
async def test_d1_no_fault_of_a_next_hop_delivers_or_refuses(fault: str, step: str, protocol: str) -> None:
    before, loop = descriptors(), asyncio.get_running_loop()
    async with Hostile(lambda: SmtpQuestion(step), SMTP_FAULTS[fault]) as server:
        began = loop.time()
        result = await delivered(server.port, protocol, PATIENT if (fault, step) in ANSWERED else QUICK)
        assert loop.time() - began < 8
        assert result.kind == ("delivered" if (fault, step) in ANSWERED else "deferred"), result
        assert result.text, "the log says why"
        server.good = lambda: SmtpQuestion("")
        await server.be(None)
        await server.be(goes_on)
        assert (await delivered(server.port, protocol)).kind == "delivered", "it is back"
    for _ in range(100):
        await asyncio.sleep(0)
    assert descriptors() <= before + 1


@pytest.mark.parametrize("step", STEPS)
async def test_d1_one_octet_at_a_time_is_an_answer(step: str) -> None:
    """Behind it the peer hangs up, so only the last step leads to a delivery."""
    async with Hostile(lambda: SmtpQuestion(step), trickles) as server:
        assert (await delivered(server.port)).kind == ("delivered" if step == "DOT" else "deferred")


def knows(step: str, line: bytes) -> bytes:
    """Bob is here, nobody else is."""
    if step == "RCPT" and b"<bob@" not in line:
        return b"550 5.1.1 no such user\r\n"
    return GOOD.get(step, b"250 2.0.0 Ok\r\n")


@asynccontextmanager
async def asking(server: Hostile) -> AsyncIterator[Callahead]:
    target = Target(host="inner", address="127.0.0.1", port=server.port)

    async def doors(_domain: str) -> list[Door]:
        return [Door("smtp:[inner]:25", target)]

    ahead = Callahead(doors, CallaheadCache(None), hostname="mx.example.com", deadline=10.0)
    ahead._timeouts = Timeouts.each(0.9)
    try:
        yield ahead
    finally:
        await ahead.close()


@pytest.mark.parametrize(("fault", "step"), cases(STEPS[:4]))
async def test_d1_no_fault_makes_an_address_known_or_unknown(
    fault: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "REST", 0.0)
    lines: list[dict[str, str]] = []

    def keep(text: str, **more: str) -> None:
        lines.append({"text": text} | more)

    monkeypatch.setattr(probing, "log", SimpleNamespace(error=keep, warning=keep))
    before, loop = descriptors(), asyncio.get_running_loop()
    async with Hostile(lambda: SmtpQuestion(step, knows), SMTP_FAULTS[fault]) as server, asking(server) as ahead:
        began = loop.time()
        found = await asyncio.gather(*(ahead.probe(Address(who, "example.com", who)) for who in ("bob", "eve")))
        assert loop.time() - began < 8
        assert {probe.state for probe in found} == {"unverifiable"}, found
        (line,) = lines
        assert (line["text"], line["next_hop"]) == ("call-ahead fails", "smtp:[inner]:25")
        assert re.search(r"(connect to|while) .*, after \d\.\d s$", line["why"]), line
        assert all(probe.reply for probe in found)
        server.good, ahead._timeouts = (lambda: SmtpQuestion("", knows)), PATIENT
        await server.be(None)
        await server.be(goes_on)
        assert (await ahead.probe(Address("bob", "example.com", "bob@example.com"))).state == "known", "it is back"
        assert (await ahead.probe(Address("eve", "example.com", "eve@example.com"))).state == "unknown"
        assert [one["text"] for one in lines] == ["call-ahead fails", "call-ahead well again"]
    for _ in range(100):
        await asyncio.sleep(0)
    assert descriptors() <= before + 1


async def trickles_on(question: Question, reader: Reader, writer: Writer) -> None:
    while True:
        await trickles(question, reader, writer)


async def test_d1_one_octet_at_a_time_verifies() -> None:
    async with Hostile(lambda: SmtpQuestion("", knows), trickles_on) as server, asking(server) as ahead:
        ahead._timeouts = PATIENT
        found = [await ahead.probe(Address(who, "example.com", f"{who}@example.com")) for who in ("bob", "eve")]
        assert [probe.state for probe in found] == ["known", "unknown"]


async def test_d1_a_server_that_hangs_keeps_no_other_waiting() -> None:
    """Next hops and servers that are asked for recipients, each beside one that is well."""
    late, hangs = Timeouts.each(2.0), SMTP_FAULTS["hangs_behind_the_question"]
    bob = Address("bob", "example.com", "bob@example.com")
    async with (
        Hostile(lambda: SmtpQuestion("MAIL", knows), hangs) as bad,
        Hostile(lambda: SmtpQuestion("", knows), goes_on) as well,
        asking(bad) as slow,
        asking(well) as quick,
    ):
        slow._timeouts, quick._timeouts = late, PATIENT
        waiting = [asyncio.create_task(slow.probe(bob)), asyncio.create_task(delivered(bad.port, timeouts=late))]
        assert (await quick.probe(bob)).state == "known"
        well.good = lambda: SmtpQuestion("")
        assert (await delivered(well.port)).kind == "delivered"
        assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)
