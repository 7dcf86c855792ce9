"""The table of `postgate selftest`: nothing is lost on a narrow terminal, and a self-test that showed little says so."""

import re

import pytest

from appliance.cli.selftest.result import UNPLAYED, Result
from appliance.cli.selftest.table import Shown

LONG = 'tls stops this stranger first: missing (regular.example needs TLSv1.2, session has none); [on] missing = "reject"'
MISS = Result(
    "miss", "delivered, spf=pass dkim=pass dmarc=pass", "550 5.7.1 Access denied, a reply that has no end", LONG
)

FINE = Result("ok", "taken, then delivered", "delivered", "an honest sender")


def words(text: str) -> list[str]:
    return re.findall(r"\S+", text)


def contains(told: list[str], wanted: list[str]) -> bool:
    return any(told[i : i + len(wanted)] == wanted for i in range(len(told)))


@pytest.mark.parametrize("columns", [60, 80, 132, 150, 200])
def test_no_line_is_too_long_and_what_matters_is_told_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = Shown(as_json=False)
    shown.row("clean mail", FINE, 0.1)
    shown.row("BDAT", Result("skipped", "-", "-", LONG), 0.1)
    shown.row("signed mail", MISS, 0.1)
    assert shown.end("/etc/x") == 1
    told = capsys.readouterr().out
    for whole in FINE[1:]:
        assert contains(words(told.replace(";", "")), words(whole)), "also of what is well: expected, got and why"
    assert max(map(len, told.splitlines())) <= columns
    for whole in (LONG, MISS.expected, MISS.got.removesuffix(" end")):
        assert contains(words(told.replace(";", "")), words(whole.replace(";", ""))), (whole, told)
    assert told.splitlines()[-1].startswith("1 as expected, 1 missed, 1 skipped in 0 s: /etc/x")


@pytest.mark.parametrize(
    ("state", "last"),
    [("skipped", "the clean mail was not played"), ("miss", "the clean mail missed"), ("ok", "1 as expected")],
)
def test_a_self_test_without_its_clean_mail_says_so_at_its_end(
    state: str, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Shown(as_json=False)
    shown.row("clean mail", Result(state, "delivered", "delivered", "why"), 0.1)  # type: ignore[arg-type]
    shown.end("x")
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


def test_rows_without_time_are_counted_in_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown(as_json=False)
    shown.row("clean mail", Result("ok", "delivered", "delivered"), 0.1)
    shown.row("kill -9 of each process", Result("miss", "it is played", UNPLAYED, "85 s were over"), 0.0)
    assert shown.end("x") == 1, "that is no success"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 as expected, 1 missed (1 not played for want of time), 0 skipped in ")
