"""What an event loop has done in a thread, with descriptors that it closes behind it.

Contract: `to_the_end` gives what its function gave, or raises what that raised. Who is cancelled meanwhile, once or more
often, waits for the end all the same: what the thread reads and writes behind it would be another file by then. What
failure means for the mail: none here; on a dead disk whoever asked hangs until the process is ended.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


async def to_the_end(run: Callable[[], Found]) -> Found:
    """Raises what `run` raises."""
    # No task: the end of a process cancels all of these, and the thread would run on.
    running = asyncio.get_running_loop().run_in_executor(None, run)
    left: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            left = error
    if left is not None:
        running.exception()  # nobody hears of it
        raise left
    return running.result()
