"""Several servers of one scanner: what is asked while one hangs, and what counts of what they say (threats D1)."""

import asyncio

import pytest

from appliance.observe import oplog
from tests.connectors.scanner_peer import FOUND, MAIL, Message, Peer, context, hangs, make, says, says_when_told
from tests.connectors.test_scanner_faults import scanner_of
from tests.peers.good_scanners import CLEAN, KINDS
from tests.peers.hostile import Hostile
from tests.peers.icap import Service


async def test_who_hangs_is_named_once_and_hung_up_on(capfd: pytest.CaptureFixture[str]) -> None:
    async with Peer(hangs) as hung, Peer(says(CLEAN)) as well:
        scanner = make(hung.server, well.server, timeout=3.0)
        scans = (scanner.scan(Message(MAIL + b"%d" % number), context(f"T{number}")) for number in range(4))
        assert {found.kind for found in await asyncio.gather(*scans)} == {"clean"}
        async with asyncio.timeout(5):
            while hung.open:
                await asyncio.sleep(0.005)
    oplog.flush()
    said = [line for line in capfd.readouterr().err.splitlines() if "is asked last for a while" in line]
    assert len(said) == 1 and f"server={hung.server}" in said[0] and "nothing within 1.5 s" in said[0], said
    assert "waiting for the answer" in said[0] and scanner.condition.wrong == {}


async def test_one_message_tries_who_hung_when_its_rest_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    async with Peer(hangs) as hung, Peer(says(CLEAN)) as well:
        scanner = make(hung.server, well.server, timeout=3.0, remember=0.0)
        assert (await scanner.scan(Message(), context())).kind == "clean"
        for number in (2, 3):
            scanner._servers._resting[hung.server] = 0.0
            scans = (scanner.scan(Message(MAIL + b"%d" % one), context()) for one in range(4))
            took = sorted(found.seconds for found in await asyncio.gather(*scans))
            assert took[2] < 1.4 < took[3] < 2.9 and hung.connections == number, took
        hung.act = says(CLEAN)
        scanner._servers._resting[hung.server] = 0.0
        for _ in range(2):
            assert (await scanner.scan(Message(), context())).kind == "clean"
        assert hung.connections == 5, "the first one is the first again"
    oplog.flush()
    said = [line for line in capfd.readouterr().err.splitlines() if f"server={hung.server}" in line]
    assert ["is asked last" in line for line in said] == [True, False] and "answers again" in said[1], said


async def test_no_time_is_taken_from_content_that_is_slow_to_scan() -> None:
    """The first server goes on behind its share, and what it finds counts, though the other one hangs."""
    async with Peer(says_when_told(FOUND)) as slow, Peer(hangs) as other:
        scanner = make(slow.server, other.server, timeout=3.0)
        scan = asyncio.create_task(scanner.scan(Message(), context()))
        await other.arrived.wait()  # the share of the first one is over
        slow.go.set()
        found = await scan
        assert found.kind == "infected" and slow.connections == 1, found
        assert scanner._servers.order()[0] == slow.server, "who answered is well"


async def test_what_makes_no_sense_from_the_second_one_is_an_error() -> None:
    async with Peer(hangs) as hung, Peer(says(b"WHAT\0")) as odd:
        found = await make(hung.server, odd.server, timeout=3.0).scan(Message(), context())
    assert found.kind == "error" and found.seconds < 2.9 and str(odd.server) in found.why, found


async def test_three_servers_of_which_two_hang() -> None:
    async with Peer(hangs) as one, Peer(hangs) as two, Peer(says(FOUND)) as well:
        scanner = make(one.server, two.server, well.server, timeout=2.7)
        found = await scanner.scan(Message(), context())
        assert found.kind == "infected" and 1.5 < found.seconds < 2.6, found
        before = one.connections, two.connections
        assert (await scanner.scan(Message(MAIL + b"2"), context())).kind == "infected"
        assert (one.connections, two.connections) == before


async def test_who_goes_away_leaves_nobody_asked_and_nobody_blamed() -> None:
    async with Peer(hangs) as one, Peer(hangs) as two:
        scanner = make(one.server, two.server, timeout=3.0, concurrency=1)
        scan = asyncio.create_task(scanner.scan(Message(), context()))
        await two.arrived.wait()
        scan.cancel()
        async with asyncio.timeout(5):
            while one.open or two.open or len(scanner._joining):
                await asyncio.sleep(0.005)
        assert scanner.condition.wrong == {} and not scanner._slots.locked()


async def test_a_kept_connection_that_hangs() -> None:
    """It was good for the message before."""

    async def once(good: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await KINDS["rspamd"].good.read(reader, writer)
        writer.write(KINDS["rspamd"].good.answer)
        await asyncio.Event().wait()

    async with Hostile(KINDS["rspamd"].good, once) as hung, Hostile(KINDS["rspamd"].good) as well:
        scanner = scanner_of("rspamd", hung.port, well.port, timeout=3.0)
        for number in range(2):
            found = await scanner.scan(Message(MAIL + b"%d" % number), context())
            assert found.kind == "clean" and found.seconds < 2.9, found
        assert (hung.connections, well.connections) == (1, 1)
        scanner.close()


async def test_an_icap_service_that_says_nothing_about_the_preview() -> None:
    async def mute(service: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(Service(preview=10).said())
        await asyncio.Event().wait()

    async with Hostile(KINDS["icap"].good, mute) as hung, Service(preview=10) as well:
        scanner = scanner_of("icap", hung.port, well.port, timeout=3.0)
        found = await scanner.scan(Message(), context())
        assert found.kind == "clean" and 1.2 < found.seconds < 2.9 and well.contents == [MAIL], found
        scanner.close()
