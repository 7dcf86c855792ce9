"""The operators' log: one line, capped per cause; traces in it and nowhere else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.observe import maillog, oplog
from appliance.observe.sink import Sink


@pytest.fixture
def err(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    fd = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    oplog.configure("info")
    monkeypatch.setattr(oplog._State, "stderr", Sink(fd))
    oplog._seen.clear()
    yield tmp_path / "err"
    os.close(fd)


def test_a_line_has_the_mail_logs_form_and_no_control_characters(err: Path) -> None:
    oplog.get("master").warning("the disk is full", path="/a\nb", left=3)
    oplog.get("master").info("ready")
    first, second = err.read_text().splitlines()
    assert "postgate/master[" in first and first.endswith("]: warning: the disk is full: path=/a\\x0ab left=3")
    assert second.endswith("]: ready")


def test_the_level_holds(err: Path) -> None:
    oplog.get("x").debug("no")
    oplog.get("x").error("yes")
    assert err.read_text().count("\n") == 1


def test_a_trace_is_one_line(err: Path) -> None:
    try:
        raise ValueError("bad\nluck")
    except ValueError:
        oplog.get("x").exception("crashed")
    (line,) = err.read_text().splitlines()
    assert "error: crashed: ValueError: bad\\x0aluck [test_observe_oplog.py:" in line


def test_a_storm_of_one_cause_is_capped_and_the_next_line_says_how_many(
    err: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(oplog.time, "monotonic", lambda: now[0])
    for number in range(500):
        oplog.get("x").warning("peer is away", number=number)
    oplog.get("x").warning("another cause")
    assert err.read_text().count("peer is away") == 20
    assert "another cause" in err.read_text()
    now[0] += 11
    oplog.get("x").warning("peer is away", number=501)
    assert "suppressed_before=480" in err.read_text().splitlines()[-1]


def test_warnings_go_to_the_mail_log_too(err: Path, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "mail", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    maillog.configure(fd)
    try:
        oplog.get("x").info("quiet")
        oplog.get("x").warning("loud")
        assert "loud" in (tmp_path / "mail").read_text() and "quiet" not in (tmp_path / "mail").read_text()
        assert "loud" in err.read_text() and "quiet" in err.read_text()
    finally:
        maillog.configure(2)
        os.close(fd)
