"""Messages whose way must be asked for first: a table of routes that is not in memory.

Contract: what was begun goes on once, when all tables have answered or failed (which is for Routing to say), unless the
message has left its place in the queue meanwhile. What failure means for the mail: it is scheduled as one whose way a
table cannot tell, and asked for again; where an error of ours keeps it from being scheduled, the next start asks again.
"""

import asyncio
from collections.abc import Awaitable, Callable

from appliance.daemons.delivery.routing import Routing
from appliance.observe import oplog
from appliance.queue.item import Item
from appliance.queue.spool import Spool

log = oplog.get("delivery")


class Asking:
    """The messages that wait for their way, by their ids. `pump` is called when one was scheduled."""

    def __init__(self, spool: Spool, routing: Callable[[], Routing], pump: Callable[[], None]) -> None:
        self._spool, self._routing, self._pump = spool, routing, pump
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def first(self, item: Item, go_on: Callable[[Item], None]) -> None:
        """Call `go_on` once the ways of the message are at hand: mostly now. One that waits already goes on waiting."""
        if item.queue_id in self._tasks:
            return
        routing = self._routing()
        try:
            heard = routing.hear(item)
            if heard is None:
                go_on(item)
                return
        except Exception:  # one message stops no other
            log.exception("the way of a message could not be found by an error of ours", id=item.queue_id)
            return
        task = asyncio.get_running_loop().create_task(self._wait(item, routing, heard, go_on))
        self._tasks[item.queue_id] = task
        task.add_done_callback(lambda done: self._ended(item.queue_id, done))

    def _ended(self, queue_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(queue_id) is task:  # else it was forgotten, and waits anew
            del self._tasks[queue_id]

    async def _wait(
        self, item: Item, routing: Routing, heard: Awaitable[None] | None, go_on: Callable[[Item], None]
    ) -> None:
        try:
            while heard is not None:
                await heard
                asked, routing = routing, self._routing()
                heard = routing.hear(item) if routing is not asked else None  # a reload came in between
        except Exception:
            log.exception("asking for the way of a message failed by an error of ours", id=item.queue_id)
        if self._spool.get(item.queue_id) is item and item.folder in ("intake", "deferred"):
            try:
                go_on(item)
            except Exception:
                log.exception("the way of a message could not be found by an error of ours", id=item.queue_id)
            self._pump()

    def forget(self, queue_id: str) -> None:
        """It is held, deleted, expired."""
        if task := self._tasks.pop(queue_id, None):
            task.cancel()

    def close(self) -> None:
        """Wait for nobody any more: what is in the spool is scheduled at the next start."""
        for task in list(self._tasks.values()):
            task.cancel()
