"""Reload in two steps over all processes: prepare everywhere, then commit everywhere, or abort everywhere.

Contract: the files are read once; every process compiles the same octets. One refusal, one death or the deadline, and
the old snapshot stays in force in all of them. A child that was born during a round catches up by itself afterwards.
What failure means for the mail: nothing; transactions go on with the snapshot they began with.
"""

import itertools
import os
import time
from collections.abc import Callable

import msgspec

from appliance.config.snapshot import Snapshot
from appliance.daemons import control
from appliance.daemons.master.children import Child, Children
from appliance.daemons.master.loop import Loop, Timer
from appliance.observe import metrics, oplog

log = oplog.get("master")
#: Seconds that all processes have to compile a new snapshot.
DEADLINE = 60.0
#: Seconds until one that is to catch up is told again, where that could not be.
AGAIN = 1.0


class Outcome(msgspec.Struct, frozen=True):
    """How a reload went; `text` is for the operator, with all mistakes if it was refused."""

    good: bool
    text: str
    hash: str = ""
    at: float = 0.0


Done = Callable[[Outcome], None]


class Rounds:
    """`adopt(snapshot)` puts a snapshot in force in the master itself."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        adopt: Callable[[Snapshot], None],
        current: Snapshot,
        registry: metrics.Registry,
    ) -> None:
        self._reloads = registry.counter("postgate_reloads_total", "Reloads by how they went.", ("result",))
        self._loop, self._children, self._adopt = loop, children, adopt
        self.current = current
        self.last: Outcome | None = None
        self._ids = itertools.count(1)
        self._round: _Round | None = None
        self._late: dict[int, tuple[Child, str]] = {}

    @property
    def busy(self) -> bool:
        return self._round is not None

    def begin(self, snapshot: Snapshot, done: Done) -> None:
        """Try to put `snapshot` in force everywhere; only while not `busy`."""
        asked = self._children.up()
        number = next(self._ids)
        this = self._round = _Round(number, snapshot, {child.worker for child in asked}, done)
        this.timer = self._loop.after(DEADLINE, self._too_late)
        try:
            self._prepare(asked, snapshot, number)
        except OSError as error:
            self._refuse(f"it cannot be given to the processes: {error.strerror}")
            return
        self._settle()

    def _prepare(self, children: list[Child], snapshot: Snapshot, number: int) -> None:
        """Raises OSError: no descriptor is left, or no memory."""
        for execed in (False, True):
            if told := [child for child in children if child.spec.execed == execed]:
                fd = control.to_fd(snapshot.terms if execed else snapshot.blob)
                try:
                    self._children.tell(told, control.Prepare(number), (fd,))
                finally:
                    os.close(fd)

    def heard(self, child: Child, report: control.Report) -> None:
        """Every report of every child passes here."""
        if isinstance(report, control.Ready):
            self._catch_up(child)
        elif isinstance(report, control.Prepared):
            if report.id in self._late:
                self._late_answer(child, report)
            elif self._round is not None and report.id == self._round.number:
                self._answered(child, report, self._round)

    def _answered(self, child: Child, report: control.Prepared, this: "_Round") -> None:
        this.waiting.discard(child.worker)
        this.prepared.add(child.worker)
        if report.refusal:
            self._refuse(f"{child.worker} refused: {report.refusal}")
        else:
            self._settle()

    def changed(self, child: Child) -> None:
        """A child was born or died."""
        if self._round is not None and not child.pid:
            self._round.prepared.discard(child.worker)
            if child.worker in self._round.waiting:
                self._refuse(f"{child.worker} died while it prepared ({child.last_end})")

    def _too_late(self) -> None:
        if self._round is not None:
            self._refuse(f"no answer within {DEADLINE:.0f} s from: {', '.join(sorted(self._round.waiting))}")

    def _refuse(self, why: str) -> None:
        this = self._round
        assert this is not None
        self._children.tell(self._children.up(), control.Abort(this.number))
        self._end(this, Outcome(False, f"nothing was changed: {why}", self.current.hash, time.time()))

    def _settle(self) -> None:
        this = self._round
        if this is None or this.waiting:
            return
        self.current = this.snapshot
        self._adopt(this.snapshot)
        committed = [child for child in self._children.up() if child.worker in this.prepared]
        self._children.tell(committed, control.Commit(this.number))
        for child in committed:
            child.hash = this.snapshot.hash
        self._end(this, Outcome(True, "in force in all processes", this.snapshot.hash, time.time()))

    def _end(self, this: "_Round", outcome: Outcome) -> None:
        self._round, self.last = None, outcome
        self._reloads.labels("in_force" if outcome.good else "refused").inc()
        if this.timer:
            this.timer.cancel()
        (log.info if outcome.good else log.error)("reload", result=outcome.text, hash=outcome.hash[:12])
        for child in self._children.up():
            self._catch_up(child)
        this.done(outcome)

    def refused(self, why: str) -> Outcome:
        """A reload that did not even begin: the files have mistakes."""
        self._reloads.labels("refused").inc()
        self.last = Outcome(False, f"nothing was changed: {why}", self.current.hash, time.time())
        log.error("reload", result=self.last.text)
        return self.last

    def _catch_up(self, child: Child) -> None:
        """A child that was born with an older snapshot than what is in force now."""
        if self._round is None and child.hash != self.current.hash and child.state == "up":
            number = next(self._ids)
            try:
                self._prepare([child], self.current, number)
            except OSError as error:
                log.error("a process could not catch up, it is told again", worker=child.worker, reason=error.strerror)
                self._loop.after(AGAIN, lambda: self._catch_up(child))
                return
            self._late[number] = (child, self.current.hash)

    def _late_answer(self, child: Child, report: control.Prepared) -> None:
        _, hash_ = self._late.pop(report.id)
        if report.refusal:
            log.error("a process could not catch up, starting it again", worker=child.worker, reason=report.refusal)
            self._children.kill(child)
        elif hash_ == self.current.hash:
            child.hash = hash_
            self._children.tell([child], control.Commit(report.id))


class _Round:
    """One reload under way."""

    def __init__(self, number: int, snapshot: Snapshot, waiting: set[str], done: Done) -> None:
        self.number, self.snapshot, self.waiting, self.done = number, snapshot, waiting, done
        self.prepared: set[str] = set()
        self.timer: Timer | None = None
