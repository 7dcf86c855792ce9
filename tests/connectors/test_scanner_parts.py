"""What a scanner is offered besides the message (C1), and what it need not be asked twice."""

import asyncio
from collections.abc import Callable

import pytest

from appliance.connectors import parts, remembered
from appliance.connectors.checkup import Checkup
from appliance.connectors.remembered import Remembered
from appliance.mail.inspection import Inspection, Part, Report
from appliance.mail.scan import ScanResult
from tests.connectors.scanner_peer import (
    FOUND,
    MAIL,
    Act,
    Message,
    Peer,
    context,
    hangs,
    make,
    says,
    says_when_told,
    whole_stream,
)
from tests.peers.good_scanners import CLEAN, HAM

ANY = 1 << 30


def inspection(*bodies: bytes, over: str = "", flags: tuple[str, ...] = ()) -> Inspection:
    """A message with these parts."""
    listed, octets = [], b""
    for number, body in enumerate(bodies, 1):
        listed.append(Part(f"1.{number}", size=len(body), body=(len(octets), len(body)), flags=flags))
        octets += body
    return Inspection(Report(count=len(listed), parts=tuple(listed), over=over), octets)


async def finds_bad(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    content = await whole_stream(reader)
    peer.heard.append(content)
    writer.write(FOUND if b"bad" in content else CLEAN)


async def test_c1_each_part_is_offered_on_its_own_and_the_find_names_it() -> None:
    large = b"x" * 300_000 + b"bad"
    async with Peer(finds_bad) as peer:
        made = make(peer.server)
        found = await made.scan_parts(inspection(b"good", b"bad 1", b"fine", large, b"", b"more"), context(), 100, ANY)
    assert sorted(peer.heard) == sorted([b"good", b"bad 1", b"fine", large, b"more"])
    bad = [result for result in found if result.kind == "infected"]
    assert [result.evidence["part"] for result in bad] == ["1.2", "1.4"]
    assert bad[0].why == "Eicar-Test-Signature in part '1.2'" and bad[0].names == ("Eicar-Test-Signature",)
    assert found[-1].kind == "clean" and found[-1].evidence == {"parts": 3}


async def test_c1_what_is_not_offered_is_not_clean() -> None:
    async with Peer(finds_bad) as peer:
        made = make(peer.server)
        [clean, left] = await made.scan_parts(inspection(b"a", b"b", b"c" * 99, b"d"), context(), 2, ANY)
        assert (clean.evidence, left.kind, left.why) == ({"parts": 2}, "skipped", "not offered: 2 parts over the limits")
        [clean, left] = await made.scan_parts(inspection(b"a", b"b", b"c" * 99, b"d"), context(), 9, 50)
        assert (clean.evidence, left.why) == ({"parts": 3}, "not offered: 1 parts over the limits")
        [_, left] = await made.scan_parts(inspection(b"a", over="depth"), context(), 9, 50)
        assert "over the limit of depth" in left.why
        [_, left] = await made.scan_parts(inspection(b"a", flags=("cut",)), context(), 9, 50)
        assert "not decoded to their end" in left.why


async def test_c1_what_readers_disagree_about_comes_first() -> None:
    listed = (
        Part("1", body=(0, 1)),
        Part("2", body=(1, 1), flags=("alternate",)),
        Part("3", body=(2, 1), flags=("attachment",)),
    )
    assert [part.path for part in parts.choose(Report(parts=listed), 2, ANY).parts] == ["2", "3"]


async def test_parts_of_a_scanner_that_is_away_are_an_error() -> None:
    async with Peer(hangs) as peer:
        made = make(peer.server, timeout=0.2)
        found = await made.scan_parts(inspection(*(b"%d" % n for n in range(40))), context(), 100, ANY)
    assert {result.kind for result in found} == {"error"} and len(found) <= 20
    assert peer.connections <= 8, "nobody goes on to ask who does not answer"


async def test_c1_a_find_among_many_that_are_something_else_is_not_lost() -> None:
    """Large parts, or such as have a name that the operator ignores, are cheap to write."""

    async def finds(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content = await whole_stream(reader)
        name = b"Eicar-Test-Signature" if content == b"bad" else b"PUA.Odd"
        writer.write(b"stream: " + name + b" FOUND\0")

    async with Peer(finds) as peer:
        odd = [b"odd %d" % n for n in range(40)]
        found = await make(peer.server).scan_parts(inspection(*odd, b"bad", *odd[:5]), context(), 100, ANY)
        assert [result.evidence["part"] for result in found if "Eicar-Test-Signature" in result.names] == ["1.41"]
        assert len(found) <= 21, "the others are told up to a number"
        large = [b"x" * 11 + odd for odd in odd]
        found = await make(peer.server, size_limit=10).scan_parts(inspection(*large, b"bad"), context(), 100, ANY)
    assert {result.kind for result in found} == {"oversize", "infected"}


async def test_a_part_over_the_limit_of_the_scanner_is_oversize() -> None:
    async with Peer(finds_bad) as peer:
        made = make(peer.server, size_limit=10)
        [large, clean] = await made.scan_parts(inspection(b"x" * 11, b"small"), context(), 9, ANY)
    assert (large.kind, clean.kind) == ("oversize", "clean")
    assert large.evidence == {"part": "1.1"}


async def test_a_name_in_a_path_is_quoted() -> None:
    part = Part("1!a\n\x1b[31m.exe", body=(0, 3))
    async with Peer(finds_bad) as peer:
        [found] = await make(peer.server).scan_parts(Inspection(Report(parts=(part,)), b"bad"), context(), 9, ANY)
    assert "\n" not in found.why and "\x1b" not in found.why


@pytest.mark.parametrize("answer", [CLEAN, FOUND])
async def test_what_was_scanned_a_moment_ago_is_not_asked_again(answer: bytes) -> None:
    again = MAIL.replace(b"from a by b", b"from a by b id 2")
    async with Peer(says(answer)) as peer:
        made = make(peer.server)
        first = await made.scan(Message(), context("T1"))
        second = await made.scan(Message(again), context("T2"))
        assert peer.connections == 1 and made.facts()["known already"] == 1
        assert (second.kind, second.names) == (first.kind, first.names)
        await made.scan(Message(MAIL + b"other"), context("T3"))
        await made.scan_parts(inspection(MAIL), context("T4"), 9, ANY)
        assert peer.connections == 3, "a part is not read as mail: its answer is another one"


async def test_an_answer_is_known_while_its_time_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    async with Peer(says(CLEAN)) as peer:
        made = make(peer.server)
        made._known = Remembered(300, clock=lambda: now[0])
        for seconds, asked in ((0, 1), (299.9, 1), (300, 2), (599, 2)):
            now[0] = seconds
            await made.scan(Message(), context())
            assert peer.connections == asked
        never = make(peer.server, remember=0.0)
        await never.scan(Message(), context())
        await never.scan(Message(), context())
        assert peer.connections == 4
    monkeypatch.setattr(remembered, "MOST", 3)
    known = Remembered(300)
    for number in range(9):
        known.put(number, ScanResult(kind="clean", scanner="av"))
    assert len(known) == 3


async def test_what_was_not_scanned_is_not_remembered() -> None:
    async with Peer(says(b"stream: Can't allocate memory ERROR\0")) as peer:
        made = make(peer.server)
        for _ in range(2):
            assert (await made.scan(Message(), context())).kind == "error"
        assert peer.connections == 2
        peer.act = says(b"INSTREAM size limit exceeded. ERROR\0")
        for _ in range(2):
            assert (await made.scan(Message(), context())).kind == "oversize"
        assert peer.connections == 4


async def test_a_score_is_known_for_the_same_sender_only() -> None:
    async def spamd(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(HAM)

    async with Peer(spamd) as peer:
        made = make(peer.server, kind="spamd")
        for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
            await made.scan(Message(), context(client=client))
    assert peer.connections == 2


def with_signatures(version: list[bytes]) -> Act:
    """A clamd that says the version which stands there now, and that all is clean: of what is slow when it may go on."""

    async def clamd(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await reader.readuntil(b"\0")
        if command == b"zVERSION\0":
            writer.write(version[0] + b"\0")
            return
        data = b""
        while length := int.from_bytes(await reader.readexactly(4), "big"):
            data += await reader.readexactly(length)
        peer.heard.append(data)
        if b"slow" in data:
            await peer.go.wait()
        writer.write(CLEAN)

    return clamd


async def test_new_signatures_end_what_is_known() -> None:
    version = [b"ClamAV 1.4.1/27500/Mon"]

    async with Peer(with_signatures(version)) as peer:
        made = make(peer.server)
        await made.scan(Message(), context())
        await made.learn_versions()
        for signatures, asked in ((version[0], 2), (version[0], 2), (b"ClamAV 1.4.1/27501/Tue", 3)):
            version[0] = signatures
            await made.learn_versions()
            await made.scan(Message(), context())
            assert len(peer.heard) == asked


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_what_the_old_signatures_said_meanwhile_is_not_known() -> None:
    version = [b"ClamAV 1.4.1/27500/Mon"]

    async with Peer(with_signatures(version)) as peer:
        made, slow = make(peer.server), Message(MAIL + b"slow\r\n")
        await made.scan(Message(), context())
        await made.learn_versions()
        before = asyncio.create_task(made.scan(slow, context()))
        await until(lambda: len(peer.heard) == 2)
        version[0] = b"ClamAV 1.4.1/27501/Tue"
        await made.scan(Message(MAIL + b"other\r\n"), context())
        await made.learn_versions()
        peer.go.set()
        assert (await before).kind == "clean"
        await made.scan(slow, context())
        assert sum(b"slow" in data for data in peer.heard) == 2


async def test_who_asks_behind_new_signatures_does_not_hear_what_the_old_ones_say() -> None:
    """The same content is being scanned still, since before them: that is not joined, and not known."""
    version = [b"ClamAV 1.4.1/27500/Mon"]

    async def clamd(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await reader.readuntil(b"\0")
        if command == b"zVERSION\0":
            writer.write(version[0] + b"\0")
            return
        said = FOUND if b"27501" in version[0] else CLEAN
        data = b""
        while length := int.from_bytes(await reader.readexactly(4), "big"):
            data += await reader.readexactly(length)
        peer.heard.append(data)
        if b"slow" in data and said == CLEAN:
            await peer.go.wait()
        writer.write(said)

    async with Peer(clamd) as peer:
        made, slow = make(peer.server), Message(MAIL + b"slow\r\n")
        await made.scan(Message(), context())
        await made.learn_versions()
        before = asyncio.create_task(made.scan(slow, context()))
        await until(lambda: len(peer.heard) == 2)
        await made.scan(Message(MAIL + b"other\r\n"), context())
        version[0] = b"ClamAV 1.4.1/27501/Tue"
        await made.learn_versions()
        behind = asyncio.create_task(made.scan(slow, context()))
        await until(lambda: len(peer.heard) == 4 or bool(made._joining.joined))
        peer.go.set()
        assert (await before).kind == "clean"
        assert (await behind).kind == "infected"
        assert (await made.scan(slow, context())).kind == "infected"


async def test_the_self_test_asks_the_scanner_itself() -> None:
    async with Peer(says(FOUND)) as peer:
        test = Checkup(make(peer.server), 1000, eicar=True)
        await test._test()
        await test._test()
    assert peer.connections == 4


async def test_who_comes_again_meanwhile_joins() -> None:
    async with Peer(says_when_told(CLEAN)) as peer:
        made = make(peer.server)
        first = asyncio.create_task(made.scan_parts(inspection(b"logo", b"logo"), context(), 9, ANY))
        await peer.arrived.wait()
        peer.go.set()
        [clean] = await first
    assert clean.evidence == {"parts": 2} and peer.connections == 1
