"""Numbers for Prometheus: one registry a process, text exposition, and how the master adds the processes up.

Contract: metrics are made once, at import, by `counter`, `gauge`, `histogram` (asking twice gives the same one). Label
values come from small fixed sets, never from what a stranger sent. Incrementing costs under a microsecond and cannot
fail. The master counts in a registry of its own, so that its forks start at nought.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

import prometheus_client as prometheus
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

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
        self._bundles: dict[tuple[tuple[str, ...], ...], list[int]] = {}
        if not labels:  # it is there from the start
            self.counts[()] = 0

    def bundle(self, those: Iterable[tuple[str, ...]]) -> list[int]:
        """A cell: `cell[0] += 1` counts each of these label values once more, with the next look at the numbers. The same
        values have one cell."""
        return self._bundles.setdefault(tuple(those), [0])

    def settle(self) -> None:
        """Count what is in the cells."""
        for those, cell in self._bundles.items():
            times, cell[0] = cell[0], 0
            for values in those if times else ():
                self.counts[values] += times

    def collect(self) -> Iterable[Metric]:
        """For the registry: all counts as one family."""
        self.settle()
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for values, count in list(self.counts.items()):
            family.add_metric(values, count)
        yield family


class Spread:
    """A histogram for such paths; `labels(...)` is made once for each set of values, and kept by who observes."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name, self.text, self.names, self.bounds = name, text, labels, (*bounds, math.inf)
        self._made: dict[tuple[str, ...], _Spread] = {}

    def labels(self, *values: str) -> "_Spread":
        if values not in self._made:
            self._made[values] = _Spread(self.bounds)
        return self._made[values]

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.names)
        for values, one in list(self._made.items()):
            counts = accumulate(one.counts)
            buckets = [(_bound(bound), n) for bound, n in zip(self.bounds, counts, strict=True)]
            family.add_metric(values, buckets, one.sum)
        yield family


class _Spread:
    """Of one set of label values: how many stayed within each bound but not within the one before, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self.counts, self.sum = bounds, [0] * len(bounds), 0.0

    def observe(self, size: float) -> None:
        self.counts[bisect_left(self._bounds, size)] += 1
        self.sum += size


def _bound(size: float) -> str:
    return str(floatToGoString(size))  # type: ignore[no-untyped-call]


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

    def spread(self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS) -> Spread:
        """Counts by size; see Spread."""
        if name not in self._made:
            self._made[name] = Spread(name, text, labels, buckets)
            self.collectors.register(self._made[name])
        made = self._made[name]
        if not isinstance(made, Spread):
            raise TypeError(f"{name} is a {type(made).__name__} already")
        return made

    def exposition(self) -> bytes:
        """All metrics in the text format 0.0.4."""
        return prometheus.generate_latest(self.collectors)


REGISTRY = Registry()
counter = REGISTRY.counter
gauge = REGISTRY.gauge
histogram = REGISTRY.histogram
spread = REGISTRY.spread
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
