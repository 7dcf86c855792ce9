"""Work in a thread that nobody leaves behind."""

import asyncio
import os
import threading
import time

import pytest

from appliance.net.threads import to_the_end


async def test_what_the_thread_gave_or_raised() -> None:
    assert await to_the_end(threading.current_thread) is not threading.current_thread()
    with pytest.raises(FileNotFoundError):
        await to_the_end(lambda: os.stat("/nowhere/at/all"))


@pytest.mark.parametrize("fails", [False, True])
async def test_who_is_cancelled_however_often_waits_for_its_end(fails: bool) -> None:
    begun, go_on, uncaught = threading.Event(), threading.Event(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: uncaught.append(context))

    def work() -> None:
        begun.set()
        go_on.wait(5)
        if fails:
            raise OSError("no room")

    task = asyncio.create_task(to_the_end(work))
    await asyncio.to_thread(begun.wait, 5)
    for _ in range(3):
        task.cancel()
        for _turn in range(5):
            await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    await asyncio.wait((task,), timeout=5)
    assert task.cancelled() and not uncaught


def test_at_the_end_of_a_process_too() -> None:
    """All tasks are cancelled then, whoever waits for them."""
    begun, order, tasks = threading.Event(), list[str](), list[asyncio.Task[None]]()

    def work() -> None:
        begun.set()
        time.sleep(0.1)
        order.append("the thread ends")

    async def delivery() -> None:
        try:
            await to_the_end(work)
        finally:
            order.append("its file is closed")

    async def life() -> None:
        tasks.append(asyncio.create_task(delivery()))
        await asyncio.to_thread(begun.wait, 5)
        tasks[0].cancel()
        await asyncio.sleep(0)

    asyncio.run(life())
    assert order == ["the thread ends", "its file is closed"]
