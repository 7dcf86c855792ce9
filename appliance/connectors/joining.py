"""Those who want the same thing at the same time get it from one run.

Contract: a run is cancelled only when nobody waits for it any more. Its result goes to all who joined; an exception too.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Run(Generic[T]):
    def __init__(self, task: "asyncio.Task[T]") -> None:
        self.task, self.waiters = task, 0


class Joining(Generic[T]):
    """Runs by key."""

    def __init__(self) -> None:
        self._runs: dict[Hashable, _Run[T]] = {}
        self.joined = 0

    def __len__(self) -> int:
        return len(self._runs)

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], ended: Callable[[], None]) -> T:
        """The result of the run for `key`: of `work`, or of one that is under way. `ended` is called once, when what
        `work` was given is not needed (any more)."""
        run = self._runs.get(key)
        if run is None:
            run = self._start(key, work, ended)
        else:
            ended()
            self.joined += 1
        run.waiters += 1
        try:
            return await asyncio.shield(run.task)
        finally:
            run.waiters -= 1
            if run.waiters == 0 and not run.task.done():
                self._forget(key, run)
                run.task.cancel()

    def _start(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], ended: Callable[[], None]) -> "_Run[T]":
        task = asyncio.get_running_loop().create_task(work())
        run = self._runs[key] = _Run(task)

        def done(_task: "asyncio.Task[T]") -> None:
            self._forget(key, run)
            ended()

        task.add_done_callback(done)
        return run

    def _forget(self, key: Hashable, run: "_Run[T]") -> None:
        if self._runs.get(key) is run:
            del self._runs[key]
