"""A resolver that hangs for the servers of one table keeps no other table waiting, of whatever type."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.mail.ports import Unavailable
from appliance.tables import wire
from appliance.tables.proxied import Step, keeper, open_proxied
from appliance.tables.proxied.keeper import Keeper
from appliance.tables.proxied.names import Names
from tests.peers.good_tables import KINDS
from tests.peers.hostile import Hostile, answers

KEY, SOON = "joe@example.com", 2.0
SLOW, QUICK = "slow.example", "quick.example"


class Resolver:
    """The system's, whose name server does not answer for SLOW."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on, self.stuck = threading.Event(), threading.Event()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *more: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (SLOW, QUICK):
            return self._real(host, port, *more, **named)
        self.asked.append(name)
        if name == SLOW:
            self.stuck.set()
            self.go_on.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._real("127.0.0.1", port, *more, **named)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    found = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setattr(keeper, "REMEMBER", 0.0)
    yield found
    found.go_on.set()


def named(spec: str, host: str) -> str:
    """The table's server by its name."""
    path = Path(spec.partition(":")[2])
    if path.is_file():
        path.write_text(path.read_text().replace("127.0.0.1", host))
    return spec.replace("127.0.0.1", host)


@pytest.mark.parametrize("name", KINDS)
async def test_a_name_that_nobody_answers_for(name: str, tmp_path: Path, resolver: Resolver) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    async with Hostile(KINDS[name].good, answers) as good:
        slow = named(KINDS[name].spec(good.port, tmp_path / "a"), SLOW)
        quick = named(KINDS[name].spec(good.port, tmp_path / "b"), QUICK)
        tables = Keeper(open_proxied)
        assert tables.also([slow, quick]) == []
        waiting = [asyncio.create_task(tables.answer(slow, f"{number}{KEY}")) for number in range(40)]
        await asyncio.to_thread(resolver.stuck.wait, 10)
        for _ in range(3):
            begun = time.monotonic()
            assert (await tables.answer(quick, KEY))[:2] == (wire.FOUND, "inside")
            assert time.monotonic() - begun < SOON
        assert resolver.asked.count(QUICK) >= 1 and not any(task.done() for task in waiting)
        resolver.go_on.set()
        said = await asyncio.gather(*waiting)
        assert {state for state, _, _ in said} == {wire.FAILED}
        assert all(SLOW in text for _, text, _ in said)
        tables.close()


async def test_one_thread_asks_for_a_name_however_many_wait(resolver: Resolver) -> None:
    names = Names("test", 2)
    waiting = [asyncio.create_task(names.addresses(SLOW)) for _ in range(20)]
    await asyncio.to_thread(resolver.stuck.wait, 10)
    waiting[0].cancel()
    assert await names.addresses(QUICK) == ["127.0.0.1"], "another name of the same table"
    assert [await names.addresses(text) for text in ("192.0.2.1", "2001:db8::1")] == [["192.0.2.1"], ["2001:db8::1"]]
    resolver.go_on.set()
    said = await asyncio.gather(*waiting, return_exceptions=True)
    assert resolver.asked == [SLOW, QUICK]
    assert [type(one) for one in said] == [asyncio.CancelledError, *[socket.gaierror] * 19]
    names.close()


@pytest.mark.parametrize("host", ["db..example.com", f"{'x' * 64}.example.com"])
async def test_what_can_be_no_name_is_a_name_without_address(host: str) -> None:
    names = Names("test", 1)
    with pytest.raises(OSError, match=r"is no name of a host"):
        await names.addresses(host)
    names.close()
    table = open_proxied(f"tcp:{host}:25")
    with pytest.raises(Unavailable, match=r"is no name of a host"):
        await table.get(KEY, Step())
    table.close()
