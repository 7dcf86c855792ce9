"""The whole list of faults (threats D1 to D3, part 4) for each kind of scanner that is spoken to over a socket."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable

import pytest

from appliance.connectors import conversation
from appliance.connectors.conversation import Server
from appliance.connectors.scanner import Scanner, Settings
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.peers import hostile
from tests.peers.good_scanners import KINDS
from tests.peers.hostile import FAULTS, Hostile

DEADLINE = 0.4


def scanner_of(kind: str, *ports: int, timeout: float = DEADLINE, rest: float = 30.0) -> Scanner:
    servers = tuple(Server(host="127.0.0.1", port=port) for port in ports)
    return Scanner(Settings("x", kind, servers, timeout, options=KINDS[kind].options), rest=rest)


async def until(well: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await well():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "GRACE", 0.1)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_is_an_error_in_bounded_time_and_passes(kind: str, fault: str) -> None:
    """Nothing is invented, one line says who, where and how long, and who comes back is used again."""
    before = len(os.listdir("/proc/self/fd"))
    async with Hostile(KINDS[kind].good, FAULTS[fault]) as peer:
        scanner = scanner_of(kind, peer.port, rest=0.0)
        found = await scanner.scan(Message(MAIL + b"x" * 30000), context("T7"))
        assert found.kind == "error" and found.seconds < DEADLINE + 5.0, found
        assert str(peer.port) in found.why and re.search(r"\d\.\d s\)|within \d", found.why), found.why
        assert list(scanner.condition.wrong) == ["answers"] and scanner.condition.facts()["state"] == "degraded"
        assert "1 (last: T7)" in scanner.condition.facts()["not scanned"]
        await peer.be(None)
        await peer.be(hostile.answers)

        async def well() -> bool:
            return (await scanner.scan(Message(), context("T8"))).kind == "clean"

        await until(well)
        assert scanner.condition.wrong == {} and len(scanner._joining) == 0
        scanner.close()
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "no descriptor is left"


@pytest.mark.parametrize("kind", KINDS)
async def test_one_octet_at_a_time_is_an_answer(kind: str) -> None:
    async with Hostile(KINDS[kind].good, hostile.trickles) as peer:
        assert (await scanner_of(kind, peer.port, timeout=10.0).scan(Message(), context())).kind == "clean"


@pytest.mark.parametrize("kind", KINDS)
async def test_others_do_not_notice(kind: str) -> None:
    """One server hangs: who asks another scanner gets an answer at once."""
    good = KINDS[kind].good
    async with Hostile(good, hostile.hangs_at_once) as bad, Hostile(good) as well:
        slow = asyncio.create_task(scanner_of(kind, bad.port, timeout=5.0).scan(Message(), context("T1")))
        found = await scanner_of(kind, well.port, timeout=5.0).scan(Message(), context("T2"))
        assert found.kind == "clean" and not slow.done()
        slow.cancel()


@pytest.mark.parametrize("fault", ["absent", "refuses", "hangs_up_early", "hangs_up_behind_the_question"])
@pytest.mark.parametrize("kind", KINDS)
async def test_servers_of_one_entry_fail_over(kind: str, fault: str) -> None:
    good = KINDS[kind].good
    async with Hostile(good, FAULTS[fault]) as bad, Hostile(good) as well:
        scanner = scanner_of(kind, bad.port, well.port, timeout=5.0)
        assert (await scanner.scan(Message(MAIL + b"x" * 30000), context())).kind == "clean"
        before = bad.connections
        assert (await scanner.scan(Message(MAIL + b"2"), context())).kind == "clean"
        assert bad.connections == before, "who failed a moment ago is asked last"
        scanner.close()


@pytest.mark.parametrize("fault", ["hangs_at_once", "hangs_behind_the_question", "hangs_in_its_answer", "too_late"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_server_answers_where_one_hangs(kind: str, fault: str) -> None:
    """In a share of the time; who hung is asked last then."""
    good = KINDS[kind].good
    async with Hostile(good, FAULTS[fault]) as hung, Hostile(good) as well:
        scanner = scanner_of(kind, hung.port, well.port, timeout=3.0)
        found = await scanner.scan(Message(MAIL + b"x" * 30000), context())
        assert found.kind == "clean" and 1.2 < found.seconds < 2.9, found
        before = hung.connections
        for number in range(3):
            assert (await scanner.scan(Message(MAIL + b"%d" % number), context())).kind == "clean"
        assert hung.connections == before, "who hung is asked last"
        assert scanner.condition.wrong == {} and hung.open <= 1
        scanner.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_all_servers_hang_within_the_time_of_all(kind: str) -> None:
    good = KINDS[kind].good
    async with Hostile(good, hostile.hangs_at_once) as one, Hostile(good, hostile.hangs_behind_the_question) as two:
        scanner = scanner_of(kind, one.port, two.port, timeout=3.0)
        found = await scanner.scan(Message(), context())
        assert found.kind == "error" and 2.7 < found.seconds < 10, found
        assert str(one.port) in found.why and str(two.port) in found.why
        assert one.connections and two.connections and scanner.condition.facts()["state"] == "degraded"
        scanner.close()
