"""Fairness, concurrency, retry times, dead sites, flush, and the clock of lifetimes."""

from collections import Counter
from pathlib import Path
from time import perf_counter

import pytest

from appliance.queue.clock import MAX_GAP, SpoolClock
from appliance.queue.schedule import Job, Limits, Schedule

DAY = 86400.0


def make(**limits: float) -> Schedule:
    return Schedule(Limits(**limits), jitter=lambda: 0.5)  # type: ignore[arg-type]


def take_all(schedule: Schedule, now: float) -> list[Job]:
    jobs = []
    while (job := schedule.take(now)) is not None:
        jobs.append(job)
    return jobs


def test_destinations_take_turns() -> None:
    schedule = make()
    for i in range(10):
        schedule.add(f"a{i}", "a", 0.0)
    schedule.add("b0", "b", 0.0)
    schedule.add("c0", "c", 0.0)
    assert [job.queue_id for job in take_all(schedule, 0.0)] == ["a0", "b0", "c0", "a1", "a2", "a3", "a4"]


def test_a_slow_destination_does_not_hold_up_another() -> None:
    schedule = make()
    for i in range(1000):
        schedule.add(f"slow{i}", "slow", 0.0)
    take_all(schedule, 0.0)
    schedule.add("q", "quick", 1.0)
    job = schedule.take(1.0)
    assert job is not None
    assert job.queue_id == "q"


def test_concurrency_grows_with_answers_to_its_limit() -> None:
    schedule = make(concurrency=20, initial=5)
    for i in range(500):
        schedule.add(f"q{i}", "d", 0.0)
    running = take_all(schedule, 0.0)
    assert len(running) == 5
    most = 0
    for _ in range(100):
        schedule.finished(running.pop(0), 0.0)
        running += take_all(schedule, 0.0)
        most = max(most, len(running))
    assert most == 20


def test_wait_is_the_age_within_bounds_and_jitter() -> None:
    schedule = make(retry_min=60, retry_max=3600)
    waits = []
    for age in (0.0, 60.0, 600.0, 1e6):
        schedule.add("q", "d", 0.0)
        job = schedule.take(0.0)
        assert job is not None
        waits.append(schedule.put_off(job, 0.0, age))
        schedule.remove("q")
    assert waits == pytest.approx([63.0, 63.0, 630.0, 3780.0])


def test_what_rests_comes_back_when_it_is_due() -> None:
    schedule = make()
    schedule.add("q", "d", 0.0)
    job = schedule.take(0.0)
    assert job is not None
    due = schedule.put_off(job, 0.0, 100.0)
    assert schedule.next_time(1.0) == due
    assert schedule.take(due - 0.1) is None
    assert schedule.take(due) is job


def fail_until_dead(schedule: Schedule, now: float) -> int:
    """Fail one job after the other, `now` on; how many it took."""
    for count in range(1, 50):
        job = schedule.take(now)
        if job is None:
            return count - 1
        schedule.site_failed(job, now)
    raise AssertionError("never dead")


def test_about_four_failures_make_a_site_dead_then_one_probe_every_ten_seconds() -> None:
    schedule = make()
    for i in range(100):
        schedule.add(f"q{i}", "dead", 0.0)
    assert fail_until_dead(schedule, 0.0) == 4
    probes = []
    for second in range(1, 60):
        for job in take_all(schedule, float(second)):
            probes.append((second, job.queue_id))
            schedule.site_failed(job, float(second))
    assert [second for second, _ in probes] == [10, 20, 30, 40, 50]
    assert len({queue_id for _, queue_id in probes}) == 5  # another message each time


def test_one_answer_revives_a_dead_site_at_once() -> None:
    schedule = make()
    for i in range(100):
        schedule.add(f"q{i}", "d", 0.0)
    fail_until_dead(schedule, 0.0)
    (probe,) = take_all(schedule, 10.0)
    schedule.finished(probe, 10.0)
    assert len(take_all(schedule, 10.0)) == 5


