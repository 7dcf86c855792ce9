"""The end in good order: who takes mail ends first, who keeps it next, the journal last.

Contract: new connections are refused from the beginning; sessions have the grace time, then 421; a process that is late
is killed, which loses nothing that was answered with 250. An idle gateway ends in about a second. A second signal makes
the rest of the way quick.
"""

import time

from appliance.daemons.master.children import Child, Children
from appliance.daemons.master.listeners import Sockets
from appliance.daemons.master.loop import Loop
from appliance.observe import oplog

log = oplog.get("master")
#: Seconds that a phase has beyond its grace before its processes are killed.
LATE = 4.0
#: Grace of those that serve nobody outside.
INNER = 5.0
HURRY = 1.0


class Ending:
    """Ends all `children` phase by phase and then stops `loop`."""

    def __init__(self, loop: Loop, children: Children, sockets: Sockets) -> None:
        self._loop, self._children, self._sockets = loop, children, sockets
        self.begun = False
        self._phase = 0
        self._deadline = 0.0
        self._grace = 0.0

    def begin(self, grace: float) -> None:
        """Start to end; called again: hurry."""
        if self.begun:
            log.warning("asked to end again: no more patience")
            self._deadline = min(self._deadline, time.monotonic() + HURRY)
            self._grace = 0.0
            return
        log.info("ending", grace=grace)
        self.begun = self._children.ending = True
        self._grace = grace
        self._sockets.close_listeners()
        self._next()

    def _next(self) -> None:
        """Drain the lowest phase that still lives; stop when nobody does."""
        living = self._children.living()
        if not living:
            log.info("ended")
            self._sockets.close()
            self._loop.stop(0)
            return
        self._phase = min(child.spec.phase for child in living)
        grace = self._grace if any(child.spec.public for child in self._here()) else min(self._grace, INNER)
        self._deadline = time.monotonic() + grace + LATE
        self._children.drain(self._here(), grace)

    def _here(self) -> list[Child]:
        return [child for child in self._children.living() if child.spec.phase == self._phase]

    def changed(self) -> None:
        """A child ended."""
        if self.begun and not self._here():
            self._next()

    def look(self) -> None:
        """Each second: kill who is late."""
        if self.begun and time.monotonic() > self._deadline:
            for child in self._here():
                log.error("process does not end, killing it", worker=child.worker, pid=child.pid)
                self._children.kill(child)
