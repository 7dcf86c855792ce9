"""Messages whose way must be asked for first: a table of routes that is not in memory.

Contract: what was begun goes on once, when all tables have answered or failed (which is for Routing to say), unless the
message has left its place in the queue meanwhile. What failure means for the mail: it is scheduled as one whose way a
table cannot tell, and asked for again.
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

    def __init__(self, spool: Spool, pump: Callable[[], None]) -> None:
        self._spool, self._pump = spool, pump
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def first(self, item: Item, routing: Routing, go_on: Callable[[Item], None]) -> None:
        """Call `go_on` once the ways of the message are at hand: mostly now. One that waits already goes on waiting."""
        heard = routing.hear(item)
        if heard is None:
            go_on(item)
        elif item.queue_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._wait(item, heard, go_on))
            self._tasks[item.queue_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(item.queue_id, None))

    async def _wait(self, item: Item, heard: Awaitable[None], go_on: Callable[[Item], None]) -> None:
        try:
            await heard
        except Exception:
            log.exception("asking for the way of a message failed by an error of ours", id=item.queue_id)
        if self._spool.get(item.queue_id) is item and item.folder in ("intake", "deferred"):
            go_on(item)
            self._pump()

    def forget(self, queue_id: str) -> None:
        """It is held, deleted, expired."""
        if task := self._tasks.get(queue_id):
            task.cancel()

    def close(self) -> None:
        """Wait for nobody any more: what is in the spool is scheduled at the next start."""
        for task in list(self._tasks.values()):
            task.cancel()
