"""Messages that policy keeps: out of the intake into hold or quarantine.

Contract: what `keep` takes is never delivered before an operator releases it. What failure means for the mail: while the
disk refuses it stays in the intake, and `retry` (each second) tries again.
"""

import time

from appliance.observe import maillog, oplog
from appliance.queue.item import Item, Note
from appliance.queue.spool import Spool

log = oplog.get("delivery")


class Aside:
    """Those that are not in their folder yet, by their ids."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._unkept: dict[str, Item] = {}

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._unkept

    def keep(self, item: Item) -> None:
        """Move it where its trailer says."""
        keep = item.trailer.keep
        if keep == "deliver" or item.moving:
            return
        self._unkept[item.queue_id] = item
        moved = self._spool.keep(item, keep, Note(time.time(), keep, item.trailer.keep_reason))

        def done(error: BaseException | None) -> None:
            if error is None:
                self._unkept.pop(item.queue_id, None)
                maillog.log(f"{item.queue_id}: to {keep}: {item.trailer.keep_reason}", "qmgr")
            else:
                log.error("a message could not be moved, this is tried again", id=item.queue_id, to=keep, why=str(error))

        moved.add_done_callback(lambda future: done(future.exception()))

    def retry(self) -> None:
        """What could not be moved, once more."""
        for item in list(self._unkept.values()):
            self.keep(item)

    def forget(self, queue_id: str) -> None:
        """It is deleted."""
        self._unkept.pop(queue_id, None)
