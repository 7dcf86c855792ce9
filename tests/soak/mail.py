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
#: Now and then one that no buffer of a connection holds: peers may die in the middle of it.
LARGE, SELDOM = b"a line of many that are all alike\r\n" * 40_000, 0.04
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
        self.lanes = [*world.rules, "clean"]
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

    def _evil(self, lane: str) -> bool:
        return self.world.rules[lane].evil and self.rng.random() < 0.4

    def _more(self, lane: str) -> bytes:
        large = lane == "pipe" or (lane in self.world.lanes and self.world.lanes[lane].streamed)
        return LARGE if large and self.rng.random() < SELDOM else b""

    async def one(self, lane: str, evil: bool = False, size: int = 0) -> Sent:
        number, rule = next(self.numbers), self.world.rules[lane]
        word = "evil" if evil else "good"
        content = message(number, size or self.rng.choice(SIZES)) + self._more(lane) + f"soak {word}\r\n".encode()
        facts = {"number": number, "word": word, "lane": lane}
        began = time.monotonic()
        kind, reply = await send(
            self.world.port_of(lane), rule.sender.format(**facts), [rule.recipient.format(**facts)], content
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
    inside, rules = world.inside, world.rules

    def marked(one: Sent) -> bool:
        mark = rules[one.lane].mark
        return bool(mark) and all(mark in content.partition(b"\r\n\r\n")[0] for content in inside.arrived[one.number])

    arrived = [one for one in sent if one.number in inside.arrived]
    accepted = [one for one in sent if one.kind == "accepted"]
    return Reckoning(
        lost=[one for one in accepted if one.number not in inside.arrived and _id(one) not in queued],
        ghosts=[one for one in arrived if one.kind in ("refused", "unsent") and not _unheard(one)],
        changed=[one for one in arrived if inside.digests(one.number) != {one.digest}],
        passed=[one for one in arrived if one.evil and not marked(one)],
        unsealed=[one for one in arrived if rules[one.lane].law == "sealed" and not marked(one)],
        refused=[one for one in sent if not one.evil and one.reply.startswith("5")] + _forgotten(sent),
    )


def _forgotten(sent: list[Sent]) -> list[Sent]:
    """A source of recipients that is in trouble makes nobody unknown: once there is a list it stays."""
    mine = [one for one in sent if one.lane == "source" and not one.evil]
    return [one for one in itertools.dropwhile(_unknown, mine) if _unknown(one)]


def _unknown(one: Sent) -> bool:
    return one.reply.startswith("451 4.1.1 ")


def _unheard(one: Sent) -> bool:
    """A filter before the queue took it, and its answer was lost: the client is to send it again."""
    return one.lane == "proxy" and one.reply.startswith("451 4.3.0 ")


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
