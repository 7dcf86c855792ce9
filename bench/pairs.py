"""Interleaved pairs: ours, theirs, ours, theirs; the ratio of each pair, and the median of the ratios."""

import statistics
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """`ours` and `theirs` in messages a second, medians; `ratio` is the median of the pairs' ratios."""

    name: str
    ours: float
    theirs: float
    ratio: float
    spread: tuple[float, float]

    def text(self) -> str:
        low, high = self.spread
        return f"| {self.name} | {self.ours:,.0f} | {self.theirs:,.0f} | **{self.ratio:.2f}** | {low:.2f} to {high:.2f} |"


def compare(name: str, ours: Callable[[], float], theirs: Callable[[], float], pairs: int, progress: str = "") -> Row:
    """Each callable makes one run and gives its messages a second."""
    a, b = [], []
    for number in range(pairs):
        a.append(ours())
        b.append(theirs())
        print(f"  {progress}{name}: pair {number + 1}/{pairs}: {a[-1]:,.0f} against {b[-1]:,.0f}", flush=True)
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    return Row(name, statistics.median(a), statistics.median(b), statistics.median(ratios), (ratios[0], ratios[-1]))
