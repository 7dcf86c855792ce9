"""The dispatcher of scand: takes jobs from the workers, gives them to the nursery, and the findings back.

Contract: at most [limits] scand children at once; more jobs wait, QUEUE of them at most, each no longer than it may then
take: waiting is not charged to content. It looks into no content: a descriptor goes through unread. What failure means
for the mail: every job gets an answer; where there is no report it says why, and the message counts as not inspected.
"""

import asyncio
import os
import socket
from collections import deque
from functools import partial
from typing import Any

import msgspec

from appliance.config.terms import Terms
from appliance.daemons.scand import yara
from appliance.daemons.scand.hatchery import Hatchery
from appliance.daemons.skeleton import LeanBirth
from appliance.mail.inspection import Finding, Job, Report, decode_job
from appliance.net.channel import Channel
from appliance.observe import metrics, oplog

log = oplog.get("scand")
#: Jobs that may wait.
QUEUE = 1000
#: Seconds that a start waits for the nursery.
FIRST = 10.0
_jobs = metrics.counter("postgate_scand_jobs_total", "Messages taken apart, by result.", ["result"])
_queue = metrics.gauge("postgate_scand_queue", "Jobs that wait for a process.")


class _Waiting:
    """A job, its descriptors, who asked, and until when (loop time) it may wait."""

    def __init__(self, job: Job, fds: list[int], channel: Channel, until: float) -> None:
        self.job, self.fds, self.channel, self.until = job, fds, channel, until

    def answer(self, report: Report | None, why: str) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        _jobs.labels("failed" if report is None else "over" if report.over else "read").inc()
        if not self.channel.closed:
            self.channel.send(Finding(self.job.id, report, why[:500]))


class Scand:
    """The daemon (daemons.skeleton.Daemon)."""

    def __init__(self, birth: LeanBirth) -> None:
        self._listening = birth.listening["unix:scand"]
        self._limit, self._rules = birth.terms.scand, birth.terms.rules
        self._channels: set[Channel] = set()
        self._queue: deque[_Waiting] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self.read = self.failed = 0

    async def start(self) -> None:
        """The nursery first: who comes meanwhile waits in the backlog."""
        self._loop = asyncio.get_running_loop()
        self._hatchery = Hatchery(self._next)
        self._hatchery.rules(self._rules)
        self._hatchery.start()
        await asyncio.wait_for(self._hatchery.ready.wait(), FIRST)
        missing = {"network", "files", "processes"} - set(self._hatchery.refused)
        if missing:
            log.warning("this kernel does not take everything from readers of content", left=", ".join(sorted(missing)))
        for sock in self._listening:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("cannot accept a worker", why=error.strerror)
            self._loop.remove_reader(sock.fileno())
            self._loop.call_later(1.0, self._loop.add_reader, sock.fileno(), self._accept, sock)
            return
        channel = Channel(connection)
        self._channels.add(channel)
        channel.attach(self._loop, lambda data, fds: self._asked(channel, data, fds), lambda: self._gone(channel))

    def _asked(self, channel: Channel, payload: bytes, fds: list[int]) -> None:
        try:
            job = decode_job(payload)
        except msgspec.DecodeError as error:
            job = None
            log.error("a worker sent what is no job", why=str(error))
        if job is None or len(fds) != (2 if job.room else 1):
            for fd in fds:
                os.close(fd)
            channel.close()
            return
        waiting = _Waiting(job, fds, channel, self._loop.time() + job.seconds)
        if len(self._queue) >= QUEUE:
            self._answer(waiting, None, f"{QUEUE} messages wait already")
            return
        self._queue.append(waiting)
        self._next()

    def _next(self) -> None:
        """Start what there is room for."""
        while self._queue and self._hatchery.running < self._limit and self._hatchery.ready.is_set():
            waiting = self._queue.popleft()
            if waiting.channel.closed or self._loop.time() > waiting.until:
                self._answer(waiting, None, "no process became free in time")
                continue
            self._idle.clear()
            self._hatchery.run(waiting.job, waiting.fds, waiting.job.seconds, partial(self._done, waiting))
        _queue.set(len(self._queue))
        if not self._queue and not self._hatchery.running:
            self._idle.set()

    def _done(self, waiting: _Waiting, report: Report | None, why: str) -> None:
        self._answer(waiting, report, why)
        self._loop.call_soon(self._next)

    def _answer(self, waiting: _Waiting, report: Report | None, why: str) -> None:
        if report is None:
            self.failed += 1
            log.warning("a message was not read", why=why, size=waiting.job.size)
        else:
            self.read += 1
        waiting.answer(report, why)

    def _gone(self, channel: Channel) -> None:
        """Its jobs that have not begun are dropped when their turn comes."""
        self._channels.discard(channel)

    def prepare(self, terms: Terms) -> None:
        """Every [limits] scand will do."""

    def commit(self, terms: Terms) -> None:
        """More or fewer children, other rules from now on."""
        self._limit, self._rules = terms.scand, terms.rules
        self._hatchery.rules(self._rules)
        self._next()

    def certificates(self, certificates: Any) -> None:
        """scand speaks no TLS."""

    async def drain(self, grace: float) -> None:
        """Take no new worker, finish what waits, end the nursery."""
        for sock in self._listening:
            self._loop.remove_reader(sock.fileno())
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            log.warning("ends with messages unread", running=self._hatchery.running, waiting=len(self._queue))
        self._hatchery.stop()
        for channel in tuple(self._channels):
            channel.close()

    def health(self) -> dict[str, Any]:
        hatchery = self._hatchery
        degraded = [] if hatchery.ready.is_set() else ["scand: the process that reads messages is not there"]
        if not hatchery.rules_in_force:
            degraded.append("scand: the YARA rules are not in force")
        return {
            "read": self.read,
            "not read": self.failed,
            "running": hatchery.running,
            "waiting": len(self._queue),
            "confined": ", ".join(hatchery.refused) or "no",
            "yara rules": yara.fingerprint(self._rules) or "none",
            "degraded": degraded,
        }
