"""The counter of hot paths: counted by hand, shown like any other."""

import pytest

from appliance.observe import metrics


def test_a_tally_is_shown_and_added_up_like_a_counter() -> None:
    registry = metrics.Registry()
    tally = registry.tally("t_found_total", "Found.", ("check", "outcome"))
    assert registry.tally("t_found_total", "Found.", ("check", "outcome")) is tally
    tally.counts["helo", "ok"] += 2
    tally.counts["helo", "malformed"] += 1
    text = registry.exposition()
    assert b'# TYPE t_found_total counter\nt_found_total{check="helo",outcome="ok"} 2.0\n' in text
    merged = metrics.merge([("smtpd.0", text), ("smtpd.1", text)])
    assert b't_found_total{check="helo",outcome="ok"} 4.0\n' in merged
    with pytest.raises(TypeError):
        registry.counter("t_found_total", "Found.")


def test_what_is_counted_together_has_one_cell_and_is_counted_once() -> None:
    registry = metrics.Registry()
    tally = registry.tally("t_found_total", "Found.", ("check", "outcome"))
    cell = tally.bundle([("helo", "ok"), ("spf", "pass"), ("helo", "ok")])
    assert tally.bundle(pair for pair in [("helo", "ok"), ("spf", "pass"), ("helo", "ok")]) is cell
    other = tally.bundle([("spf", "pass")])
    assert other is not cell
    cell[0] += 3
    other[0] += 1
    for _ in range(2):
        assert b't_found_total{check="helo",outcome="ok"} 6.0' in registry.exposition()
        assert b't_found_total{check="spf",outcome="pass"} 4.0' in registry.exposition()


def test_a_name_that_is_taken_is_no_tally() -> None:
    registry = metrics.Registry()
    registry.counter("t_taken_total", "x")
    with pytest.raises(TypeError):
        registry.tally("t_taken_total", "x")


def test_a_spread_is_shown_as_a_histogram_is() -> None:
    ours, theirs = metrics.Registry(), metrics.Registry()
    spread, histogram = ours.spread("t_seconds", "Time.", ("check",)), theirs.histogram("t_seconds", "Time.", ("check",))
    assert ours.spread("t_seconds", "Time.", ("check",)) is spread and spread.labels("spf") is spread.labels("spf")
    for size in (0.0, 0.001, 0.0011, 0.75, 30.0, 31.5):
        spread.labels("spf").observe(size)
        histogram.labels("spf").observe(size)
    spread.labels("dkim").observe(0.5)
    histogram.labels("dkim").observe(0.5)
    assert ours.exposition() == theirs.exposition()
    with pytest.raises(TypeError):
        ours.tally("t_seconds", "Time.", ("check",))
