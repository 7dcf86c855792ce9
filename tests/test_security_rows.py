"""docs/security.md tells the truth: every row of this issue, each with tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.soak.lanes import OTHERS, hook_lanes, scanner_lanes, source_lane, table_lanes

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/security.md").read_text()
_ROW = re.compile(r"^\| ([A-Z]\d+) .*$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
NEEDED = {f"B{n}" for n in range(1, 13)} | {f"C{n}" for n in range(1, 10)} | {f"D{n}" for n in range(1, 7)}
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


#: Kinds of peers that the matrix must have; those that are spoken to over a socket have the whole list of faults.
PEERS = {"policy service", "milter", "clamd", "spamd", "rspamd", "icap", "amavisd", "program as a scanner", "YARA"}
PEERS |= {"socketmap", "tcp", "redis", "pgsql", "mysql", "ldap tables", "http", "ldap sources of recipients"}
PEERS |= {"filter before the queue", "next hop", "filter behind the queue", "program as a filter", "call-ahead"}
PEERS |= {
    "hash",
    "btree",
    "lmdb",
    "cdb",
    "sqlite tables",
    "handler in Python",
    "name servers",
    "clients of policyd and milterd",
}
#: Files whose tests walk lists of their own: programs, name servers, those who ask us.
OWN_LISTS = (
    "test_runner.py",
    "test_scand_yara.py",
    "test_delivery_pipe_faults.py",
    "test_dns_trouble.py",
    "test_bad_clients.py",
)
_MATRIX = PAGE.partition("### Every fault, for every kind of peer")[2].partition("\n## ")[0]


def matrix() -> list[list[str]]:
    lines = [line for line in _MATRIX.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def decorations(file: str, test: str) -> str:
    """What a test is parametrised with, and what that is made of, as source."""
    source = (ROOT / "tests" / file).read_text()
    tree = ast.parse(source)
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef) and node.name == test]
    text = " ".join(ast.unparse(one) for one in found.decorator_list)
    for node in tree.body:
        named = node.name if isinstance(node, ast.FunctionDef) else ""
        targets = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else [named]
        if any(target and re.search(rf"\b{re.escape(target)}\b", text) for target in targets):
            text += " " + ast.unparse(node)
    return text


def test_the_matrix_of_faults_has_every_kind_of_peer() -> None:
    kinds = [kind.removesuffix(", in scand") for row in matrix() for kind in re.split(", (?!in )", row[0])]
    assert set(kinds) == PEERS and len(kinds) == len(PEERS)


@pytest.mark.parametrize("row", matrix(), ids=lambda row: row[0])
def test_a_row_of_the_matrix_names_tests_that_walk_the_whole_list(row: list[str]) -> None:
    assert len(row) == 5 and "::" in row[1], "each kind of peer has tests of the faults"
    for file, test in _TEST.findall(" ".join(row)):
        assert test in names_in(ROOT / "tests" / file), f"{file}::{test}"
    file, test = _TEST.findall(row[1])[0]
    if Path(file).name not in OWN_LISTS:
        assert "FAULTS" in decorations(file, test), f"{file}::{test} does not walk the list of faults"


def test_the_lanes_of_the_matrix_are_those_of_the_soak() -> None:
    named = {lane for row in matrix() for lane in row[4].split(", ") if lane.isalpha()}
    made = {lane.name for lane in (*scanner_lanes(), *hook_lanes(), *table_lanes(), source_lane())}
    assert named == made | OTHERS.keys() - {"clean"} | {"inner", "filter", "proxy", "callahead", "front"}
