"""Which message goes where and when: the schedule's jobs to runners, results back into the schedule.

Contract: one Dispatch a process, on its loop. `arrived` takes messages that are to be delivered; `pump` starts what
may start and is called whenever something may have changed; a timer calls it when the schedule says so. At most
MOST_RUNNERS connections. What failure means for the mail: nothing here loses any: what is not in the schedule is in
the spool, and the next start finds it.
"""

import asyncio
import time
from collections.abc import Iterable
from itertools import chain

from appliance.daemons.delivery.aside import Aside
from appliance.daemons.delivery.asking import Asking
from appliance.daemons.delivery.filtering import Filtering
from appliance.daemons.delivery.next_hops import NextHops
from appliance.daemons.delivery.plan import Plan
from appliance.daemons.delivery.results import Results
from appliance.daemons.delivery.routing import Destination, Routing
from appliance.daemons.delivery.runner import Runner
from appliance.daemons.delivery.settle import Settlement
from appliance.daemons.delivery.way import Ways
from appliance.observe import lines, maillog, oplog, trouble
from appliance.protocol.errors import Unavailable
from appliance.queue.item import Item, Note
from appliance.queue.schedule import Job, Limits, Schedule
from appliance.queue.spool import Spool

MOST_RUNNERS = 300
#: Where mail waits while a table of routes cannot answer.
LOST = Destination("unroutable", ())
log = oplog.get("delivery")


