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


def test_a_name_that_is_taken_is_no_tally() -> None:
    registry = metrics.Registry()
    registry.counter("t_taken_total", "x")
    with pytest.raises(TypeError):
        registry.tally("t_taken_total", "x")
