"""Large files at hand: granted ahead of time, and who waits for the next one.

Contract: a file that becomes free goes to whoever waits longest, else it is kept. What failure means for the mail: who
waits in vain for GRANT_WAIT seconds gets SpoolFull (452), nothing was promised.
"""

import asyncio
from collections import deque

from appliance.queue.errors import SpoolFull
from appliance.queue.large import LargeFile

#: Files that are kept at hand while nobody waits.
SPARE_LARGE = 16
#: Seconds that a living delivery has to grant a file.
GRANT_WAIT = 5.0


class LargePool:
    """Belongs to the running event loop. `asked` counts the grants that are under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.idle: deque[LargeFile] = deque()
        self._awaited: deque[asyncio.Future[LargeFile]] = deque()
        self.asked = 0

    def take(self) -> LargeFile | None:
        """A file at hand."""
        return self.idle.popleft() if self.idle else None

    def soon(self) -> "asyncio.Future[LargeFile]":
        """The next file that becomes free."""
        future: asyncio.Future[LargeFile] = self._loop.create_future()
        self._awaited.append(future)
        timer = self._loop.call_later(GRANT_WAIT, self._give_up, future)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def _give_up(self, future: "asyncio.Future[LargeFile]") -> None:
        if not future.done():
            future.set_exception(SpoolFull("no granted file is left for a large message"))

    def free(self, file: LargeFile) -> None:
        """An empty file: granted just now, or not needed after all."""
        while self._awaited:
            future = self._awaited.popleft()
            if not future.done():
                future.set_result(file)
                return
        self.idle.append(file)

    def missing(self) -> int:
        """How many more to ask for; they count as asked for then."""
        waiting = sum(not future.done() for future in self._awaited)
        count = max(0, SPARE_LARGE + waiting - len(self.idle) - self.asked)
        self.asked += count
        return count

    def granted(self, file: LargeFile) -> None:
        """One that was asked for has come."""
        self.asked = max(0, self.asked - 1)
        self.free(file)