class Dispatch:
    """`lifetime()` is in seconds. `ways` and `routing` are replaced by a reload."""

    def __init__(self, spool: Spool, limits: Limits, ways: Ways, routing: Routing) -> None:
        self.spool, self.ways, self.routing = spool, ways, routing
        self.schedule = Schedule(limits)
        self.lifetime = 432000.0
        self.results: Results
        self.settlement: Settlement
        self.filtering: Filtering
        self.draining = False
        self._loop = asyncio.get_running_loop()
        self._plans: dict[str, Plan] = {}
        self._destinations: dict[str, Destination] = {}
        self._runners: dict[Runner, asyncio.Task[None]] = {}
        self._idle: dict[str, list[Runner]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._later: dict[str, Item] = {}
        self.aside = Aside(spool)
        self.hops = NextHops(self.schedule)
        self._asking = Asking(spool, lambda: self.routing, self.pump)

    # ------------------------------------------------------------------ what comes

    def arrived(self, items: Iterable[Item]) -> None:
        """Messages from workers, from start-up, from an operator: schedule them, or put them where they belong."""
        for item in items:
            try:
                self._admit(item)
            except Exception:  # one message stops no other, least of all at start
                log.exception("a message is not tried before the next start, by an error of ours", id=item.queue_id)
        if not self._due:
            self._due = True
            self._loop.call_soon(self.pump)

    def _admit(self, item: Item) -> None:
        if not self.spool.has(item):
            return
        if item.folder == "intake" and item.trailer.keep != "deliver":
            self.aside.keep(item)
        elif item.folder in ("intake", "deferred"):
            self.settlement.settle(item)
            if item.todo:
                self._asking.first(item, self.enter)

    def enter(self, item: Item, due: float = 0.0) -> None:
        """Schedule every recipient that is to be tried; where a delivery still runs that began before the message was
        held or requeued, behind its end: else both would send."""
        if self.schedule.leaving(item.queue_id):
            self._later[item.queue_id] = item
            return
        now = time.monotonic()
        trailer = item.trailer
        ways = self._ways_of(item)
        split = None if len(ways) == 1 else ways
        if item.queue_id not in self._plans:
            maillog.log(lines.queued(item.queue_id, trailer.sender, trailer.size, len(trailer.recipients)), "qmgr")
        before = max(0.0, time.time() - trailer.received)
        self._plans[item.queue_id] = Plan(now, before, split, LOST.name in ways, self.routing)
        for name in ways:
            self.schedule.add(item.queue_id, name, now, due)

    def _ways_of(self, item: Item) -> dict[str, list[int]]:
        """Destination names to the recipients (by index) that go there."""
        ways: dict[str, list[int]] = {}
        for index in item.todo:
            try:
                destination = self.routing.destination(item.trailer.recipients[index], item.trailer)
            except Unavailable as error:
                log.warning("a table of routes cannot answer", queue_id=item.queue_id, why=str(error))
                trouble.tables.note(f"table {error.table or 'of routes'}", str(error), item.queue_id)
                destination = LOST._replace(lacks=str(error))
            self._destinations[destination.name] = destination
            self.schedule.cap(destination.name, destination.most)
            ways.setdefault(destination.name, []).append(index)
        return ways

    # ------------------------------------------------------------------ what goes

    def pump(self) -> None:
        """Start what may start."""
        self._due = False
        now = time.monotonic()
        while not self.draining and (self._idle or len(self._runners) < MOST_RUNNERS):
            job = self.schedule.take(now)
            if job is None:
                break
            self._start(job)
        self._set_timer(now)

    def _start(self, job: Job) -> None:
        idle = self._idle.get(job.destination)
        if idle:
            runner = idle.pop()
            if not idle:
                del self._idle[job.destination]
            runner.give(job)
            return
        if len(self._runners) >= MOST_RUNNERS and self._idle:
            next(iter(self._idle.values()))[0].retire()
        runner = Runner(self, self._destinations[job.destination])
        runner.give(job)
        self._runners[runner] = self._loop.create_task(runner.run())

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = None if self.draining else self.schedule.next_time(now)
        if at is not None:
            self._timer = self._loop.call_later(max(at - now, 0.01), self.pump)

    def idle(self, runner: Runner) -> None:
        """A runner has nothing to do: it may get the next job at once."""
        self._idle.setdefault(runner.destination.name, []).append(runner)
        self.pump()

    def ended(self, runner: Runner) -> None:
        """A runner is over."""
        self._runners.pop(runner, None)
        self.unlist(runner)
        self._loop.call_soon(self.pump)

    def unlist(self, runner: Runner) -> None:
        """A runner is not idle any more."""
        idle = self._idle.get(runner.destination.name, [])
        if runner in idle:
            idle.remove(runner)
            if not idle:
                del self._idle[runner.destination.name]

    # ------------------------------------------------------------------ for runners

    def indexes(self, item: Item, destination: str) -> list[int]:
        """The recipients of `item` that go this way and are still to be tried."""
        plan = self._plans.get(item.queue_id)
        if item.folder in ("hold", "quarantine") or plan is None:
            return []
        return plan.those(destination, item.todo)

    def waited(self, item: Item, begun: float) -> tuple[float, float]:
        """Seconds before the queue and in it, for the log."""
        plan = self._plans.get(item.queue_id)
        return (plan.before, max(0.0, begun - plan.entered)) if plan is not None else (0.0, 0.0)

    def finished(self, job: Job) -> None:
        """Nothing is left to do for this job."""
        self.schedule.finished(job, time.monotonic())
        if job.queue_id not in self.schedule:
            self._plans.pop(job.queue_id, None)
        self._came_back(job)

    def put_off(self, job: Job, item: Item | None) -> None:
        """Some recipients wait: for the age of the message, within the configured bounds."""
        age = self.spool.clock.age(item.born) if item is not None else 0.0
        self._rest(item, self.schedule.put_off(job, time.monotonic(), age))
        self._came_back(job)

    def site_failed(self, job: Job, item: Item) -> None:
        """The destination is not to be reached."""
        self._rest(item, self.schedule.site_failed(job, time.monotonic()))
        self._came_back(job)

    def _came_back(self, job: Job) -> None:
        """What waited for the end of this delivery: its message that was put back meanwhile, or a reload's new routes."""
        queue_id = job.queue_id
        if self.draining:
            return
        if queue_id in self._later and not self.schedule.leaving(queue_id):
            self.arrived((self._later.pop(queue_id),))
        elif (plan := self._plans.get(queue_id)) is not None and plan.routing is not self.routing:
            self.reroute(queue_id)

    def _rest(self, item: Item | None, due: float) -> None:
        """Keep what waits in a file of its own; expire what is too old."""
        if item is None or self.spool.get(item.queue_id) is not item or item.moving:
            return
        if self.expired(item):
            return
        wall = time.time()
        note = Note(wall, "deferred", next_try=wall + max(0.0, due - time.monotonic()))
        if item.folder == "intake":
            self.spool.keep(item, "deferred", note).add_done_callback(lambda future: future.exception())
        elif item.folder == "deferred":
            item.next_try = note.next_try or 0.0

    def expired(self, item: Item) -> bool:
        """True if the message was too old: it is out of the schedule then. What policy keeps is never, though the disk
        has refused it its folder until now."""
        if item.folder not in ("intake", "deferred") or item.moving or not item.todo:
            return False
        young = self.spool.clock.age(item.born) < self.lifetime
        if young or self.delivering(item.queue_id) or item.queue_id in self.aside:
            return False
        self.forget(item.queue_id)
        self.settlement.expire(item, "delivery time expired")
        return True

    def delivering(self, queue_id: str) -> bool:
        """Does a delivery of the message run?"""
        busy = any(job.state == "busy" for job in self.schedule.jobs(queue_id))
        return busy or self.schedule.leaving(queue_id)

    def reroute_lost(self) -> None:
        """Messages whose way a table could not tell: ask again."""
        for queue_id in [queue_id for queue_id, plan in self._plans.items() if plan.lost]:
            self.reroute(queue_id)

    def reroute(self, queue_id: str) -> None:
        """Find the ways of a message anew (the routes changed), unless it is being delivered."""
        item = self.spool.get(queue_id)
        if item is not None and queue_id in self.schedule:
            self._asking.first(item, self._reroute)

    def _reroute(self, item: Item) -> None:
        queue_id, jobs = item.queue_id, self.schedule.jobs(item.queue_id)
        if not jobs or any(job.state == "busy" for job in jobs):
            return
        ways = self._ways_of(item)
        split, plan = None if len(ways) == 1 else ways, self._plans[queue_id]
        plan.routing = self.routing
        if ways.keys() != {job.destination for job in jobs} or split != plan.split:
            self.schedule.remove(queue_id)
            self.enter(item, min(job.due for job in jobs))

    def renew(self, ways: Ways, routing: Routing) -> None:
        """A reload: what is tried from now on goes the new way; kept connections end after their message."""
        self.ways, self.routing = ways, routing
        self._destinations = {name: routing.renewed(old) for name, old in self._destinations.items()}
        for runner in self._runners:
            runner.retire()

    def forget(self, queue_id: str) -> None:
        """Out of the schedule (held, deleted, expired); a delivery that runs comes to its end."""
        self._asking.forget(queue_id)
        self.aside.forget(queue_id)
        self._later.pop(queue_id, None)
        self.schedule.remove(queue_id)
        self._plans.pop(queue_id, None)

    def set_aside(self, item: Item, why: str) -> bool:
        """Damaged content. False where the disk refuses it its place: it is tried again."""
        self.spool.set_aside(item, why)
        if gone := item.moving or not self.spool.has(item):
            self.forget(item.queue_id)
        return gone

    # ------------------------------------------------------------------ the end

    async def drain(self, grace: float) -> None:
        """Start nothing more; let what runs finish within `grace` seconds."""
        self.draining = True
        self._asking.close()
        if self._timer is not None:
            self._timer.cancel()
        for runner in chain.from_iterable(self._idle.values()):
            runner.stop()
        tasks = list(self._runners.values())
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for task in self._runners.values():
            task.cancel()
        if self._runners:
            await asyncio.wait(list(self._runners.values()), timeout=1.0)
