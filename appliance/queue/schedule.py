"""Which message goes to which destination next: fairness, concurrency, retry times, dead sites. Pure data, no IO.

Contract: a Job is one message for one destination. All times are monotonic seconds given by the caller; every operation
costs O(log n) (`flush` is spread over the following `take`s). Destinations with work take turns, so none waits behind
another's queue; within one, jobs go in order. Feedback as in Postfix's queue manager, simplified: an
answer widens a site's window by one, a failure to connect narrows it; about four failures in a row make a site dead, then
one job every `dead_probe` seconds tries it.
What failure means for the mail: a lost schedule is built anew at start from the spool, and everything is tried once.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Literal, NamedTuple

#: Due jobs that one `take` sorts in at most: bounds its time when many become due at once.
STEP = 256
JITTER = 0.1


class Limits(NamedTuple):
    """Deliveries at once per destination (most, at first) and times in seconds."""

    concurrency: int = 20
    initial: int = 5
    retry_min: float = 60.0
    retry_max: float = 3600.0
    dead_probe: float = 10.0


class Job:
    """One message (`queue_id`) for one `destination`. `due` is the monotonic time before which it rests."""

    __slots__ = ("due", "queue_id", "site", "state", "turn")

    def __init__(self, queue_id: str, site: "Site") -> None:
        self.queue_id, self.site = queue_id, site
        self.state: Literal["ready", "busy", "resting", "gone"] = "gone"
        self.due = 0.0
        self.turn = 0

    @property
    def destination(self) -> str:
        return self.site.name


class Site:
    """One destination. `window` deliveries at once; `cohorts` of failures in a row: 1 makes it dead until an
    answer. Jobs whose turn is up to `flushed` were resting when an operator flushed."""

    __slots__ = ("busy", "cohorts", "dead", "flushed", "jobs", "listed", "name", "probe_at", "ready", "window")

    def __init__(self, name: str, window: int) -> None:
        self.name, self.window = name, window
        self.ready: deque[Job] = deque()
        self.busy = self.jobs = 0
        self.cohorts = self.probe_at = 0.0
        self.dead = self.listed = False
        self.flushed = 0

    def may_start(self, now: float) -> bool:
        """True if a delivery to it may begin (if there is one)."""
        return (self.busy == 0 and self.probe_at <= now) if self.dead else self.busy < self.window


class Schedule:
    """All jobs. `jitter()` gives [0, 1)."""

    def __init__(self, limits: Limits, jitter: Callable[[], float] = random.random) -> None:
        self.limits, self._jitter = limits, jitter
        self.sites: dict[str, Site] = {}
        self._jobs: dict[str, dict[str, Job]] = {}
        self._caps: dict[str, int] = {}
        self._turns: deque[Site] = deque()
        self._resting: list[tuple[float, int, Job]] = []
        self._probes: list[tuple[float, int, Site]] = []
        self._flushed: list[tuple[float, int, Job]] = []
        self._count = 0
        self._leaving: dict[str, int] = {}

    # ------------------------------------------------------------------ what is there

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._jobs

    def __len__(self) -> int:
        return sum(site.jobs for site in self.sites.values())

    @property
    def busy(self) -> int:
        """Deliveries that run."""
        return sum(site.busy for site in self.sites.values())

    def jobs(self, queue_id: str) -> list[Job]:
        """The jobs of a message."""
        return list(self._jobs.get(queue_id, {}).values())

    def leaving(self, queue_id: str) -> bool:
        """True while deliveries of the message run that began before it was removed."""
        return queue_id in self._leaving

    def cap(self, destination: str, most: int) -> None:
        """So many deliveries at once to this destination, from now on; 0: limits.concurrency."""
        if most:
            self._caps[destination] = most
            if destination in self.sites:
                self.sites[destination].window = min(self.sites[destination].window, most)
        else:
            self._caps.pop(destination, None)

    def add(self, queue_id: str, destination: str, now: float, due: float = 0.0) -> Job:
        """A message for a destination, to be tried from `due` on; a pair that is there already keeps its place."""
        jobs = self._jobs.setdefault(queue_id, {})
        if destination in jobs:
            return jobs[destination]
        site = self.sites.get(destination)
        if site is None:
            window = min(self.limits.initial, self._most(destination))
            site = self.sites[destination] = Site(destination, window)
        job = jobs[destination] = Job(queue_id, site)
        site.jobs += 1
        self._rest(job, due, now)
        return job

    def remove(self, queue_id: str) -> bool:
        """Forget a message (held, deleted). True if a delivery of it runs: its result is then of no effect here."""
        running = False
        for job in self._jobs.pop(queue_id, {}).values():
            if job.state == "busy":
                running = True
                self._leaving[queue_id] = self._leaving.get(queue_id, 0) + 1
            else:
                self._leave(job)
            job.state = "gone"
        return running

    # ------------------------------------------------------------------ taking

    def take(self, now: float) -> Job | None:
        """The next job to deliver, now busy, or None. Every job taken must come back by `finished`, `put_off` or
        `site_failed`."""
        self._advance(now)
        while self._turns:
            site = self._turns.popleft()
            site.listed = False
            job = self._first(site) if site.may_start(now) else None
            if job is not None:
                job.state = "busy"
                site.busy += 1
                self._list(site, now)
                return job
        return None

    def next_time(self, now: float) -> float | None:
        """When `take` may have something again, if nothing comes back before: a monotonic time, or None."""
        if self._turns or self._flushed:
            return now
        times = [heap[0][0] for heap in (self._resting, self._probes) if heap]
        return max(now, min(times)) if times else None

    def _advance(self, now: float) -> None:
        """Sort in what has become due."""
        for _ in range(min(STEP, len(self._flushed))):
            due, turn, job = self._flushed.pop()
            if job.turn == turn and job.state == "resting":
                self._rest(job, 0.0 if turn <= job.site.flushed else due, now)
        for _ in range(STEP):
            if not self._resting or self._resting[0][0] > now:
                break
            _, turn, job = heappop(self._resting)
            if job.turn == turn and job.state == "resting":
                self._ready(job, now)
        while self._probes and self._probes[0][0] <= now:
            self._list(heappop(self._probes)[2], now)

    def _first(self, site: Site) -> Job | None:
        while site.ready:
            job = site.ready.popleft()
            if job.state == "ready":
                return job
        return None

    def _list(self, site: Site, now: float) -> None:
        """Give the site a turn if it has work and may start it."""
        if site.ready and not site.listed and site.may_start(now):
            site.listed = True
            self._turns.append(site)

    def _ready(self, job: Job, now: float) -> None:
        job.state = "ready"
        job.site.ready.append(job)
        self._list(job.site, now)

    def _rest(self, job: Job, due: float, now: float) -> None:
        job.due = due
        if due <= now:
            self._ready(job, now)
            return
        self._count += 1
        job.state, job.turn = "resting", self._count
        heappush(self._resting, (due, self._count, job))

    # ------------------------------------------------------------------ results

    def finished(self, job: Job, now: float) -> None:
        """The site answered and nothing is left to do for this job."""
        self._answered(job.site)
        self._back(job, now)
        if job.state != "gone":
            self._forget(job)
            self._leave(job)
            job.state = "gone"

    def put_off(self, job: Job, now: float, age: float) -> float:
        """The site answered, the message must wait: for its age, within [retry_min, retry_max], and up to a tenth more.
        Returns when it is due."""
        self._answered(job.site)
        self._back(job, now)
        wait = min(max(age, self.limits.retry_min), self.limits.retry_max) * (1 + JITTER * self._jitter())
        if job.state != "gone":
            self._rest(job, now + wait, now)
        return now + wait

    def site_failed(self, job: Job, now: float) -> float:
        """No connection, or no usable greeting: the site's fault, not the message's. Returns when this job is due."""
        site, due = job.site, now + self.limits.dead_probe
        site.cohorts += 1 / site.window
        site.window = max(1, site.window - 1)
        if site.cohorts >= 1:
            site.dead, site.probe_at = True, due
            self._count += 1
            heappush(self._probes, (due, self._count, site))
        self._back(job, now)
        if job.state != "gone":
            self._rest(job, due, now)
        return due

    def _answered(self, site: Site) -> None:
        most = self._most(site.name)
        if site.dead:
            site.dead, site.window = False, min(self.limits.initial, most)
        elif site.window < site.busy + self.limits.initial:
            site.window = min(most, site.window + 1)
        site.cohorts = 0.0

    def _most(self, destination: str) -> int:
        return self._caps.get(destination) or self.limits.concurrency

    def _back(self, job: Job, now: float) -> None:
        """The delivery is over."""
        job.site.busy -= 1
        if job.state == "gone":
            self._leave(job)
            self._leaving[job.queue_id] -= 1
            if not self._leaving[job.queue_id]:
                del self._leaving[job.queue_id]
        self._list(job.site, now)

    def _leave(self, job: Job) -> None:
        job.site.jobs -= 1
        if not job.site.jobs:
            self.sites.pop(job.destination, None)

    def _forget(self, job: Job) -> None:
        jobs = self._jobs[job.queue_id]
        del jobs[job.destination]
        if not jobs:
            del self._jobs[job.queue_id]

    # ------------------------------------------------------------------ operators

    def flush(self, now: float, destination: str | None = None) -> None:
        """Everything that rests (for this destination) is due now, dead sites are tried at once."""
        for site in self._flush_sites(destination):
            site.flushed, site.probe_at = self._count, now
            self._list(site, now)
        self._flushed += self._resting
        self._resting = []

    def _flush_sites(self, destination: str | None) -> Iterator[Site]:
        if destination is None:
            yield from self.sites.values()
        elif destination in self.sites:
            yield self.sites[destination]

    def hasten(self, queue_id: str, now: float) -> bool:
        """This message is due now (also at dead sites). False if it is not here."""
        for job in self.jobs(queue_id):
            job.site.probe_at = min(job.site.probe_at, now)
            if job.state == "resting":
                self._rest(job, 0.0, now)
            self._list(job.site, now)
        return queue_id in self._jobs
