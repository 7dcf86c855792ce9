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


class _Watch:
    """All that wait on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: set[_Due] = set()
        #: Promises and when they are due. Those that are kept stay until the next look: to find them costs more.
        self.promised: list[tuple[float, Promise[Any]]] = []
        self.timer: asyncio.TimerHandle | None = None

    def add(self, due: _Due) -> None:
        self.waiting.add(due)
        if self.timer is None:
            self.look_later()

    def look_later(self) -> None:
        self.timer = self.loop.call_later(STEP, self._look)

    def _look(self) -> None:
        self.timer, now = None, self.loop.time()
        for due in [due for due in self.waiting if due.when <= now]:
            self.waiting.discard(due)
            due.fire()
        asked = [(when, promise) for when, promise in self.promised if not promise.done()]
        self.promised = [(when, promise) for when, promise in asked if when > now]
        for when, promise in asked:
            if when <= now:
                promise.set_exception(TimeoutError())
        if (self.waiting or self.promised) and self.timer is None:
            self.look_later()


_watch: _Watch | None = None


def _watching() -> _Watch:
    """The one of the running loop."""
    global _watch
    if _watch is not None and _watch.loop.is_running():  # to ask which loop runs is a system call
        return _watch
    loop = asyncio.get_running_loop()
    if _watch is None or _watch.loop is not loop:
        _watch = _Watch(loop)
    return _watch


def expire(seconds: float, promise: Promise[Any]) -> float:
    """Break the promise with TimeoutError behind `seconds`, unless it is kept or given up by then. Now, for `since`."""
    watch = _watching()
    now = watch.loop.time()
    watch.promised.append((now + seconds, promise))
    if watch.timer is None:
        watch.look_later()
    return now


def since(then: float) -> float:
    """Seconds."""
    return _watching().loop.time() - then


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
        if due.fired and task.cancelling() <= 1:
            raise TimeoutError from None
        raise
    finally:
        watch.waiting.discard(due)
        if due.fired:  # whatever became of it: what is awaited next is not cancelled
            task.uncancel()
