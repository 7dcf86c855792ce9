"""Metrics of many processes as one exposition."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.observe import metrics


def made(count: int, level: float) -> bytes:
    registry = metrics.Registry()
    registry.counter("t_mails_total", "Mails.", ("way",)).labels('in "quotes" {and} braces').inc(count)
    registry.gauge("t_open", "Open.").set(level)
    registry.gauge("t_open_by", "Open.", ("role",)).labels("inbound").set(level)
    registry.histogram("t_time_seconds", "Time.", buckets=(0.1, 1.0)).observe(level)
    return registry.exposition()


def test_counters_and_histograms_are_added_gauges_stay_apart() -> None:
    text = metrics.merge([("smtpd.0", made(2, 0.05)), ("smtpd.1", made(3, 0.5))]).decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples[("t_mails_total", (("way", 'in "quotes" {and} braces'),))] == 5
    assert samples[("t_open", (("worker", "smtpd.1"),))] == 0.5
    assert samples[("t_open_by", (("role", "inbound"), ("worker", "smtpd.0")))] == 0.05
    assert samples[("t_time_seconds_bucket", (("le", "0.1"),))] == 1
    assert samples[("t_time_seconds_bucket", (("le", "+Inf"),))] == 2
    assert samples[("t_time_seconds_count", ())] == 2


def test_asking_twice_gives_the_same_and_another_kind_is_an_error() -> None:
    registry = metrics.Registry()
    first = registry.counter("t_again_total", "x")
    assert registry.counter("t_again_total", "x") is first
    with pytest.raises(TypeError):
        registry.gauge("t_again_total", "x")


def test_a_series_of_only_some_processes_is_kept() -> None:
    only = metrics.Registry()
    only.counter("t_only_total", "x").inc()
    assert b"t_only_total 1.0" in metrics.merge([("a", metrics.Registry().exposition()), ("b", only.exposition())])
