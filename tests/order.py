"""In which order the tests run when several processes share them: first what waits, last what only computes.

Contract: a test depends on no order; this one saves time. Tests that talk to other programs wait most of theirs, so that
more processes than processors are kept busy by them; what computes comes last, short tests that can be shared out to the
end. `--dist worksteal` gives each process one piece of the list to begin with, as long as the others': each piece begins
with its share of what waits. Modules stay whole, for what their tests share.
"""

from collections.abc import Iterable
from itertools import groupby, zip_longest
from typing import TypeVar

_Item = TypeVar("_Item")
#: Folders of tests, by how long they wait; all others only compute.
RANKS = (("faults", "interop", "running"), ("cli", "connectors", "daemons", "security", "tables"))


def module(name: str) -> str:
    """Of the name of a test: "tests/interop/test_x.py::test_y" is in "tests/interop/test_x.py"."""
    return name.partition("::")[0]


def rank(name: str) -> int:
    """0 for what waits longest."""
    folders = module(name).split("/")[:-1]
    return next((number for number, names in enumerate(RANKS) if set(names) & set(folders)), len(RANKS))


def pieces(total: int, workers: int) -> list[int]:
    """How many tests xdist gives to each at first."""
    sizes: list[int] = []
    for left in range(workers, 0, -1):
        sizes.append((total - sum(sizes)) // left)
    return sizes


def dealt(tests: Iterable[tuple[str, _Item]], workers: int) -> list[_Item]:
    """`tests` are (name, item) in the order in which they were found. One piece for each worker, behind one another."""
    groups = [list(group) for _, group in groupby(tests, key=lambda test: module(test[0]))]
    groups.sort(key=lambda group: rank(group[0][0]))
    hands: list[list[_Item]] = [[] for _ in range(workers)]
    busy = [group for group in groups if rank(group[0][0]) < len(RANKS)]
    for row in zip_longest(*[iter(busy)] * workers):
        for hand, group in zip(hands, row, strict=True):
            hand += [item for _, item in group or ()]
    rest = iter([item for group in groups[len(busy) :] for _, item in group])
    for hand, size in zip(hands, pieces(sum(map(len, groups)), workers), strict=True):
        hand += [item for _, item in zip(range(size - len(hand)), rest, strict=False)]
    return [item for hand in hands for item in hand] + list(rest)
