"""The master's own loop: descriptors, timers and signals by `selectors`, no threads, so that it may fork at any time.

Contract: callbacks run one after the other in this process; an exception out of one is logged and ends nothing. The
selector is poll(2): it has no kernel object that a forked child would share.
"""

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

from appliance.observe import oplog

log = oplog.get("master")
Callback = Callable[[], None]


class Timer:
    """A callback at a time; `cancel()` it."""

    def __init__(self, due: float, callback: Callback) -> None:
        self.due, self.callback = due, callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Runs until `stop(status)`."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: dict[int, Callback] = {}
        self._status: int | None = None
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain_wake)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(ready events)` while `fd` is ready for `events` (0: forget it)."""
        known = fd in self._selector.get_map()
        if events and known:
            self._selector.modify(fd, events, callback)
        elif events:
            self._selector.register(fd, events, callback)
        elif known:
            self._selector.unregister(fd)

    def after(self, delay: float, callback: Callback) -> Timer:
        """Call back once, `delay` seconds from now."""
        timer = Timer(time.monotonic() + delay, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def every(self, period: float, callback: Callback) -> None:
        """Call back again and again; missed times are not made up for."""

        def again() -> None:
            self.after(period, again)
            callback()

        self.after(period, again)

    def on_signal(self, number: int, callback: Callback) -> None:
        """One that comes before the loop runs waits for it."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._signals[number] = callback
        signal.signal(number, lambda *_: None)

    def stop(self, status: int) -> None:
        self._status = status

    def run(self) -> int:
        """Until `stop`; its status."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        try:
            while self._status is None:
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
        return self._status

    def _turn(self) -> None:
        known = self._selector.get_map()
        for key, events in self._selector.select(self._patience()):
            if key.fd in known and known[key.fd].data is key.data:  # not forgotten in this very turn
                self._call(key.data, events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                self._call(timer.callback)

    def _patience(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            log.exception("an error in the master was survived")

    def _drain_wake(self, _events: int) -> None:
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._wake, 4096)
        for number in dict.fromkeys(numbers):
            if number in self._signals:
                self._call(self._signals[number])

    def close_in_child(self) -> None:
        """Close what a forked child must not keep."""
        os.close(self._wake)
        os.close(self._woken)
