"""Numbers for Prometheus: one registry a process, text exposition, and how the master adds the processes up.

Contract: metrics are made once, at import, by `counter`, `gauge`, `histogram` (asking twice gives the same one). Label
values come from small fixed sets, never from what a stranger sent. Incrementing costs under a microsecond and cannot
fail. The master counts in a registry of its own, so that its forks start at nought.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import prometheus_client as prometheus
from prometheus_client.metrics_core import CounterMetricFamily, Metric

prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

#: Content type of the exposition.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Buckets for times from a millisecond to half a minute.
SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Counter: TypeAlias = prometheus.Counter
Gauge: TypeAlias = prometheus.Gauge
Histogram: TypeAlias = prometheus.Histogram
_Metric = TypeVar("_Metric", prometheus.Counter, prometheus.Gauge, prometheus.Histogram)


class Tally:
    """A counter for paths where every tenth of a microsecond counts: `counts[label values] += 1` on the loop's thread."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        if not labels:  # it is there from the start
            self.counts[()] = 0

    def collect(self) -> Iterable[Metric]:
        """For the registry: all counts as one family."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for values, count in list(self.counts.items()):
            family.add_metric(values, count)
        yield family


class Registry:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.collectors = prometheus.CollectorRegistry(auto_describe=False)
        self._made: dict[str, Any] = {}

    def _once(self, kind: type[_Metric], name: str, text: str, labels: Sequence[str], **more: Any) -> _Metric:
        if name not in self._made:
            self._made[name] = kind(name, text, labels, registry=self.collectors, **more)
        made = self._made[name]
        if not isinstance(made, kind):
            raise TypeError(f"{name} is a {type(made).__name__} already")
        return made

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> prometheus.Counter:
        """Only grows. `name` ends with _total by custom."""
        return self._once(prometheus.Counter, name, text, labels)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> prometheus.Gauge:
        """Goes up and down; stays apart for each process."""
        return self._once(prometheus.Gauge, name, text, labels)

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> prometheus.Histogram:
        """Counts by size; `buckets` are upper bounds."""
        return self._once(prometheus.Histogram, name, text, labels, buckets=buckets)

    def tally(self, name: str, text: str, labels: Sequence[str] = ()) -> Tally:
        """Only grows; see Tally."""
        if name not in self._made:
            self._made[name] = Tally(name, text, labels)
            self.collectors.register(self._made[name])
        made = self._made[name]
        if not isinstance(made, Tally):
            raise TypeError(f"{name} is a {type(made).__name__} already")
        return made

    def exposition(self) -> bytes:
        """All metrics in the text format 0.0.4."""
        return prometheus.generate_latest(self.collectors)


REGISTRY = Registry()
counter = REGISTRY.counter
gauge = REGISTRY.gauge
histogram = REGISTRY.histogram
tally = REGISTRY.tally
exposition = REGISTRY.exposition


def merge(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """One exposition of many: (worker, exposition) pairs. Counters and histograms are summed; gauges get the label
    `worker`."""
    families: dict[str, _Family] = {}
    for worker, text in parts:
        family = _Family()
        for line in text.decode("utf-8", "replace").splitlines():
            if line.startswith("#"):
                _, _, name, rest = line.split(" ", 3)
                family = families.setdefault(name, _Family())
                family.describe(line, rest)
            elif line:
                family.add(worker, line)
    return "".join(family.text() for family in families.values()).encode()


class _Family:
    """One metric name while merging."""

    def __init__(self) -> None:
        self.head: dict[str, None] = {}
        self.gauge = False
        self.sums: dict[str, float] = {}

    def describe(self, line: str, rest: str) -> None:
        self.head[line] = None
        if line.startswith("# TYPE "):
            self.gauge = rest == "gauge"

    def add(self, worker: str, line: str) -> None:
        key, _, number = line.rpartition(" ")
        if self.gauge:
            key = _labelled(key, worker)
        self.sums[key] = self.sums.get(key, 0.0) + float(number)

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.head) + "".join(f"{key} {n!r}\n" for key, n in self.sums.items())


def _labelled(key: str, worker: str) -> str:
    name, brace, labels = key.partition("{")
    return f'{name}{{worker="{worker}",{labels}' if brace else f'{name}{{worker="{worker}"}}'
