"""What goes wrong, and when: each peer is ill for a while, well for a while, and so on until it is over."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.peers.hostile import Act, Question
from tests.soak import lanes as kinds
from tests.soak import names
from tests.soak.program import Program
from tests.soak.world import World

#: Of the processes that read content for scand: the one that forks them, or one of those.
READERS = ("the nursery is killed", "the nursery is stopped", "a reader is killed")


class Weather:
    """`rng(name)`: a source of chance for each of the peers. `faults` counts what was done to them."""

    def __init__(self, world: World, rng: Callable[[str], random.Random]) -> None:
        self.world, self._rng = world, rng
        self.faults = 0

    def bad(self, over: asyncio.Event) -> list[Awaitable[None]]:
        """Of each peer, until it is over."""
        lanes = [self._lane(name, over) for name in self.world.lanes]
        programs = [self._program(name, program, over) for name, program in self.world.programs.items()]
        return [*lanes, *programs, self._names(over), self._readers(over)]

    async def good(self) -> None:
        """Everybody is well."""
        for program in self.world.programs.values():
            program.be("well")
        await self.world.names.be()
        for name, lane in self.world.lanes.items():
            await self._become(name, lane.well, lane.whole)

    async def _lane(self, name: str, over: asyncio.Event) -> None:
        rng, lane = self._rng(name), self.world.lanes[name]
        while not over.is_set():
            act, question = kinds.draw(lane, rng)
            self.faults += 1
            await self._become(name, act, question)
            await until(over, rng.uniform(0.3, 2.5))
            await self._become(name, lane.well, lane.whole)
            await until(over, rng.uniform(0.3, 4.0))

    async def _become(self, name: str, act: Act | None, question: Callable[[], Question]) -> None:
        """Connections of before are cut."""
        peer = self.world.peers[name]
        await peer.be(None)
        peer.good = question
        await peer.be(act)

    async def _program(self, name: str, program: Program, over: asyncio.Event) -> None:
        rng = self._rng(name)
        while not over.is_set():
            mode = program.draw(rng)
            self.faults += mode != "well"
            program.be(mode)
            await until(over, rng.uniform(0.5, 3.0))

    async def _names(self, over: asyncio.Event) -> None:
        rng = self._rng("names")
        while not over.is_set():
            self.faults += 1
            await self.world.names.be(rng.choice(list(names.FAULTS)))
            await until(over, rng.uniform(0.3, 2.5))
            await self.world.names.be()
            await until(over, rng.uniform(0.3, 6.0))

    async def _readers(self, over: asyncio.Event) -> None:
        """Between two troubles there is time for a nursery to be born and to learn its rules."""
        rng = self._rng("readers")
        (scand,) = (await asyncio.to_thread(self.world.gateway.children))["scand"]
        while not over.is_set():
            await until(over, rng.uniform(1.0, 5.0))
            trouble, nurseries = rng.choice(READERS), children(scand)
            if not nurseries:
                continue
            self.faults += 1
            victims = await self._reader(nurseries[0], over) if trouble == READERS[2] else nurseries[:1]
            stops = trouble == READERS[1]
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP if stops else signal.SIGKILL)
                    if stops:
                        await until(over, rng.uniform(0.2, 2.0))
                        os.kill(pid, signal.SIGCONT)

    async def _reader(self, nursery: int, over: asyncio.Event) -> list[int]:
        """One that is at work now, if there is one in the next second."""
        for _ in range(200):
            if over.is_set() or (found := children(nursery)):
                return found if not over.is_set() else []
            await asyncio.sleep(0.005)
        return []


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


async def until(over: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await over.wait()
