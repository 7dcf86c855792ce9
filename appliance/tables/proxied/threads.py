"""The threads of one table: what it asks may keep them for long, and no other table waits for that.

Contract: at most `count` run at once, made when they are needed; what is asked beyond that waits. Whoever is cancelled
(the deadline) waits no longer; a thread that has begun goes on to its end, and its slot is free only then. So a table
that hangs keeps its own slots, and all together have as many threads as the configured tables have slots.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple, Unpack

from appliance.mail.ports import Unavailable

Found = TypeVar("Found")
About = TypeVarTuple("About")


class Threads:
    """End them with close()."""

    def __init__(self, kind: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, f"table-{kind}")

    async def run(self, run: Callable[[Unpack[About]], Found], *about: *About) -> Found:
        """What `run` gives in a thread. Raises what it raises, and Unavailable behind close()."""
        try:
            job = self._pool.submit(run, *about)
        except RuntimeError:
            raise Unavailable("the table was closed meanwhile") from None
        return await asyncio.wrap_future(job)

    def close(self, last: Callable[[], None] | None = None) -> None:
        """Waits for nobody: those under way come to their ends, then a thread does `last`."""
        if last is not None:
            self._pool.submit(last)
        self._pool.shutdown(wait=False)
