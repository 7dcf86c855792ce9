"""One soak from its start to its verdict: all well, then faults at random under load, then all well again."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.hostile import Canary, lag_since
from tests.soak import mail, watch
from tests.soak.clients import Strangers
from tests.soak.weather import Weather
from tests.soak.world import World

Say = Callable[[str], None]


class Failed(AssertionError):
    """The verdict: everything that was wrong, one a line."""


class Soak:
    """`seconds` of faults; everything that is chosen comes from `seed`."""

    def __init__(self, root: Path, seed: int, seconds: float, rate: float = 25.0, say: Say = print) -> None:
        self.root, self.seed, self.seconds, self.rate, self.say = root, seed, seconds, rate, say
        self.wrong: list[str] = []
        #: For how long this process, or one of the gateway's, was kept waiting at most: that is the machine's.
        self.machine = 0.0

    async def run(self) -> None:
        """Raises Failed."""
        self.world = World(self.root)
        async with self.world:
            await asyncio.to_thread(self.world.gateway.start)
            try:
                await self._played()
            finally:
                await asyncio.to_thread(self.world.gateway.stop)
        if self.wrong:
            raise Failed("\n".join([f"seed {self.seed}:", *self.wrong]))

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    async def _played(self) -> None:
        self.senders = mail.Senders(self.world, self._rng("senders"), self.rate)
        self.weather = Weather(self.world, self._rng)
        await self._all_well("before")
        await self._load(min(15.0, max(5.0, self.seconds / 10)))
        before = await self._settled(None)
        calm, moment = len(self.senders.sent), time.monotonic()
        with Canary() as canary:
            await self._storm()
        await asyncio.to_thread(self._loops, moment, canary)
        calm_end = len(self.senders.sent)
        await self.weather.good()
        await self._all_well("after")
        await self._load(min(15.0, max(3.0, self.seconds / 20)))
        after = await self._settled(before)
        both = ((name, was.memory, after[name].memory) for name, was in before.items() if name in after)
        self.say("  memory in MB: " + ", ".join(f"{name} {was:.0f} -> {now:.0f}" for name, was, now in both))
        await self._judge(self.senders.sent[calm:calm_end])

    # -------------------------------------------------------------------------------------------- the three acts

    async def _all_well(self, when: str) -> None:
        """Every lane takes what is good and refuses what is evil, sooner or later. The mail is large: each worker has
        files for it at hand from then on."""
        end = time.monotonic() + 60
        for lane in dict.fromkeys(self.senders.lanes):
            while (sent := await self.senders.one(lane, size=100_000)).kind != "accepted":
                if time.monotonic() > end:
                    self.wrong.append(f"{when} the storm, lane {lane} takes nothing: {sent.reply}")
                    break
                await asyncio.sleep(0.2)
            if not self.world.rules[lane].evil:
                continue
            while (sent := await self.senders.one(lane, evil=True)).reply[:1] != "5":
                if sent.kind == "accepted" or time.monotonic() > end:
                    self.wrong.append(f"{when} the storm, lane {lane} does not refuse evil: {sent.kind} {sent.reply}")
                    break
                await asyncio.sleep(0.2)

    async def _load(self, seconds: float) -> None:
        senders = mail.Senders(self.world, self.senders.rng, self.rate)
        senders.sent, senders.numbers = self.senders.sent, self.senders.numbers
        senders.start()
        await asyncio.sleep(seconds)
        await senders.stop()

    async def _storm(self) -> None:
        over = asyncio.Event()
        senders = mail.Senders(self.world, self.senders.rng, self.rate)
        senders.sent, senders.numbers = self.senders.sent, self.senders.numbers
        strangers = Strangers(self.world, self._rng("strangers"))
        senders.start()
        works = (*self.weather.bad(over), *strangers.visits(over), self._own_loop(over))
        tasks = [asyncio.create_task(work) for work in works]
        await self._watched(over)
        await senders.stop()
        for task in tasks:
            if not task.done():
                task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                self.wrong.append(f"the soak itself: {result!r}")
        self.wrong += strangers.wrong
        self.said = strangers.said

    async def _own_loop(self, over: asyncio.Event) -> None:
        """By so much too long is what was measured here."""
        while not over.is_set():
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            self.machine = max(self.machine, time.monotonic() - due)

    async def _watched(self, over: asyncio.Event) -> None:
        end, every = time.monotonic() + self.seconds, min(5.0, self.seconds / 4)
        try:
            while (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(every, left))
                status = await self._status()
                self._tell(end, len(status["degraded"]))
        finally:
            over.set()

    def _tell(self, end: float, degraded: int) -> None:
        sent = self.senders.sent
        accepted, left = sum(one.kind == "accepted" for one in sent), max(0.0, end - time.monotonic())
        self.say(
            f"{left:4.0f} s left: {len(sent)} sent, {accepted} accepted, {len(self.world.inside.arrived)} arrived, "
            f"{self.weather.faults} faults, {degraded} degraded"
        )

    # -------------------------------------------------------------------------------------------- what is left

    def _loops(self, moment: float, canary: Canary) -> None:
        for worker, lag in lag_since(self.world.gateway, moment).items():
            # these wait until a program that they start has begun: the program's wait for a processor is their own then
            most = (1.0 if worker.startswith(("runner.", "syncd.")) else 0.1) + canary.worst
            self.machine = max(self.machine, lag.late - lag.own)
            if lag.own > most:
                self.wrong.append(f"the loop of {worker} was kept for {lag.own:.3f} s (at most {most:.3f} s)")

    async def _status(self) -> Any:
        return await asyncio.to_thread(self.world.gateway.status)

    async def _settled(self, before: dict[str, watch.Held] | None) -> dict[str, watch.Held]:
        """What the processes hold once nothing is under way; `before`: what they may hold."""
        end = time.monotonic() + (60 if before else 20)
        last: dict[str, watch.Held] = {}
        process = self.world.gateway.process
        assert process is not None
        while True:
            await asyncio.sleep(1.5)
            now = watch.held(await self._status(), process.pid)
            grown = watch.grown(before, now) if before else {}
            quiet = not grown if before else {k: v[:3] for k, v in now.items()} == {k: v[:3] for k, v in last.items()}
            if quiet or time.monotonic() > end:
                self.wrong += [f"leak: {name}: {what}" for name, what in grown.items()]
                return now
            last = now

    async def _queued(self) -> set[str]:
        found: set[str] = set()
        for folder in ("queue", "quarantine"):
            said = await asyncio.to_thread(self.world.gateway.cli, folder, "list", "--json", check=False)
            found |= {json.loads(line)["queue_id"] for line in said.stdout.splitlines()}
        return found

    async def _judge(self, storm: list[mail.Sent]) -> None:
        end = time.monotonic() + 30
        while (found := mail.reckon(self.world, self.senders.sent, await self._queued())).lost:
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        for what, shown in found.bad().items():
            self.wrong += [f"{what}: {one}" for one in shown[:5]] + [f"{what}: {len(shown)} in all"]
        log = self.world.gateway.log()
        self.wrong += [f"in the log: {word}" for word in ("Traceback", "internal error", "uncaught") if word in log]
        slow = mail.slowest(storm, "clean")
        if slow > 2.0 + self.machine:
            self.wrong.append(f"clean mail was slow: 99 of 100 within {slow:.2f} s (the machine: {self.machine:.2f} s)")
        self.say(f"{mail.table(storm)}\n  strangers: {self.said}\n  clean mail: 99 of 100 within {slow * 1000:.0f} ms")
