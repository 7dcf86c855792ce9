"""The children: born, watched, started again with back-off, ended in order.

Contract: a child that dies is started again, the first time at once, then after 0.1 s doubling to 60 s while it dies
within 10 s of its start; the others never notice. What cannot be made now is tried again. A child that leaves many
signs-of-life questions unanswered in a row is hung: it is killed and started again.
"""

import contextlib
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from appliance.daemons import control
from appliance.daemons.master.loop import Loop, Timer
from appliance.daemons.master.services import Spec
from appliance.net import channel as channels
from appliance.net.channel import Channel
from appliance.observe import metrics, oplog

log = oplog.get("master")
QUICK_DEATH = 10.0
MOST_WAIT = 60.0
PULSE = 10.0
#: So many pulses without an answer (two minutes) mean a hung process.
MISSED = 12


class Child:
    """One place in the table of processes, and the process that fills it now."""

    def __init__(self, spec: Spec, index: int) -> None:
        self.spec, self.index = spec, index
        self.pid = 0
        self.channel: Channel | None = None
        self.state = "down"  # down, starting, up, ending
        self.started = 0.0
        self.since = 0.0
        self.restarts = 0
        self.quick_deaths = 0
        self.missed = 0
        self.last_end = ""
        self.health: dict[str, Any] = {}
        self.hash = ""

    @property
    def worker(self) -> str:
        return f"{self.spec.name}.{self.index}"

    def tell(self, order: control.Order, fds: tuple[int, ...] = ()) -> bool:
        """Send an order; False if nobody is there, or it cannot be sent, which is logged."""
        if self.channel is None:
            return False
        try:
            self.channel.send(order, fds)
        except ConnectionError:
            return False
        except OSError as error:  # out of descriptors, and it would have to wait
            log.error("an order could not be sent", worker=self.worker, reason=error.strerror)
            return False
        return True


class Spawner(Protocol):
    """How a child comes into the world (birth.py)."""

    def spawn(self, child: Child, end: Channel) -> int:
        """Fork; `end` is the child's end of its channel. Its pid; raises OSError if there can be no more processes."""

    def send_birth(self, child: Child) -> bool:
        """Tell a child that was exec'd what it is; False if that cannot be, which is logged."""


def patience(quick_deaths: int) -> float:
    """Seconds until the next start after so many quick deaths in a row."""
    return 0.0 if quick_deaths <= 1 else min(MOST_WAIT, float(0.1 * 2 ** min(quick_deaths - 2, 16)))


