"""What is particular about content filters behind the queue: a message that one wrote anew goes on, and one that puts
mail off is told.

Contract: the new message is queued before the old one is marked done. Trouble is known from real traffic only, with the
queue ids of the last messages that were put off; it is logged as it begins and as it ends. What failure means for the
mail: nothing is lost: a crash in between filters, and then delivers, once more.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from appliance.daemons.delivery.routing import Destination
from appliance.mail.differing import crlf
from appliance.observe import metrics, oplog
from appliance.observe.text import counted
from appliance.observe.trouble import Said, said
from appliance.protocol.smtp.outgoing import Result
from appliance.queue.errors import SpoolError
from appliance.queue.item import Item
from appliance.queue.spool import Spool

log = oplog.get("delivery")
_put_off = metrics.counter("postgate_filter_put_off_total", "Messages that a content filter put off.", ["filter"])
_degraded = metrics.gauge("postgate_filter_degraded", "1 while a content filter puts mail off.", ["filter"])
#: Queue ids that are told.
_TOLD = 20


class Trouble:
    """Of one filter."""

    def __init__(self) -> None:
        self.tries = 0
        self.last: deque[str] = deque(maxlen=_TOLD)
        self.why = ""


class Filtering:
    """`queued(item)` takes a new message to deliver it."""

    def __init__(self, spool: Spool, ids: Iterator[str], queued: Callable[[Item], None]) -> None:
        self._spool, self._ids, self._queued = spool, ids, queued
        self._troubles: dict[str, Trouble] = {}

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
            plain=False,
        )
        self._queued(await asyncio.wrap_future(self._spool.submit(octets, trailer)))
        return trailer.queue_id

    # ------------------------------------------------------------------ trouble

    def answered(self, destination: Destination, item: Item, answers: Sequence[Result]) -> None:
        """What a filter said of a message; of other destinations nothing is kept."""
        if not destination.filtering:
            return
        put_off = next((answer for answer in answers if answer.kind == "deferred"), None)
        if put_off is not None:
            self.failed(destination, item, put_off.text)
        elif (trouble := self._troubles.pop(destination.name, None)) is not None:
            last = ", ".join(trouble.last)
            _degraded.labels(destination.name).set(0)
            log.warning("content filter works again", filter=destination.name, tries=trouble.tries, messages=last)

    def failed(self, destination: Destination, item: Item, why: str) -> None:
        """It was not reached, or put this message off."""
        if not destination.filtering:
            return
        name, queue_id = destination.name, item.queue_id
        trouble = self._troubles.get(name)
        if trouble is None:
            trouble = self._troubles[name] = Trouble()
            log.error("content filter puts mail off", filter=name, id=queue_id, why=why)
        _put_off.labels(name).inc()
        _degraded.labels(name).set(1)
        trouble.tries += 1
        trouble.why = why
        if queue_id not in trouble.last:
            trouble.last.append(queue_id)

    def degraded(self) -> list[Said]:
        """For status."""
        return [
            said(
                f"{name} puts mail off",
                f"{trouble.why} ({counted(trouble.tries, 'try', 'tries')})",
                len(trouble.last),
                trouble.last,
            )
            for name, trouble in self._troubles.items()
        ]
