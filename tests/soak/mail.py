"""Senders that keep book, and the reckoning: what was promised is kept, nothing passed unchecked, nothing honest is
refused."""

import asyncio
import itertools
import random
import re
import time
from collections import Counter
from typing import NamedTuple

from tests.faults.senders import digest, message
from tests.peers.good_smtp import send
from tests.soak.world import World

SIZES = (500, 2000, 2000, 10_000, 60_000)
QUEUED = re.compile(r"queued as (\w+)")


class Sent(NamedTuple):
    """`kind` as in senders.Outcome; `seconds`: from the connection to the last answer."""

    number: int
    lane: str
    evil: bool
    kind: str
    reply: str
    digest: str
    seconds: float


class Senders:
    """Mail for every lane, until `stop`. `rate`: messages a second, all lanes together, at most."""

    def __init__(self, world: World, rng: random.Random, rate: float) -> None:
        self.world, self.rng = world, rng
        self.lanes = [*world.lanes, "command", "clean", "clean"]
        self.pause = len(self.lanes) / rate
        self.sent: list[Sent] = []
        self.numbers = itertools.count()
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run(lane)) for lane in self.lanes]

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _run(self, lane: str) -> None:
        while not self._over:
            began = time.monotonic()
            await self.one(lane, self._evil(lane))
            await asyncio.sleep(max(0.0, self.rng.uniform(0.5, 1.5) * self.pause - (time.monotonic() - began)))

    def law(self, lane: str) -> str:
        return self.world.lanes[lane].law if lane in self.world.lanes else "refused" if lane == "command" else ""

    def _evil(self, lane: str) -> bool:
        return bool(self.law(lane)) and lane not in ("filter", "proxy") and self.rng.random() < 0.4

    async def one(self, lane: str, evil: bool = False, size: int = 0) -> Sent:
        number = next(self.numbers)
        word = "evil" if evil else "good"
        content = message(number, size or self.rng.choice(SIZES)) + f"soak {word}\r\n".encode()
        began = time.monotonic()
        kind, reply = await send(
            self.world.port_of(lane), f"{word}{number}@example.org", [f"{word}{number}@{lane}.example.com"], content
        )
        sent = Sent(number, lane, evil, kind, reply, digest(content), time.monotonic() - began)
        self.sent.append(sent)
        return sent


class Reckoning(NamedTuple):
    """What must not be, each with the messages that show it."""

    lost: list[Sent]
    ghosts: list[Sent]
    changed: list[Sent]
    passed: list[Sent]
    unsealed: list[Sent]
    refused: list[Sent]

    def bad(self) -> dict[str, list[Sent]]:
        return {name: found for name, found in self._asdict().items() if found}


def reckon(world: World, sent: list[Sent], queued: set[str]) -> Reckoning:
    """`queued`: the ids that the queue names."""
    inside, lanes = world.inside, world.lanes

    def marked(one: Sent) -> bool:
        mark = lanes[one.lane].mark if one.lane in lanes else b""
        return bool(mark) and all(mark in content.partition(b"\r\n\r\n")[0] for content in inside.arrived[one.number])

    arrived = [one for one in sent if one.number in inside.arrived]
    accepted = [one for one in sent if one.kind == "accepted"]
    return Reckoning(
        lost=[one for one in accepted if one.number not in inside.arrived and _id(one) not in queued],
        ghosts=[one for one in arrived if one.kind in ("refused", "unsent") and not _unheard(one)],
        changed=[one for one in arrived if inside.digests(one.number) != {one.digest}],
        passed=[one for one in arrived if one.evil and not marked(one)],
        unsealed=[one for one in arrived if _law(world, one) == "sealed" and not marked(one)],
        refused=[one for one in sent if not one.evil and one.reply.startswith("5")],
    )


def _unheard(one: Sent) -> bool:
    """A filter before the queue took it, and its answer was lost: the client is to send it again."""
    return one.lane == "proxy" and one.reply.startswith("451 4.3.0 ")


def _law(world: World, one: Sent) -> str:
    return world.lanes[one.lane].law if one.lane in world.lanes else ""


def _id(one: Sent) -> str:
    found = QUEUED.search(one.reply)
    return found[1] if found else ""


def table(sent: list[Sent]) -> str:
    """What became of it, by lane."""
    lanes = dict.fromkeys(one.lane for one in sent)
    lines = []
    for lane in lanes:
        kinds = Counter(f"{one.kind} {one.reply[:1]}" for one in sent if one.lane == lane)
        lines.append(f"  {lane:12} " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return "\n".join(lines)


def slowest(sent: list[Sent], lane: str, share: float = 0.99) -> float:
    """The time that this share of the lane's messages did not pass."""
    times = sorted(one.seconds for one in sent if one.lane == lane and one.kind == "accepted")
    return times[min(len(times) - 1, int(len(times) * share))] if times else float("inf")
