"""Deadlines of many that wait, for the price of one timer.

Contract: `within(seconds, awaitable)` is what asyncio.timeout does, up to STEP later: a timer for each question costs
more than the question. One timer a loop looks at all that wait, and only while any do. Cancelling from outside is
passed on.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

#: Seconds between looks, and so the most that a deadline is missed by.
STEP = 0.1

T = TypeVar("T")


class _Due:
    """One that waits."""

    __slots__ = ("fired", "task", "when")

    def __init__(self, task: "asyncio.Task[object]", when: float) -> None:
        self.task, self.when, self.fired = task, when, False


class _Watch:
    """All that wait on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: set[_Due] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due: _Due) -> None:
        self.waiting.add(due)
        if self._timer is None:
            self._timer = self.loop.call_later(STEP, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        for due in [due for due in self.waiting if due.when <= now]:
            due.fired = True
            self.waiting.discard(due)
            due.task.cancel()
        self._timer = self.loop.call_later(STEP, self._look) if self.waiting else None


_watch: _Watch | None = None


async def within(seconds: float, answer: Awaitable[T]) -> T:
    """The answer. Raises TimeoutError behind `seconds`; `answer` is cancelled then."""
    global _watch
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    if _watch is None or _watch.loop is not loop:
        _watch = _Watch(loop)
    watch, due = _watch, _Due(task, loop.time() + seconds)
    watch.add(due)
    try:
        return await answer
    except asyncio.CancelledError:
        if due.fired and task.uncancel() <= 0:
            raise TimeoutError from None
        raise
    finally:
        watch.waiting.discard(due)
