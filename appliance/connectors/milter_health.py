"""How one milter fares: for the log (a line for each failure), for metrics and for status.

Contract: one for all links to a milter, it outlives reloads. `failed` writes who, which step, how long. A milter that
keeps failing is left alone for a while and looked at by ourselves (breaker). What failure means for the mail: none here.
"""

import asyncio
from collections import deque
from typing import Any

from appliance.connectors import milter_wire
from appliance.connectors.breaker import FIRST, LONGEST, Breaker
from appliance.mail.milter import Milter
from appliance.observe import metrics, oplog
from appliance.observe.contact import Contact
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.mta import MtaMachine
from appliance.protocol.milter.negotiation import offer

log = oplog.get("milter")
_answers = metrics.counter("postgate_milter_answers_total", "What milters said of messages, by word.", ("milter", "word"))
_seconds = metrics.histogram("postgate_milter_seconds", "Time of a stage with a milter.", ("milter", "stage"))
_degraded = metrics.gauge("postgate_milter_degraded", "1 while a milter fails.", ("milter",))
#: Transactions that are remembered as touched.
REMEMBERED = 20
#: Steps of which a milter that is there again has recovered.
UNREACHED = ("connecting", "negotiation")


class Health:
    """One milter's."""

    def __init__(self, milter: Milter) -> None:
        self.milter = milter
        self.contact = Contact()
        self.breaker = Breaker(self.probe)
        self._looking: asyncio.Task[None] | None = None
        self.words: dict[str, int] = {}
        self.failures = 0
        self.touched: deque[str] = deque(maxlen=REMEMBERED)
        #: Links that have a connection.
        self.connections = 0

    def said(self, word: str) -> None:
        """It answered a whole message, or refused something."""
        self.words[word] = self.words.get(word, 0) + 1
        _answers.labels(self.milter.name, word).inc()

    def well(self) -> None:
        """It answered in its protocol."""
        if self.contact.trouble:
            log.warning("milter well again", milter=self.milter.name, transactions_touched=self.failures)
        if self.contact.trouble or self.breaker.is_open:
            _degraded.labels(self.milter.name).set(0)
        self.contact.answered()
        self.breaker.succeeded()

    def took(self, stage: str, seconds: float) -> None:
        _seconds.labels(self.milter.name, stage).observe(seconds)

    def failed(self, step: str, seconds: float, why: str, transaction: str) -> None:
        """It did not."""
        name = self.milter.name
        log.error(
            "milter failed",
            milter=name,
            address=str(self.milter.place),
            step=step,
            seconds=f"{seconds:.2f}",
            why=why,
            transaction=transaction,
        )
        self.contact.failed(f"{why}, at {step} ({seconds:.1f} s)")
        self.failures += 1
        self.touched.append(transaction)
        _degraded.labels(name).set(1)
        self.said("failed")
        self.breaker.failed()
        if step in UNREACHED and (self._looking is None or self._looking.done()):
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
        try:
            async with asyncio.timeout(self.milter.connect_timeout):
                wire = await milter_wire.connect(self.milter.place)
                try:
                    machine = MtaMachine(offer(self.milter.protocol))
                    await wire.send(machine.negotiate().octets)
                    while not machine.receive(await wire.hear()):
                        continue
                    wire.close(machine.quit().octets)
                finally:
                    wire.close()
        except (OSError, ProtocolError, TimeoutError):
            return False
        self.well()
        return True

    def facts(self) -> dict[str, Any]:
        """For status."""
        found = {"address": str(self.milter.place), "connections": self.connections, **self.contact.facts(), **self.words}
        if self.failures:
            found["failed for"] = f"{self.failures} (last: {', '.join(self.touched)})"
        return found

    @property
    def degraded(self) -> str:
        """What is wrong, in words; "" if nothing is."""
        if not self.contact.trouble:
            return ""
        last = f"; transactions: {self.failures}, last {', '.join(list(self.touched)[-5:])}"
        return f"milter {self.milter.name} fails: {self.contact.trouble}{last}"

    def close(self) -> None:
        self.breaker.close()
        if self._looking is not None:
            self._looking.cancel()
