"""Those who ask us: clients of our policy and milter servers that misbehave, and honest ones beside them."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress

from appliance.protocol.milter.negotiation import offer
from appliance.protocol.policy import AnswerReader, encode_request
from tests.peers import bad_clients
from tests.peers.mta import Mta
from tests.peers.policy import RCPT
from tests.soak.world import World

#: A Postfix waits so long for a policy server.
PATIENCE = 100.0


class Strangers:
    """`visits` come until it is over; `wrong` is what honest ones did not get."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.wrong: list[str] = []
        self.said: Counter[str] = Counter()
        self.slowest = 0.0

    def visits(self, over: asyncio.Event) -> list[Awaitable[None]]:
        ports = self.world.ports
        speeches = [(bad_clients.policy(), ports["policyd"]), (bad_clients.milter(), ports["milterd"])]
        bad = [self._bad(over, *speech) for speech in speeches for _ in range(2)]
        return [*bad, self._asks(over), self._hands_over(over)]

    async def _bad(self, over: asyncio.Event, speech: bad_clients.Speech, port: int) -> None:
        while not over.is_set():
            name = self.rng.choice(list(bad_clients.ACTS))
            self.said[f"{speech.name} {name}"] += 1
            if not await bad_clients.visit(name, speech, port, self.rng):
                self.wrong.append(f"{speech.name} {name}: nobody ended it")
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))

    async def _asks(self, over: asyncio.Event) -> None:
        """An honest Postfix: it is answered in time, and rightly."""
        while not over.is_set():
            word = self.rng.choice(("good", "evil"))
            began = time.monotonic()
            with suppress(ConnectionError, asyncio.IncompleteReadError):  # hung up on while idle: it comes again
                reader, writer = await asyncio.open_connection("127.0.0.1", self.world.ports["policyd"])
                try:
                    for number in range(self.rng.randrange(1, 20)):
                        recipient = f"{word}{number}@front.example.com"
                        writer.write(encode_request(RCPT | {"recipient": recipient, "instance": f"h{began}{number}"}))
                        async with asyncio.timeout(PATIENCE):
                            answer = AnswerReader().feed(await reader.readuntil(b"\n\n"))
                        self._heard("policy", word, f"{answer.verb} {answer.text}" if answer else "", began)
                        began = time.monotonic()
                finally:
                    writer.close()
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))

    async def _hands_over(self, over: asyncio.Event) -> None:
        """An honest MTA with a message."""
        while not over.is_set():
            word = self.rng.choice(("good", "evil"))
            began = time.monotonic()
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                streams = await asyncio.open_connection("127.0.0.1", self.world.ports["milterd"])
                mta = Mta(*streams, offer())
                try:
                    await mta.do(mta.machine.negotiate(), PATIENCE)
                    await mta.begin()
                    await mta.mail()
                    heard = await mta.rcpt(f"{word}@front.example.com")
                    said = heard.reply if heard is not None else None
                    self._heard("milter", word, "REJECT" if "5.7.1" in repr(said) else "DUNNO", began)
                finally:
                    mta.close()
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))

    def _heard(self, kind: str, word: str, answer: str, began: float) -> None:
        seconds = time.monotonic() - began
        self.slowest = max(self.slowest, seconds)
        self.said[f"honest {kind} {answer.split(' ')[0]}"] += 1
        wanted = ("DUNNO",) if word == "good" else ("REJECT", "5")
        if not answer.startswith((*wanted, "DEFER", "4")):
            self.wrong.append(f"honest {kind} client: {word} mail gets {answer!r}")
