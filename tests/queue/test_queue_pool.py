"""Large files at hand, and who waits for one."""

import asyncio
from typing import Any

import pytest

from appliance.queue import pool as pool_module
from appliance.queue.errors import SpoolFull
from appliance.queue.pool import SPARE_LARGE, LargePool


def file() -> Any:
    return object()


async def test_who_waits_longest_gets_the_next_file() -> None:
    pool = LargePool()
    first, second = pool.soon(), pool.soon()
    one, two, three = file(), file(), file()
    for granted in (one, two, three):
        pool.granted(granted)
    assert (await first, await second) == (one, two)
    assert pool.take() is three
    assert pool.take() is None


async def test_who_does_not_want_it_any_more_is_passed_over() -> None:
    pool = LargePool()
    gone, there = pool.soon(), pool.soon()
    gone.cancel()
    one = file()
    pool.granted(one)
    assert await there is one


async def test_waiting_in_vain_is_a_full_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRANT_WAIT", 0.01)
    pool = LargePool()
    with pytest.raises(SpoolFull):
        await asyncio.wait_for(pool.soon(), 5)
    assert pool.missing() == SPARE_LARGE


async def test_what_is_asked_for_counts_spares_and_who_waits_once() -> None:
    pool = LargePool()
    assert pool.missing() == SPARE_LARGE
    assert pool.missing() == 0
    waiting = [pool.soon() for _ in range(3)]
    assert pool.missing() == 3
    for _ in range(SPARE_LARGE + 3):
        pool.granted(file())
    assert len(pool.idle) == SPARE_LARGE
    assert all(future.done() for future in waiting)
