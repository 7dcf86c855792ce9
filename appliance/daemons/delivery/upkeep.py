"""What delivery does by the clock: room on the disk, what lingers, what is too old, retention, the spool's own clock.

Contract: `tick` runs each second and takes a few milliseconds at most, whatever the queue length: long walks are cut
into slices. What failure means for the mail: nothing is removed but what retention says, and each removal is logged.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice

from appliance.config.model import Queue
from appliance.daemons.delivery.dispatch import Dispatch
from appliance.daemons.delivery.settle import Settlement
from appliance.daemons.delivery.workers import Workers
from appliance.observe import maillog, metrics, oplog
from appliance.queue.item import Item, Note

MESSAGES = metrics.gauge("postgate_queue_messages", "Messages by folder", ("folder",))
OCTETS = metrics.gauge("postgate_queue_octets", "Octets by folder", ("folder",))
OLDEST = metrics.gauge("postgate_queue_oldest_seconds", "Age of the oldest message", ("folder",))
DEAD = metrics.gauge("postgate_queue_dead_destinations", "Destinations that are not reached at the moment")
#: A message that is in the intake for longer gets a file of its own, if its destination does not take mail.
LINGER = 10.0
#: And for longer than this in any case, so that intake files can go.
LINGER_BUSY = 300.0
_SLICE = 1000
_MOVES = 256
log = oplog.get("delivery")


class Upkeep:
    """`settings()` is the [queue] section in force."""

    def __init__(
        self, dispatch: Dispatch, workers: Workers, settlement: Settlement, settings: Callable[[], Queue]
    ) -> None:
        self._dispatch, self._workers, self._settlement, self._settings = dispatch, workers, settlement, settings
        self._spool = dispatch.spool
        self._walk: Iterator[Item] = iter(())
        self._count = 0

    def tick(self) -> None:
        """Once a second."""
        self._count += 1
        self._workers.tick()
        self._dispatch.aside.retry()
        self._move_lingering()
        self._expire_slice()
        self._measure()
        self._settlement.retry()
        if self._count % 10 == 0:
            self._dispatch.reroute_lost()
        if self._count % 60 == 0:
            self._minute()

    def _minute(self) -> None:
        spool = self._spool
        spool.clock.save()
        if step := spool.clock.step():
            log.warning("the wall clock was set; lifetimes and retries do not follow it", seconds=round(step))
        settings = self._settings()
        for item in spool.overdue_quarantine(settings.quarantine_age, settings.quarantine_size):
            if item.moving:  # an operator releases it
                continue
            maillog.log(f"{item.queue_id}: removed from quarantine: retention", "qmgr")
            spool.remove(item)

    def _move_lingering(self) -> None:
        """Bounded: moving costs more than delivering, so what a living destination will take soon stays where it is."""
        moves = 0
        schedule = self._dispatch.schedule
        clock = self._spool.clock
        for item in list(islice(self._spool.folders["intake"].values(), 8 * _MOVES)):
            if clock.age(item.born) < LINGER:
                return
            jobs = schedule.jobs(item.queue_id)
            stuck = all(job.state == "resting" or (job.state == "ready" and job.site.dead) for job in jobs)
            old = clock.age(item.born) > LINGER_BUSY and not any(job.state == "busy" for job in jobs)
            if (stuck or old) and item.trailer.keep == "deliver" and not item.moving:
                note = Note(time.time(), "deferred", item.reason or "waits its turn")
                moved = self._spool.keep(item, "deferred", note)
                moved.add_done_callback(lambda future: future.exception())
                moves += 1
            if moves >= _MOVES:
                return

    def _expire_slice(self) -> None:
        """Walk over all messages, a slice a second: those of dead destinations grow too old without being tried."""
        for _ in range(_SLICE):
            item = next(self._walk, None)
            if item is None:
                folders = self._spool.folders
                self._walk = iter([*folders["deferred"].values(), *folders["intake"].values()])
                return
            if self._spool.get(item.queue_id) is item and item.folder in ("deferred", "intake"):
                self._dispatch.expired(item)

    def _measure(self) -> None:
        for folder, items in self._spool.folders.items():
            MESSAGES.labels(folder).set(len(items))
            OCTETS.labels(folder).set(self._spool.octets[folder])
            first = next(iter(items.values()), None)
            OLDEST.labels(folder).set(self._spool.clock.age(first.born) if first is not None else 0.0)
        self._dispatch.hops.measure()
        DEAD.set(sum(site.dead for site in self._dispatch.schedule.sites.values()))
