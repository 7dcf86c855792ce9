"""When syncd fetches a list again, and what it says of one."""

import pytest

from appliance.config.recipients_entry import RecipientsEntry
from appliance.daemons.syncd import schedule
from appliance.tables.known.keep import Account, Outcome

ENTRY = RecipientsEntry(kind="csv", source=("x",), every="1h", stale_after="1d")  # type: ignore[arg-type]
NOW = 1_800_000_000.0


def spread(failures: int, soon: bool = True) -> tuple[float, float]:
    found = [schedule.pause(3600.0, failures, soon) for _ in range(400)]
    return min(found), max(found)


@pytest.mark.parametrize(
    ("failures", "soon", "least", "most"),
    [
        (0, True, 3240, 3960),
        (1, True, 45, 75),
        (3, True, 180, 300),
        (7, True, 2700, 4500),
        (500, True, 2700, 4500),
        (1, False, 3240, 3960),
    ],
)
def test_pauses_grow_and_are_spread(failures: int, soon: bool, least: float, most: float) -> None:
    low, high = spread(failures, soon)
    assert least <= low < (least + most) / 2 < high <= most


@pytest.mark.parametrize(
    ("age", "least", "most"),
    [
        (None, 0, 1),
        (-5.0, 0, 1),
        (3600.0, 0, 1),
        (99999.0, 0, 1),
        (0.0, 3240, 3960),
        (1800.0, 1620, 1980),
        (3599.9, 0, 1),
    ],
)
def test_a_restart_fetches_what_is_due(age: float | None, least: float, most: float) -> None:
    assert all(least <= schedule.at_start(3600.0, age) <= most for _ in range(200))


def state(at: float = NOW, problem: str = "", soon: bool = True) -> schedule.State:
    made = schedule.State(ENTRY, (), Account(at=at, count=7), 100.0, 90.0)
    if problem:
        made.ended(Outcome(name="x", at=at, count=7, problem=problem, soon=soon), 100.0)
    return made


def test_what_status_says() -> None:
    assert state().facts(90.0, NOW + 300) == {"state": "well", "known": 7, "age": "5 min", "next": "in 10 s"}
    found = state(problem="away").facts(100.0, NOW + 7300)
    assert (found["state"], found["age"], found["trouble"]) == ("in trouble", "2 h", "away")
    assert state(at=0.0).facts(100.0, NOW)["state"] == "never fetched"


def test_what_is_degraded() -> None:
    day = 86400.0
    assert state().degraded("x", 100.0, NOW + day - 1) == ""
    assert state(problem="away").degraded("x", 100.0, NOW + day - 1) == "", "an hour without a directory is no alarm"
    assert state(problem="away").degraded("x", 100.0, NOW + day + 1) == "recipients x: the list is older than 24 h: away"
    assert state(problem="away").degraded("x", 100.0, NOW + 3 * day) == state(problem="away").degraded(
        "x", 100.0, NOW + 2 * day
    )
    assert state(problem="shrank", soon=False).degraded("x", 100.0, NOW) == "recipients x: the old list stays: shrank"
    assert "there is no list yet" in state(at=0.0).degraded("x", 100.0, NOW)
    assert state().degraded("x", 100.0, NOW - 1000) == "", "the clock was set back"


def test_a_clock_that_is_set_back_hides_no_list_that_grows_old() -> None:
    day, before = 86400.0, NOW - 1e9
    made = state(problem="away")
    assert made.degraded("x", day, before) == ""
    assert made.degraded("x", day + 91.0, before) == "recipients x: the list is older than 24 h: away"
    assert made.facts(2 * day + 90.0, before)["age"] == "2.0 d"
    made.ended(Outcome(name="x", at=before, count=9), 3 * day)
    assert made.facts(3 * day + 60.0, before)["age"] == "60 s"


def test_a_success_forgets_what_was() -> None:
    made = state(problem="away")
    made.ended(Outcome(name="x", at=NOW + 60, count=9, foreign=2, wrong=1), 200.0)
    assert (made.problem, made.failures, made.count, made.due > 3000) == ("", 0, 9, True)
    assert made.facts(200.0, NOW + 60)["of other domains"] == 2