def test_a_dead_site_stops_no_other() -> None:
    schedule = make()
    for i in range(10):
        schedule.add(f"q{i}", "dead", 0.0)
    fail_until_dead(schedule, 0.0)
    schedule.add("x", "alive", 1.0)
    assert [job.queue_id for job in take_all(schedule, 1.0)] == ["x"]


def test_one_message_to_a_dead_site_is_not_hammered() -> None:
    schedule = make(dead_probe=10)
    schedule.add("q", "d", 0.0)
    attempts = 0
    now = 0.0
    while now < 100:
        job = schedule.take(now)
        if job is not None:
            attempts += 1
            schedule.site_failed(job, now)
        now = schedule.next_time(now) or 1000.0
    assert attempts == 10


@pytest.mark.parametrize("destination", [None, "a"])
def test_flush(destination: str | None) -> None:
    schedule = make()
    for i in range(600):
        schedule.add(f"a{i}", "a", 0.0, due=1000.0)
        schedule.add(f"b{i}", f"b{i}", 0.0, due=1000.0)
    schedule.flush(0.0, destination)
    assert schedule.next_time(0.0) == 0.0
    taken: Counter[str] = Counter()
    while schedule.next_time(0.0) == 0.0:
        for job in take_all(schedule, 0.0):
            taken[job.queue_id[0]] += 1
            schedule.finished(job, 0.0)
    assert taken == ({"a": 600, "b": 600} if destination is None else {"a": 600})
    assert schedule.next_time(0.0) == (None if destination is None else 1000.0)
    assert len(take_all(schedule, 1000.0)) + len(take_all(schedule, 1000.0)) == (0 if destination is None else 600)


def test_flush_tries_a_dead_site_and_does_not_flush_for_ever() -> None:
    schedule = make()
    schedule.add("q", "d", 0.0)
    while (job := schedule.take(0.0)) or schedule.next_time(0.0) != 10.0:
        assert job is not None
        schedule.site_failed(job, 0.0)
    schedule.flush(1.0)
    (job,) = take_all(schedule, 1.0)
    due = schedule.put_off(job, 1.0, 0.0)
    assert schedule.take(1.0) is None
    assert schedule.next_time(1.0) == due


def test_hasten_one_message() -> None:
    schedule = make()
    schedule.add("q", "d", 0.0, due=1000.0)
    schedule.add("r", "d", 0.0, due=1000.0)
    assert schedule.hasten("q", 0.0)
    assert not schedule.hasten("unknown", 0.0)
    assert [job.queue_id for job in take_all(schedule, 0.0)] == ["q"]


def test_hasten_one_message_that_waits_at_a_dead_site() -> None:
    schedule = make(initial=1)
    schedule.add("q", "d", 0.0)
    job = schedule.take(0.0)
    assert job is not None
    schedule.add("r", "d", 0.0)
    schedule.site_failed(job, 0.0)
    assert schedule.take(1.0) is None
    assert schedule.hasten("r", 1.0)
    assert [job.queue_id for job in take_all(schedule, 1.0)] == ["r"]


def test_deliveries_that_began_before_their_message_was_removed() -> None:
    schedule = make()
    for destination in ("d", "e", "f"):
        schedule.add("q", destination, 0.0)
    jobs = [schedule.take(0.0), schedule.take(0.0)]
    assert not schedule.leaving("q")
    schedule.remove("q")
    schedule.add("q", "d", 0.0)
    for job, back in zip(jobs, (schedule.finished, schedule.site_failed), strict=True):
        assert job is not None and schedule.leaving("q")
        back(job, 0.0)
    assert not schedule.leaving("q") and len(schedule) == 1
    again = schedule.take(100.0)
    assert again is not None
    schedule.remove("q")
    assert schedule.leaving("q")
    schedule.put_off(again, 100.0, 0.0)
    assert not schedule.leaving("q") and not schedule.sites


