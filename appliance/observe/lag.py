"""How late the event loop is: each tick should come at its time; what it is late by is the longest call that ran between.

Contract: one meter a process, started by the skeleton; `postgate_loop_lag_seconds` (histogram) and
`postgate_loop_lag_max_seconds` (since start) are exported. Nothing may keep a loop over 20 ms. A machine with too few
processors makes every loop late: `peaks` knows how long the process was ready to run and did not.
"""

import asyncio
import contextlib
import os
from collections import deque
from typing import NamedTuple

from appliance.observe import metrics

INTERVAL = 0.05
#: A peak is at least so late, in seconds; so many are remembered.
PEAK, PEAKS = 0.02, 500
_lag = metrics.histogram("postgate_loop_lag_seconds", "How late timers of the event loop come.")
_worst = metrics.gauge("postgate_loop_lag_max_seconds", "The latest timer of the event loop since the start.")


class Peak(NamedTuple):
    """A tick that came late: when (monotonic clock), by how much, and for how much of it the machine ran others."""

    at: float
    late: float
    denied: float

    @property
    def own(self) -> float:
        return self.late - self.denied


class LagMeter:
    """Measures `loop` from `start()` until `stop()`; `worst` is in seconds. `peaks`: the first that is not before some
    moment has the longest lag of the loop's own since that moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._stolen: int | None = None
        self._waited = 0.0
        self.worst = 0.0
        self.peaks: deque[Peak] = deque(maxlen=PEAKS)

    def start(self) -> None:
        with contextlib.suppress(OSError):
            self._stolen = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._waited = self._denied()
        self._wait()

    def _wait(self) -> None:
        self._due = self._loop.time() + INTERVAL
        self._handle = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now, waited = self._loop.time(), self._denied()
        late = max(0.0, now - self._due)
        _lag.observe(late)
        if late >= PEAK:
            self._remember(Peak(now, late, min(late, waited - self._waited)))
        if late > self.worst:
            self.worst = late
            _worst.set(late)
        self._waited = waited
        self._wait()

    def _remember(self, peak: Peak) -> None:
        """Smaller ones before it are the longest since no moment any more."""
        while self.peaks and self.peaks[-1].own <= peak.own:
            self.peaks.pop()
        self.peaks.append(peak)

    def _denied(self) -> float:
        """Seconds for which the process waited for a processor; 0 where the kernel does not count."""
        if self._stolen is None:
            return 0.0
        try:
            return int(os.pread(self._stolen, 64, 0).split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._stolen is not None:
            os.close(self._stolen)
            self._stolen = None
