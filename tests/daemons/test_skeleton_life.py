"""A child under its master's orders: what is ordered while another order is obeyed."""

import asyncio
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from appliance.daemons import control
from appliance.daemons.skeleton.life import _Life
from appliance.net import channel as channels


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


class Daemon:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.looked_at, self.in_force = list[Any](), list[Any]()

    async def start(self) -> None:
        pass

    def prepare(self, made: Any) -> None:
        self.looked_at.append(made)

    def commit(self, made: Any) -> None:
        self.in_force.append(made)

    def health(self) -> dict[str, Any]:
        return {}


class Read:
    """The first reading takes until `go_on`; what is read is its number."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.count = threading.Event(), threading.Event(), 0

    def __call__(self, _octets: bytes, _in_force: Any) -> Any:
        self.count += 1
        number = self.count
        if number == 1:
            self.begun.set()
            assert self.go_on.wait(10)
        return SimpleNamespace(hash=str(number), terms=SimpleNamespace(level="info"))


async def test_what_was_given_up_while_it_was_read_is_not_kept() -> None:
    """A configuration with its tables is large: each refused reload left one behind in every process that was slower."""
    daemon, read, (master, end) = Daemon(), Read(), channels.pair()
    birth: Any = SimpleNamespace(in_force=SimpleNamespace(hash="0", terms=SimpleNamespace(level="info")), log_fd=2)
    life = _Life(birth, end, lambda _birth: daemon, read)  # type: ignore[arg-type, return-value]
    living = asyncio.ensure_future(life.run([]))

    def prepare(number: int) -> None:
        fd = control.to_fd(control.Abort(0))
        try:
            master.send(control.Prepare(number), (fd,))
        finally:
            os.close(fd)

    prepare(1)
    assert await asyncio.to_thread(read.begun.wait, 10)
    master.send(control.Abort(1))
    prepare(2)
    await until(lambda: 2 in life._prepared)
    master.send(control.Commit(2))
    await until(lambda: daemon.in_force)
    prepare(3)
    await until(lambda: 3 in life._prepared)
    read.go_on.set()
    await until(lambda: not life._tasks)
    assert (list(life._prepared), [made.hash for made in daemon.looked_at]) == ([3], ["2", "3"])
    reports = [control.decode_report(payload) for payload, _ in master.on_readable()]
    assert reports == [control.Ready(), control.Prepared(2), control.Prepared(3)]
    master.close()
    assert await living == 3


async def test_a_configuration_whose_descriptor_was_lost_on_its_way_is_refused_at_once() -> None:
    """Out of descriptors: the master would wait for an answer, for one that is to catch up without end."""
    daemon, read, (master, end) = Daemon(), Read(), channels.pair()
    birth: Any = SimpleNamespace(in_force=SimpleNamespace(hash="0", terms=SimpleNamespace(level="info")), log_fd=2)
    life = _Life(birth, end, lambda _birth: daemon, read)  # type: ignore[arg-type, return-value]
    living = asyncio.ensure_future(life.run([]))
    reports: list[control.Report] = []
    master.attach(asyncio.get_running_loop(), lambda payload, _: reports.append(control.decode_report(payload)))
    master.send(control.Prepare(7))
    await until(lambda: len(reports) == 2)
    assert isinstance(reports[1], control.Prepared) and reports[1].id == 7 and "descriptor" in reports[1].refusal
    assert not life._wanted and not read.count
    master.close()
    assert await living == 3