class Children:
    """All children. `on_report(child, report)` gets what they say; `on_change(child)` comes after births and deaths."""

    def __init__(
        self,
        loop: Loop,
        spawner: Spawner,
        on_report: Callable[[Child, control.Report], None],
        on_change: Callable[[Child], None],
        registry: metrics.Registry,
    ) -> None:
        self._loop, self._spawner = loop, spawner
        self._ends = registry.counter(
            "postgate_process_ends_total", "Processes that ended without being asked.", ("service",)
        )
        self._up = registry.gauge("postgate_process_up", "Whether a process serves.", ("process",))
        self._on_report, self._on_change = on_report, on_change
        self.all: list[Child] = []
        self.on_pulse: Callable[[Mapping[str, control.Answer]], None] = lambda _answers: None
        self.ending = False
        self._ids = itertools.count(1)
        self._asked: dict[int, _Question] = {}
        loop.every(PULSE, self._pulse)

    def begin(self, counts: Iterable[tuple[Spec, int]]) -> None:
        """Start all: so many processes of each service."""
        self.all = [Child(spec, index) for spec, count in counts for index in range(count)]
        for child in self.all:
            self.start(child)

    def adapt(self, wanted: Iterable[tuple[Spec, bool]]) -> None:
        """After a reload: start what is needed now and was not. (What is needed no more ends at the next start.)"""
        there = {child.spec.name for child in self.all}
        for spec, needed in wanted:
            if needed and spec.name not in there:
                self.all.append(Child(spec, 0))
                self.start(self.all[-1])

    def up(self) -> list[Child]:
        """Those that serve."""
        return [child for child in self.all if child.state == "up"]

    def ready(self) -> bool:
        """Who takes mail serves, and of the others each does or has failed already (that is a degraded gateway, no
        unborn one)."""
        return all(child.state == "up" or (child.restarts > 0 and not child.spec.public) for child in self.all)

    def count(self) -> None:
        """Bring the gauges up to date."""
        for child in self.all:
            self._up.labels(child.worker).set(child.state == "up")

    def living(self) -> list[Child]:
        return [child for child in self.all if child.pid]

    def start(self, child: Child) -> None:
        if self.ending or child.pid:
            return
        try:
            child.channel, end = channels.pair()
            try:
                child.pid = self._spawner.spawn(child, end)
            finally:
                end.close()
        except OSError as error:
            self._forget_channel(child)
            child.quick_deaths += 1
            log.error("cannot start a process, will try again", worker=child.worker, reason=error.strerror)
            self._again(child, 0.5)
            return
        child.started, child.since, child.missed, child.health = time.monotonic(), time.time(), 0, {}
        child.state = "starting"
        if child.spec.execed and not self._spawner.send_birth(child):
            self.kill(child)  # it would wait for ever; so it is begun anew
        self._watch(child)
        self._on_change(child)

    def _forget_channel(self, child: Child) -> None:
        if child.channel is not None and not child.channel.closed:
            self._loop.watch(child.channel.fileno(), 0, lambda _ready: None)
            child.channel.close()
        child.channel = None

    def _watch(self, child: Child) -> None:
        channel = child.channel
        if channel is None or channel.closed:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.wants_write else 0)
        self._loop.watch(channel.fileno(), events, lambda ready: self._ready(child, channel, ready))

    def _ready(self, child: Child, channel: Channel, events: int) -> None:
        fd = channel.fileno()
        if events & selectors.EVENT_WRITE:
            channel.on_writable()
        if events & selectors.EVENT_READ and not channel.closed:
            for payload, fds in channel.on_readable():
                for passed in fds:
                    os.close(passed)
                try:
                    self._heard(child, control.decode_report(payload))
                except Exception:  # the reports behind it must not go along
                    log.exception("a report could not be dealt with", worker=child.worker)
        if channel.closed:
            self._loop.watch(fd, 0, lambda _ready: None)
        else:
            self._watch(child)

    def tell(self, children: Iterable[Child], order: control.Order, fds: tuple[int, ...] = ()) -> None:
        """Send `order` to each; `fds` stay the caller's."""
        for child in children:
            fd = -1 if child.channel is None else child.channel.fileno()
            if child.tell(order, fds):
                self._watch(child)
            if child.channel is not None and child.channel.closed and fd >= 0:
                self._loop.watch(fd, 0, lambda _ready: None)  # it is closed: poll(2) would wake for it without end

    def _heard(self, child: Child, report: control.Report) -> None:
        if isinstance(report, control.Ready):
            child.state = "up" if child.state == "starting" else child.state
            self._on_change(child)
        elif isinstance(report, control.Answer):
            self._answered(child, report)
        self._on_report(child, report)

    def _answered(self, child: Child, answer: control.Answer) -> None:
        child.missed = 0
        if not answer.metrics:
            child.health = answer.health
        question = self._asked.get(answer.id)
        if question is not None:
            question.answers[child.worker] = answer
            question.missing.discard(child.worker)
            if not question.missing:
                self._close(answer.id)

    def ask(self, done: Callable[[Mapping[str, control.Answer]], None], *, metrics: bool = False, within: float) -> None:
        """Ask all that serve; `done(worker -> answer)` when all answered or after `within` seconds."""
        number, asked = next(self._ids), self.up()
        question = self._asked[number] = _Question({child.worker for child in asked}, done)
        question.timer = self._loop.after(within if asked else 0.0, lambda: self._close(number))
        self.tell(asked, control.Ask(number, metrics))

    def _close(self, number: int) -> None:
        question = self._asked.pop(number, None)
        if question is not None:
            if question.timer:
                question.timer.cancel()
            question.done(question.answers)

    def _pulse(self) -> None:
        """Ask each for a sign of life; answers reset `missed`."""
        for child in self.up():
            child.missed += 1
            if child.missed > MISSED:
                log.error("process is hung, killing it", worker=child.worker, pid=child.pid)
                self.kill(child)
        self.ask(self.on_pulse, within=PULSE / 2)

    def reap(self) -> None:
        """Collect all children that ended (SIGCHLD)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self.all:
                if child.pid == pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        child.last_end = f"signal {-code}" if code < 0 else f"status {code}"
        with contextlib.suppress(ValueError):  # no signal, or one of those for real time, which have no names
            child.last_end = f"signal {signal.Signals(-code).name}"
        lived, was = time.monotonic() - child.started, child.pid
        self._forget_channel(child)
        child.pid, child.state = 0, "down"
        if not self.ending:
            child.restarts += 1
            self._ends.labels(child.spec.name).inc()
            child.quick_deaths = child.quick_deaths + 1 if lived < QUICK_DEATH else 0
            log.warning("process ended", worker=child.worker, pid=was, how=child.last_end, lived=f"{lived:.1f}s")
            self._again(child)
        for number, question in list(self._asked.items()):
            question.missing.discard(child.worker)
            if not question.missing:
                self._close(number)
        self._on_change(child)

    def _again(self, child: Child, least: float = 0.0) -> None:
        wait = max(least, patience(child.quick_deaths))
        if wait >= 1.0:
            log.error("process keeps dying", worker=child.worker, next_start=f"{wait:.1f}s", last=child.last_end)
        self._loop.after(wait, lambda: self.start(child))

    def drain(self, children: Iterable[Child], grace: float) -> None:
        """Ask `children` to end within `grace` seconds."""
        for child in children:
            if child.pid:
                child.state = "ending"
                self.tell([child], control.Drain(grace))

    def kill(self, child: Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)


class _Question:
    """One `ask` under way."""

    def __init__(self, missing: set[str], done: Callable[[Mapping[str, control.Answer]], None]) -> None:
        self.missing, self.done = missing, done
        self.answers: dict[str, control.Answer] = {}
        self.timer: Timer | None = None
