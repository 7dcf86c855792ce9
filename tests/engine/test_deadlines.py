"""Deadlines of many that wait: late ones end, cancelling is passed on, nothing is left behind."""

import asyncio

import pytest

from appliance.engine import deadlines
from appliance.engine.deadlines import within

pytestmark = pytest.mark.asyncio


async def forever() -> None:
    await asyncio.Event().wait()


async def test_an_answer_in_time_and_one_that_is_late() -> None:
    async def soon() -> int:
        await asyncio.sleep(0)
        return 7

    assert await within(5.0, soon()) == 7
    with pytest.raises(TimeoutError):
        await within(0.01, forever())
    assert await within(5.0, soon()) == 7, "the task goes on"
    assert deadlines._watch is not None and not deadlines._watch.waiting


async def test_cancelling_from_outside_is_no_timeout() -> None:
    task = asyncio.create_task(within(5.0, forever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert deadlines._watch is not None and not deadlines._watch.waiting


async def test_each_has_its_own() -> None:
    async def told(seconds: float) -> str:
        try:
            await within(seconds, forever())
        except TimeoutError:
            return "late"
        return "?"

    first = asyncio.create_task(told(0.01))
    second = asyncio.create_task(told(30.0))
    assert await first == "late"
    assert not second.done()
    second.cancel()


async def test_an_error_of_the_answer_is_its_own() -> None:
    async def broken() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await within(1.0, broken())


async def test_an_answer_that_does_not_let_itself_be_cancelled_leaves_the_next_deadline_alone() -> None:
    async def stubborn() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            return 7
        return 0

    async def both() -> int:
        found = await within(0.01, stubborn())
        with pytest.raises(TimeoutError):
            await within(0.01, forever())
        return found

    assert await asyncio.create_task(both()) == 7
