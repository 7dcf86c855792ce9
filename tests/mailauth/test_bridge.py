"""The bridge: synchronous code that waits for asynchronous answers."""

import asyncio
import gc
from collections.abc import Awaitable
from functools import partial

import pytest

from appliance.mailauth import bridge


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def fails() -> int:
    await asyncio.sleep(0)
    raise KeyError("asked")


def summed(count: int) -> int:
    return sum(bridge.wait(later(number)) for number in range(count))


async def got(answer: "int | Awaitable[int]") -> int:
    return answer if isinstance(answer, int) else await answer


async def test_what_need_not_wait_answers_at_once() -> None:
    assert bridge.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        bridge.run(lambda: 1 // 0)


async def test_many_at_once_keep_their_own_answers() -> None:
    found = await asyncio.gather(*(got(bridge.run(partial(summed, n))) for n in range(200)))
    assert found == [n * (n - 1) // 2 for n in range(200)]


async def test_errors_go_in_and_out() -> None:
    def catches() -> int:
        try:
            return bridge.wait(fails())
        except KeyError:
            return bridge.wait(later(5))

    assert await got(bridge.run(catches)) == 5
    with pytest.raises(KeyError):
        await got(bridge.run(lambda: bridge.wait(fails())))


async def test_who_gives_up_unwinds_the_library_even_where_it_swallows_all() -> None:
    steps: list[str] = []

    def stubborn() -> int:
        for _ in range(3):
            try:
                bridge.wait(asyncio.sleep(60))
            except BaseException as error:
                steps.append(type(error).__name__)
        return 0

    task = asyncio.ensure_future(got(bridge.run(stubborn)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["CancelledError"] * 3


async def test_what_is_not_awaited_is_unwound() -> None:
    ended: list[str] = []

    def waits() -> int:
        try:
            return int(bridge.wait(asyncio.get_running_loop().create_future()))
        finally:
            ended.append("yes")

    answer = bridge.run(waits)
    assert not isinstance(answer, int)
    answer.close()  # type: ignore[attr-defined]
    del answer
    gc.collect()
    assert ended == ["yes"]


def test_waiting_outside_is_a_mistake() -> None:
    future = later(1)
    with pytest.raises(RuntimeError):
        bridge.wait(future)
    future.close()


async def test_a_turn_lets_others_run() -> None:
    ran: list[str] = []

    def works() -> int:
        for _ in range(3):
            ran.append("work")
            bridge.wait(bridge.Turn())
        return 1

    async def other() -> None:
        for _ in range(3):
            ran.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(got(bridge.run(works)), other())
    assert ran[:4] == ["work", "other", "work", "other"]
