"""Deadlines of many that wait, for the price of one timer.

Contract: `within(seconds, awaitable)` is what asyncio.timeout does, up to STEP later: a timer for each question costs
more than the question. One timer a loop looks at all that wait, and only while any do. Cancelling from outside is
passed on.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from appliance.mail.promise import Promise

#: Seconds between looks, and so the most that a deadline is missed by.
STEP = 0.1

T = TypeVar("T")


class _Due:
    """One that waits."""

    __slots__ = ("fired", "task", "when")

    def __init__(self, task: "asyncio.Task[object]", when: float) -> None:
        self.task, self.when, self.fired = task, when, False

    def fire(self) -> None:
        self.fired = True
        self.task.cancel()


class DuePromise:
    """A promise that is to be kept by `when`."""

    __slots__ = ("_promise", "_since", "_watch", "when")

    def __init__(self, promise: Promise[Any], watch: "_Watch", seconds: float) -> None:
        self._promise, self._watch, self._since = promise, watch, watch.loop.time()
        self.when = self._since + seconds

    def fire(self) -> None:
        self._promise.set_exception(TimeoutError())

    def over(self) -> float:
        """It is kept, or given up: the seconds that it took."""
        self._watch.waiting.discard(self)
        return self._watch.loop.time() - self._since


class _Watch:
    """All that wait on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: set[_Due | DuePromise] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due: _Due | DuePromise) -> None:
        self.waiting.add(due)
        if self._timer is None:
            self._timer = self.loop.call_later(STEP, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        for due in [due for due in self.waiting if due.when <= now]:
            self.waiting.discard(due)
            due.fire()
        self._timer = self.loop.call_later(STEP, self._look) if self.waiting else None


_watch: _Watch | None = None


def _watching() -> _Watch:
    """The one of the running loop."""
    global _watch
    loop = asyncio.get_running_loop()
    if _watch is None or _watch.loop is not loop:
        _watch = _Watch(loop)
    return _watch


def expire(seconds: float, promise: Promise[Any]) -> DuePromise:
    """Break the promise with TimeoutError behind `seconds`. Say to what comes back when it is over."""
    watch = _watching()
    due = DuePromise(promise, watch, seconds)
    watch.add(due)
    return due


async def within(seconds: float, answer: Awaitable[T]) -> T:
    """The answer. Raises TimeoutError behind `seconds`; `answer` is cancelled then."""
    task = asyncio.current_task()
    assert task is not None
    watch = _watching()
    due = _Due(task, watch.loop.time() + seconds)
    watch.add(due)
    try:
        return await answer
    except asyncio.CancelledError:
        if due.fired and task.uncancel() <= 0:
            raise TimeoutError from None
        raise
    finally:
        watch.waiting.discard(due)
