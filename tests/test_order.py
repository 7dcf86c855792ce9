"""The order in which several processes share the tests."""

from itertools import islice, pairwise

import pytest

from tests.order import RANKS, dealt, module, pieces, rank

FOUND = [
    *(f"tests/checks/test_{letter}.py::test_{n}" for letter in "abcdef" for n in range(9)),
    *(f"tests/cli/test_{letter}.py::test_{n}" for letter in "gh" for n in range(2)),
    *(f"tests/daemons/smtpd/test_i.py::test_{n}" for n in range(3)),
    *(f"tests/interop/test_{letter}.py::test_{n}" for letter in "jklmn" for n in range(2)),
    *(f"tests/test_{letter}.py::test_{n}" for letter in "opq" for n in range(4)),
]


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_every_test_runs_once_and_modules_stay_whole(workers: int) -> None:
    order = dealt(((name, name) for name in FOUND), workers)
    assert sorted(order) == sorted(FOUND)
    cuts = sum(module(before) != module(after) for before, after in pairwise(order))
    assert cuts < len(set(map(module, FOUND))) + workers, "at most one module a piece is cut"
    for name in set(map(module, FOUND)):
        assert [test for test in order if module(test) == name] == [test for test in FOUND if module(test) == name]


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_each_piece_begins_with_what_waits(workers: int) -> None:
    order = dealt(((name, name) for name in FOUND), workers)
    rest = iter(order)
    for size in pieces(len(order), workers):
        ranks = [rank(name) for name in islice(rest, size)]
        assert ranks[0] == 0 and ranks == sorted(ranks)


def test_more_that_waits_than_a_piece_holds() -> None:
    names = [f"tests/running/test_a.py::test_{n}" for n in range(20)] + ["tests/mail/test_b.py::test_c"]
    assert sorted(dealt(((name, name) for name in names), 4)) == sorted(names)
    assert dealt([], 4) == []


def test_what_is_ranked_is_there() -> None:
    ranked = [rank(f"tests/{folder}/test_x.py::test_y") for names in RANKS for folder in names]
    assert ranked == [0, 0, 0, 1, 1, 1, 1, 1]
    assert rank("tests/test_layers.py::test_budget") == rank("tests/mail/test_x.py::test_y") == len(RANKS)
