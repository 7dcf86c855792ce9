"""How one peer fares that is asked about whole messages (a milter, a filter before the queue): for the log (a line for
each failure), for metrics and for status.

Contract: one for all that ask this peer, it outlives reloads. `failed` writes who, which step, how long. A peer that
keeps failing is left alone for a while and looked at by ourselves (breaker): `answers` of a subclass says whether it is
there. Who agrees to speak and fails then is well only when it has answered about a message; who does not answer in time
then is left alone, too. What failure means for the mail: none here.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

from appliance.connectors.breaker import FIRST, LONGEST, Breaker
from appliance.observe import trouble
from appliance.observe.contact import Contact
from appliance.observe.metrics import Counter, Gauge, Histogram


class Log(Protocol):
    """Where failures are told."""

    def error(self, text: str, **more: Any) -> Any: ...

    def warning(self, text: str, **more: Any) -> Any: ...


class Meters(NamedTuple):
    """The metrics of a kind of peers: answers by peer and word, seconds by peer and stage, 1 while a peer fails."""

    answers: Counter
    seconds: Histogram
    degraded: Gauge


class Fares(ABC):
    """One peer's. `kind`: what it is called; `unreached`: steps of which a peer that is there again has recovered."""

    #: A step at which nobody has asked the peer yet: to have failed there says nothing of it.
    before = ""

    def __init__(self, kind: str, name: str, address: str, log: Log, meters: Meters, unreached: tuple[str, ...]) -> None:
        self.kind, self.name, self.address = kind, name, address
        self._log, self._unreached = log, unreached
        self._meters = meters
        self.contact = Contact()
        self.breaker = Breaker(self.probe)
        self._looking: asyncio.Task[None] | None = None
        self.words: dict[str, int] = {}
        self._touched, self._what = trouble.Touched(), f"{kind} {name} fails"
        #: It was there, and failed; and let us wait in vain.
        self._idle = self._hangs = False
        self._closed = False
        #: Connections to it that are open.
        self.connections = 0

    @abstractmethod
    async def answers(self) -> bool:
        """Is it there, and does it speak its protocol?"""

    def said(self, word: str) -> None:
        """It answered a whole message, or refused something."""
        self.words[word] = self.words.get(word, 0) + 1
        self._meters.answers.labels(self.name, word).inc()

    def there(self) -> None:
        """It agreed to speak: all that was missing of one that could not be reached."""
        if not self._idle:
            self.well()
        elif not self._hangs:
            self.breaker.succeeded()

    def well(self) -> None:
        """It did its work."""
        self._idle = self._hangs = False
        if self.contact.trouble:
            told = {self.kind.replace(" ", "_"): self.name}
            self._log.warning(f"{self.kind} well again", **told, transactions_touched=self._told()["touched"])
        if self.contact.trouble or self.breaker.is_open:
            self._meters.degraded.labels(self.name).set(0)
        self.contact.answered()
        self.breaker.succeeded()

    def took(self, stage: str, seconds: float) -> None:
        self._meters.seconds.labels(self.name, stage).observe(seconds)

    def puzzled(self, what: str) -> None:
        """It said something that means nothing, and was put up with."""
        self._log.warning(f"{self.kind} says what means nothing", **{self.kind.replace(" ", "_"): self.name}, what=what)

    @property
    def left_alone(self) -> str:
        """Why it is not to be asked now, "" if it may."""
        return f"left alone for a while ({self.contact.trouble})" if self.breaker.is_open else ""

    def failed(self, step: str, seconds: float, why: str, transaction: str, late: bool = False) -> None:
        """It did not; `late`: because its time was over. One that hangs up may do so over this very message."""
        self._log.error(
            f"{self.kind} failed",
            **{self.kind.replace(" ", "_"): self.name},
            address=self.address,
            step=step,
            seconds=f"{seconds:.2f}",
            why=why,
            transaction=transaction,
        )
        if why != self.left_alone:  # else nothing new is known of it
            self.contact.failed(f"{why}, at {step} ({seconds:.1f} s)")
        self._touched.touch(self._what, transaction)
        self._meters.degraded.labels(self.name).set(1)
        self.said("failed")
        if step != self.before:
            self.breaker.failed()
            self._idle |= step not in self._unreached
            self._hangs |= late and step not in self._unreached
        if step in self._unreached and not self._closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """Whoever was away is well when he is there again; whoever did not answer, when he answers."""
        pause = FIRST
        while self.contact.trouble:
            await asyncio.sleep(pause)
            pause = min(LONGEST, 2 * pause)
            if not self.breaker.is_open and await self.probe():
                return

    async def probe(self) -> bool:
        """Does it agree to speak with us?"""
        if not await self.answers():
            return False
        self.there()
        return True

    def facts(self) -> dict[str, Any]:
        """For status."""
        found = {"address": self.address, "connections": self.connections, **self.contact.facts(), **self.words}
        told = self._told()
        if told["touched"]:
            found["failed for"] = f"{told['touched']} (last: {', '.join(told['last'])})"
        return found

    def _told(self) -> dict[str, Any]:
        return self._touched.told(self._what, self.contact.trouble)

    @property
    def degraded(self) -> trouble.Said:
        """What is wrong; "" if nothing is."""
        if not self.contact.trouble:
            return ""
        return self._told()

    def close(self) -> None:
        """Look at it no more; whoever still asks may do so."""
        self._closed = True
        self.breaker.close()
        if self._looking is not None:
            self._looking.cancel()
