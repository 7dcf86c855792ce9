"""The whole list of faults (threats D1 to D3, part 4) for each kind of scanner that is spoken to over a socket."""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from appliance.connectors import conversation
from appliance.connectors.conversation import Server
from appliance.connectors.scanner import Scanner, Settings
from tests.connectors.scanner_peer import CLEAN, HAM, MAIL, Message, context, whole_stream
from tests.peers import hostile
from tests.peers.hostile import FAULTS, Good, Hostile
from tests.peers.icap import Service

DEADLINE = 0.4


async def read_clamd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await whole_stream(reader)


async def read_spamd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def read_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length
    await reader.readexactly(int(length[1]))


async def read_icap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """OPTIONS, which is answered, then one content."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"OPTIONS"):
        writer.write(Service(preview=None).said())
        head = await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"\r\n0\r\n\r\n")


def rspamd_answer(**more: Any) -> bytes:
    body = json.dumps({"action": "no action", "score": 1.5, "required_score": 15.0, "symbols": {}, **more}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n" % len(body) + body


class Kind(NamedTuple):
    """How a kind is played: a good peer, and what its scanner needs besides."""

    good: Good
    options: Any = None


KINDS: dict[str, Kind] = {
    "clamd": Kind(Good(read_clamd, CLEAN)),
    "spamd": Kind(Good(read_spamd, HAM)),
    "icap": Kind(Good(read_icap, b"ICAP/1.0 204 No Content\r\nISTag: x\r\n\r\n")),
    "rspamd": Kind(Good(read_http, rspamd_answer())),
}


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
        assert found.kind == "error" and found.seconds < DEADLINE + 1.0, found
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
