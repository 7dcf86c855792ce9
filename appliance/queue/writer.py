"""One thread that does what waits for the disk, in order; results come back to the event loop.

Contract: `run(work, done)` calls `work()` in the thread and `done(result or exception)` where `post` puts it (an
event loop's call_soon_threadsafe): one wake-up a job. After `close()` all jobs that were handed in are finished; what
comes behind it is not done: its result is a SpoolError.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from appliance.queue.errors import SpoolError

Post = Callable[..., object]
Done = Callable[[Any], object]


class Writer:
    """A lane to the disk. The thread starts with the first job, so a process may fork before."""

    def __init__(self, name: str, post: Post) -> None:
        self._name, self._post = name, post
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Callable[[], Any], done: Done) -> None:
        """Do `work` after all that was handed in before; an exception becomes the argument of `done`."""
        if self._closed:
            self._post(done, SpoolError(f"{self._name}: it is closed"))
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((work, done))

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            result: Any
            try:
                result = work()
            except Exception as error:
                result = error
            try:
                self._post(done, result)
            except RuntimeError:  # the loop is closed: the process ends, nobody waits
                return

    def let_go(self, fd: int) -> None:
        """Close `fd` in the thread: where it is the last of an unlinked file, the disk may take long to free that."""
        if self._closed:
            os.close(fd)
        else:
            self.run(lambda: os.close(fd), lambda _: None)

    def idle(self) -> "Future[None]":
        """Done when all that was handed in by now is finished and its `done` was called."""
        future = promised()
        self.run(lambda: None, future.set_result)
        return future

    def close(self) -> None:
        """Finish what was handed in and end the thread (blocks)."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None


def promised() -> "Future[Any]":
    """Whoever waits for it may go, and changes nothing for what is under way: a result is always taken."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
