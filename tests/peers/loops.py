"""The end of an event loop that runs in a thread of its own: what still works on it is cancelled first."""

import asyncio
import threading
from collections.abc import Callable


def ended(loop: asyncio.AbstractEventLoop, thread: threading.Thread, first: Callable[[], object] = lambda: None) -> None:
    """Call `first` on the loop (no new work from then on), cancel all tasks, stop the loop and close it."""

    async def finish() -> None:
        first()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)
        await asyncio.sleep(0)  # connections that are closed are let go of

    asyncio.run_coroutine_threadsafe(finish(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    if not thread.is_alive():
        loop.close()
