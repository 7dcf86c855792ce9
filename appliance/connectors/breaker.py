"""A peer that keeps failing is left alone for a while, and asked again by ourselves until it is well.

Contract: THRESHOLD failures without a success between them open the breaker: who wants to ask is told so at once. While
it is open, `probe` (one question of our own) is put at growing intervals; its first success closes it, and so does any
other. A probe that finds the peer there, but did not tell of a success, cannot say more: the next question shows whether
it does its work, and one failure more opens the breaker again, for longer. It never opens for good. What failure means
for the mail: an open breaker is "not scanned" without a wait.
"""

import asyncio
import random
import weakref
from collections.abc import Awaitable, Callable
from types import MethodType

THRESHOLD = 5
FIRST, LONGEST = 1.0, 30.0


class Breaker:
    """`probe` is a bound method that says whether the peer answered; the breaker does not keep its owner alive."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[bool]],
        *,
        threshold: int = THRESHOLD,
        first: float = FIRST,
        longest: float = LONGEST,
    ) -> None:
        assert isinstance(probe, MethodType)
        self._probe = weakref.WeakMethod(probe)
        self._threshold, self._first, self._longest = threshold, first, longest
        self._failures = 0
        self._wait = first
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        #: Only a probe has closed it.
        self._on_trial = False
        self.is_open = False
        self.opened = 0

    def succeeded(self) -> None:
        """The peer answered."""
        self._failures = 0
        self.is_open = self._on_trial = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def failed(self) -> None:
        """The peer did not answer, or not in its protocol."""
        self._failures += 1
        if self._failures >= self._threshold and not self.is_open and not self._closed:
            self.is_open = True
            self.opened += 1
            if not self._on_trial:
                self._wait = self._first
            self._later()

    def _later(self) -> None:
        wait = self._wait * random.uniform(0.7, 1.0)
        self._wait = min(self._longest, self._wait * 2)
        self._timer = asyncio.get_running_loop().call_later(wait, self._start)

    def _start(self) -> None:
        self._timer = None
        probe = self._probe()
        if probe is not None:
            self._task = asyncio.get_running_loop().create_task(self._try(probe))

    async def _try(self, probe: Callable[[], Awaitable[bool]]) -> None:
        there = await probe()
        if not self.is_open or self._closed:
            return
        if there:
            self.is_open, self._on_trial, self._failures = False, True, self._threshold - 1
        else:
            self._later()

    def close(self) -> None:
        """Probe no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
