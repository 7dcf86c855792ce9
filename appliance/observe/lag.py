"""How late the event loop is: each tick should come at its time; what it is late by is the longest call that ran between.

Contract: one meter a process, started by the skeleton; `postgate_loop_lag_seconds` (histogram) and
`postgate_loop_lag_max_seconds` (since start) are exported. Nothing may keep a loop over 20 ms.
"""

import asyncio

from appliance.observe import metrics

INTERVAL = 0.05
_lag = metrics.histogram("postgate_loop_lag_seconds", "How late timers of the event loop come.")
_worst = metrics.gauge("postgate_loop_lag_max_seconds", "The latest timer of the event loop since the start.")


class LagMeter:
    """Measures `loop` from `start()` until `stop()`; `worst` is in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.worst = 0.0

    def start(self) -> None:
        self._due = self._loop.time() + INTERVAL
        self._handle = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        late = max(0.0, self._loop.time() - self._due)
        _lag.observe(late)
        if late > self.worst:
            self.worst = late
            _worst.set(late)
        self.start()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
