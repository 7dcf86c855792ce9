"""Write-behind and upkeep of the shelves: batches to the database, checkpoints, expiry, warming of the RAM at start.

Contract: a change is on disk within INTERVAL (or sooner, at BATCH changes) while the disk takes it; while it does not,
everything stays in RAM and is tried again every RETRY seconds. All disk work runs in one writer thread; what runs on
the loop is short: a step of the sweep looks at PAGE rows. After a damaged database was set aside the RAM is written anew.
What failure means for the mail: none.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from appliance.stores.clock import SteadyClock
from appliance.stores.embedded import Damaged, Database, packed
from appliance.stores.shelf import Shelf, rows

INTERVAL = 0.2
BATCH = 4000
#: Asks behind which it is looked whether there are so many.
LOOK = 250
RETRY = 2.0
CHECKPOINT = 30.0
PAGE = 500
#: Pause between two steps of the first sweep (which warms the RAM), of later ones, and between two sweeps (seconds).
PACE_FIRST, PACE, PAUSE = 0.01, 0.5, 60.0


class Keeper:
    """Runs on the loop of `stated` between start() and stop()."""

    def __init__(self, database: Database, shelves: Sequence[Shelf[Any]], clock: SteadyClock) -> None:
        self.database, self.shelves, self.clock = database, shelves, clock
        #: How old the oldest change is that is not on disk (seconds), at the last flush.
        self.lag_seconds = 0.0
        self.expired = self._asks = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="stated-writer")
        self._tasks: list[asyncio.Task[None]] = []
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._since = time.monotonic()
        self._checkpointed = time.monotonic()

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._write_loop()), asyncio.create_task(self._sweep_loop())]
        self._tasks.append(asyncio.create_task(self._look_through()))

    async def stop(self) -> None:
        """Write everything that waits, then let go."""
        self.database.breath = 0.0  # nobody is answered any more
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self.flush()
            await self.flush()  # the first may only have written what an earlier attempt left
        self._writer.shutdown()
        self.database.close()

    def changed(self, asks: int) -> None:
        """Called after each frame of `asks`: many changes do not wait for the clock. Looks now and then only."""
        self._asks += asks
        if self._asks >= LOOK:
            self._asks = 0
            if not self._wake.is_set() and sum(len(shelf.dirty) for shelf in self.shelves) >= BATCH:
                self._wake.set()

    @property
    def lag(self) -> int:
        """Changes that are not on disk."""
        return sum(shelf.lag for shelf in self.shelves)

    async def flush(self) -> None:
        """Write the waiting changes. Raises OSError if the disk does not take them (they go on waiting)."""
        async with self._flushing:
            if not self.lag:
                self._since, self.lag_seconds = time.monotonic(), 0.0
                return
            began = time.monotonic()
            batch = {shelf.table: rows(shelf.take_batch()) for shelf in self.shelves}
            try:
                await self._in_writer(lambda: self.database.write(batch, packed(self.clock.saved())))
            except Damaged as error:
                self.replace(str(error))
                raise OSError(str(error)) from error
            finally:
                self.lag_seconds = time.monotonic() - self._since
            for shelf in self.shelves:
                shelf.written()
            self._since = began

    def replace(self, why: str) -> None:
        """The database is damaged: begin a new one with what the RAM holds."""
        if not self.database.set_aside(why):
            return
        forever = self.clock.now() + 36 * 86400
        for shelf in self.shelves:
            shelf.soil_all(lambda record: forever)

    async def _in_writer(self, job: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, job)

    async def _write_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), INTERVAL)
            self._wake.clear()
            if self.database.damaged:
                self.replace(self.database.trouble)
            try:
                await self.flush()
            except OSError:
                await asyncio.sleep(RETRY)
            if time.monotonic() - self._checkpointed >= CHECKPOINT:
                self._checkpointed = time.monotonic()
                async with self._flushing:
                    await self._in_writer(self.database.checkpoint)

    async def _look_through(self) -> None:
        """One look at the whole file after each start, beside the work."""
        lost = self.database.lost
        wrong = await asyncio.get_running_loop().run_in_executor(None, self.database.check)
        if wrong:
            async with self._flushing:
                if self.database.lost == lost:  # else it was the old file that was looked through
                    self.replace(wrong)

    async def _sweep_loop(self) -> None:
        pace = PACE_FIRST
        while True:
            for shelf in self.shelves:
                await self._sweep(shelf, pace, warm=pace == PACE_FIRST)
            pace = PACE
            await asyncio.sleep(PAUSE)

    async def _sweep(self, shelf: Shelf[Any], pace: float, *, warm: bool) -> None:
        """One way through a table: expired rows go; at the first sweep the others come into RAM while there is room."""
        after, everything, evicted = "", warm and self.database.is_open, shelf.evicted
        lost = self.database.lost
        shelf.look_through()
        while page := self.database.walk(shelf.table, after, PAGE):
            after = page[-1][0]
            everything = self.sweep_page(shelf, page, warm=everything) and everything
            await asyncio.sleep(pace)
        shelf.looked_through(self.database.is_open and not self.database.trouble and lost == self.database.lost)
        if everything and shelf.evicted == evicted and not self.database.trouble:
            shelf.complete = True

    def sweep_page(self, shelf: Shelf[Any], page: list[tuple[str, bytes, float]], *, warm: bool) -> bool:
        """One step (well below 20 ms). False: the RAM has no room for all."""
        now, room = self.clock.now(), True
        for key, raw, expires in page:
            shelf.met(key)
            if expires < now:
                if not shelf.waits(key):
                    shelf.delete(key)
                    self.expired += 1
            elif warm:
                room = shelf.warm(key, raw) and room
        return room
