"""Those who ask us: clients of our policy and milter servers that misbehave, and honest ones among them."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable

from tests.soak.world import World


class Strangers:
    """`visits` come until it is over; `wrong` is what honest ones did not get."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.wrong: list[str] = []
        self.said: Counter[str] = Counter()

    def visits(self, over: asyncio.Event) -> list[Awaitable[None]]:
        return []
