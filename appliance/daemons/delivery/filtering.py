"""What is particular about content filters behind the queue: a message that one wrote anew goes on, and one that puts
mail off is told.

Contract: the new message is queued before the old one is marked done. Trouble is known from real traffic only, with the
queue ids of the last messages that were put off; it is logged as it begins and as it ends. What failure means for the
mail: nothing is lost: a crash in between filters, and then delivers, once more.
"""

import asyncio
from collections.abc import Callable, Container, Iterator, Sequence

import msgspec

from appliance.daemons.delivery.routing import Destination
from appliance.mail.differing import crlf
from appliance.observe import metrics, oplog
from appliance.observe.text import counted
from appliance.observe.trouble import Said, Touched, said
from appliance.protocol.smtp.outgoing import Result
from appliance.queue.errors import SpoolError
from appliance.queue.item import Item
from appliance.queue.spool import Spool

log = oplog.get("delivery")
_put_off = metrics.counter("postgate_filter_put_off_total", "Messages that a content filter put off.", ["filter"])
_degraded = metrics.gauge("postgate_filter_degraded", "1 while a content filter puts mail off.", ["filter"])


class Filtering:
    """`queued(item)` takes a new message to deliver it."""

    def __init__(self, spool: Spool, ids: Iterator[str], queued: Callable[[Item], None]) -> None:
        self._spool, self._ids, self._queued = spool, ids, queued
        self.troubles = Touched()
        #: How often those that are in trouble put mail off since that began.
        self._tries: dict[str, int] = {}

    async def goes_on(
        self, destination: Destination, item: Item, indexes: Sequence[int], made: bytes, answers: list[Result]
    ) -> list[Result]:
        """Queue what the filter made of `item` for these recipients, before anything is said of it."""
        name = destination.hops[0][0].host
        try:
            queue_id = await self._replaced(item, indexes, made)
        except SpoolError as error:
            return [Result("deferred", 0, "4.3.1", f"what filter {name} made cannot be kept: {error}")] * len(answers)
        return [answer._replace(text=f"filtered by {name}: queued as {queue_id}") for answer in answers]

    async def _replaced(self, item: Item, indexes: Sequence[int], made: bytes) -> str:
        octets = await asyncio.to_thread(crlf, made)
        trailer = msgspec.structs.replace(
            item.trailer,
            queue_id=next(self._ids),
            recipients=tuple(item.trailer.recipients[index] for index in indexes),
            size=len(octets),
            body=item.trailer.body if octets.isascii() else "8BITMIME",
            edits=(),
            filter="",
            expanded=(),
            filtered=True,
            plain=False,
        )
        self._queued(await asyncio.wrap_future(self._spool.submit(octets, trailer)))
        return trailer.queue_id

    # ------------------------------------------------------------------ trouble

    def answered(self, destination: Destination, item: Item, answers: Sequence[Result], seconds: float) -> None:
        """What a filter said of a message, and how long it took; of other destinations nothing is kept."""
        if not destination.filtering:
            return
        name = destination.name
        put_off = next((answer for answer in answers if answer.kind == "deferred"), None)
        if put_off is not None:
            self.failed(destination, item, put_off.text, seconds)
        elif tries := self._tries.pop(name, 0):
            self.troubles.well(name)
            _degraded.labels(name).set(0)
            last = ", ".join(self.troubles.told(name, "")["last"])
            log.warning("content filter works again", filter=name, tries=tries, messages=last)

    def failed(self, destination: Destination, item: Item, why: str, seconds: float) -> None:
        """It was not reached, or put this message off, `seconds` after it was wanted."""
        if not destination.filtering:
            return
        name, queue_id = destination.name, item.queue_id
        if name not in self._tries:
            took = f"{seconds:.2f}"
            log.error("content filter puts mail off", filter=name, id=queue_id, seconds=took, why=why)
        _put_off.labels(name).inc()
        _degraded.labels(name).set(1)
        self._tries[name] = self._tries.get(name, 0) + 1
        self.troubles.note(name, why, queue_id)

    def degraded(self, waited_for: Container[str]) -> list[Said]:
        """For status: those in trouble, as long as mail waits for them."""
        found = {one["what"]: one for one in self.troubles.degraded(waited_for)}
        for name in self._tries.keys() - found.keys():  # what waited is gone, and nobody knows any more
            del self._tries[name]
            self.troubles.well(name)
            _degraded.labels(name).set(0)
        return [
            said(
                f"{name} puts mail off",
                f"{one['why']} ({counted(self._tries[name], 'try', 'tries')})",
                one["touched"],
                one["last"],
            )
            for name, one in found.items()
        ]