def test_remove_in_every_state() -> None:
    schedule = make(initial=1)
    for queue_id, due in [("busy", 0.0), ("ready", 0.0), ("resting", 99.0), ("other", 0.0)]:
        schedule.add(queue_id, "d", 0.0, due)
    running = schedule.take(0.0)
    assert running is not None
    assert schedule.remove("busy")
    assert not schedule.remove("ready")
    assert not schedule.remove("resting")
    assert not schedule.remove("unknown")
    schedule.put_off(running, 0.0, 0.0)
    assert [job.queue_id for job in take_all(schedule, 1e9)] == ["other"]
    assert len(schedule) == 1


def test_a_pair_is_there_once_and_nothing_stays_behind() -> None:
    schedule = make()
    assert schedule.add("q", "d", 0.0) is schedule.add("q", "d", 0.0)
    schedule.add("q", "e", 0.0)
    assert len(schedule) == 2
    assert "q" in schedule
    for job in take_all(schedule, 0.0):
        schedule.finished(job, 0.0)
    assert (len(schedule), schedule.busy, schedule.sites, "q" in schedule) == (0, 0, {}, False)
    assert schedule.next_time(0.0) is None


def test_a_hundred_thousand_messages_cost_no_long_step() -> None:
    """Bounded work a step, whatever the length: no single call may take 20 ms (best of three, for a busy machine)."""
    schedule = make()
    for i in range(100_000):
        schedule.add(f"q{i}", f"d{i % 50}", 0.0, due=10.0)
    worst = []
    for _ in range(3):
        schedule.flush(0.0)
        longest = 0.0
        for _ in range(500):
            start = perf_counter()
            job = schedule.take(0.0)
            longest = max(longest, perf_counter() - start)
            if job is not None:
                schedule.finished(job, 0.0)
        worst.append(longest)
    assert min(worst) < 0.02


class Clocks:
    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.mono = 50.0

    def open(self, path: Path) -> SpoolClock:
        return SpoolClock(path, lambda: self.wall, lambda: self.mono)

    def run(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds


@pytest.mark.parametrize("step", [365 * DAY, -365 * DAY, 7200.0, -7200.0])
def test_a_step_while_we_run_ages_nothing(tmp_path: Path, step: float) -> None:
    clocks = Clocks()
    clock = clocks.open(tmp_path / "clock")
    born = clock.now()
    clocks.run(100)
    clocks.wall += step
    assert clock.age(born) == pytest.approx(100)
    assert clock.step() == pytest.approx(step)
    assert clock.step() == 0.0
    clock.save()
    clocks.mono = 3.0  # a reboot later
    clocks.wall += 50
    again = clocks.open(tmp_path / "clock")
    assert again.age(born) == pytest.approx(150)


@pytest.mark.parametrize(("away", "counted"), [(600.0, 600.0), (30 * DAY, MAX_GAP), (-30 * DAY, 0.0), (-10.0, 0.0)])
def test_a_step_while_we_were_down_counts_an_hour_at_most(tmp_path: Path, away: float, counted: float) -> None:
    clocks = Clocks()
    clock = clocks.open(tmp_path / "clock")
    born = clock.now()
    clocks.run(1000)
    clock.save()
    clocks.wall += away
    assert clocks.open(tmp_path / "clock").age(born) == pytest.approx(1000 + counted)


@pytest.mark.parametrize("damage", [None, b"", b"x" * 20])
def test_a_lost_clock_starts_at_the_wall_time(tmp_path: Path, damage: bytes | None) -> None:
    clocks = Clocks()
    if damage is not None:
        (tmp_path / "clock").write_bytes(damage)
    clock = clocks.open(tmp_path / "clock")
    assert clock.now() == clocks.wall
    assert clock.age(clocks.wall + 1000) == 0.0


def test_drift_is_no_step(tmp_path: Path) -> None:
    clocks = Clocks()
    clock = clocks.open(tmp_path / "clock")
    clocks.run(3600)
    clocks.wall += 2.0
    assert clock.step() == 0.0
