"""The greylist clock under steps of the wall clock (threats Q8)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mail.greylisting import GreylistAsk
from tests.stores.state_fakes import Direct, Time, state_at

YEAR = 365 * 86400.0


def ask(n: int) -> GreylistAsk:
    return GreylistAsk(
        keys=("net:192.0.2.0/24",), sender=f"s{n}@example.org", recipient="r@example.com", client="192.0.2.1", now=0,
        delay=90, window=172800, remember=3110400, auto_accept=5,
    )  # fmt: skip


@given(st.floats(-30 * YEAR, 30 * YEAR), st.floats(0, 100))
def test_a_step_of_the_wall_clock_moves_nothing(step: float, elapsed: float) -> None:
    time = Time()
    clock = time.clock()
    before = clock.now()
    time.wall_now += step
    time.pass_(elapsed)
    assert clock.now() - before == pytest.approx(elapsed, abs=0.021 * elapsed + 0.01)


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0, 1000)), max_size=20))
def test_it_never_goes_back(steps: list[tuple[float, float]]) -> None:
    time = Time()
    clock = time.clock()
    last = clock.now()
    for step, elapsed in steps:
        time.wall_now += step
        time.pass_(elapsed)
        now = clock.now()
        assert now >= last
        last = now


def test_it_is_drawn_towards_a_corrected_wall_clock() -> None:
    time = Time()
    clock = time.clock()
    time.wall_now += 60
    for _ in range(3700):
        time.pass_(1)
        clock.now()
    assert clock.offset == pytest.approx(0, abs=0.01)


def test_restart_on_the_same_boot_goes_on_exactly() -> None:
    time = Time()
    saved = time.clock().saved()
    time.pass_(40)
    time.wall_now += YEAR
    assert time.clock(saved).now() - saved.steady == pytest.approx(40)


def test_restart_on_another_boot_starts_at_wall_time_but_not_before_its_last_word() -> None:
    time = Time()
    saved = time.clock().saved()
    time.mono_now = 5
    time.wall_now += 1000
    assert time.clock(saved, boot="boot-2").now() == time.wall_now
    time.wall_now -= YEAR
    assert time.clock(saved, boot="boot-2").now() == saved.steady


async def test_no_triplet_passes_early_and_none_is_lost_when_the_wall_clock_jumps(tmp_path: Path) -> None:
    time = Time()
    state = state_at(tmp_path / "x.db", time)
    store = Direct(state)
    for jump in (3600.0, -7200.0, 10 * YEAR, -20 * YEAR):
        n = int(jump)
        assert (await store.step(ask(n))).state == "new"
        time.wall_now += jump
        time.pass_(10)
        assert (await store.step(ask(n))).state == "early"
        time.pass_(79)
        assert (await store.step(ask(n))).state == "early" or jump > 0  # at most 2 % fast
        time.pass_(5)
        assert (await store.step(ask(n))).state in ("passed", "known")
        assert (await store.step(ask(n))).state == "known"
    state.refresh()
    assert "wall clock" in " ".join(state.health()["degraded"])
    state.database.close()
