"""docs/security.md tells the truth: every row of this issue, each with tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/security.md").read_text()
_ROW = re.compile(r"^\| ([A-Z]\d+) .*$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
NEEDED = {f"B{n}" for n in range(1, 13)} | {f"C{n}" for n in range(1, 10)} | {f"D{n}" for n in (1, 2, 3, 4, 6)}
NEEDED |= {f"A{n}" for n in range(1, 13)} | {f"Q{n}" for n in range(1, 11)} | {"P1", "P4", "P6", "P7"}
#: Rows that cannot be tested yet, with the words that say so.
OPEN: dict[str, str] = {}


@cache
def names_in(path: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in nodes if isinstance(node, kinds) and node.name.startswith("test_"))


def rows() -> dict[str, str]:
    return {found[1]: found[0] for found in _ROW.finditer(PAGE)}


def test_every_row_of_the_issue_stands_here_once() -> None:
    names = [found[1] for found in _ROW.finditer(PAGE)]
    assert len(names) == len(set(names))
    assert set(names) == NEEDED


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_row_names_tests_that_exist(name: str) -> None:
    row = rows()[name]
    assert row.count(" | ") == 3, "row, what holds, proved by, knob"
    named = _TEST.findall(row)
    if name in OPEN:
        assert OPEN[name] in row and not named
        return
    assert named, "no test is named"
    for file, test in named:
        assert test in names_in(ROOT / "tests" / file), f"{file}::{test}"
