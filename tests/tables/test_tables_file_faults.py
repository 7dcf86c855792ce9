"""Every fault of a table that is a file: "cannot answer" in bounded time and one line in the log, never "not found"; well
again when the file is, without a restart."""

import contextlib
import fcntl
import shutil
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.tables import wire
from appliance.tables.proxied import Asked, files, keeper, open_proxied
from appliance.tables.proxied.keeper import Keeper

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed (make packages)"),
]
KINDS = ("hash", "btree", "lmdb", "cdb", "sqlite")
DEADLINE, KEY = 1.0, "joe@example.com"
Fault = Callable[[Path, bytes], None]


def absent(path: Path, _whole: bytes) -> None:
    path.unlink()


def a_folder(path: Path, _whole: bytes) -> None:
    path.unlink()
    path.mkdir()


def no_octet(path: Path, _whole: bytes) -> None:
    path.write_bytes(b"")


def half_of_it(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def garbage(path: Path, whole: bytes) -> None:
    path.write_bytes(bytes(range(256)) * (len(whole) // 256 + 1))


def another_format(path: Path, _whole: bytes) -> None:
    path.write_text(f"{KEY} inside\n" * 500)


def its_head_alone(path: Path, whole: bytes) -> None:
    """Whoever writes it anew was killed, and its pages are not on the disk."""
    path.write_bytes(whole[:100] + bytes(len(whole) - 100))


def without_end(path: Path, _whole: bytes) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def nobody_writes(path: Path, _whole: bytes) -> None:
    """Reading it would wait for ever."""
    path.unlink()
    subprocess.run(["mkfifo", str(path)], check=True)


FAULTS: dict[str, Fault] = {
    act.__name__: act
    for act in (
        absent, a_folder, no_octet, half_of_it, garbage, another_format, its_head_alone, without_end, nobody_writes
    )
}  # fmt: skip
CASES = [(kind, fault) for kind in KINDS for fault in FAULTS]
#: SQLite writes with a journal, and keeps what it has read of a file whose counter is the same.
CASES.remove(("sqlite", "its_head_alone"))


def made(kind: str, root: Path) -> tuple[str, Path]:
    """(a table, the file that it is)."""
    if kind == "sqlite":
        path = root / "t.sqlite"
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE alias (address TEXT, goto TEXT)")
            database.executemany("INSERT INTO alias VALUES (?, 'inside')", [(KEY,), *((f"a{n}",) for n in range(400))])
            database.commit()
        (root / "t.cf").write_text(f"dbpath = {path}\nquery = SELECT goto FROM alias WHERE address = '%s'\n")
        return f"sqlite:{root}/t.cf", path
    (root / "t").write_text("".join(f"{key} inside\n" for key in (KEY, *(f"a{n}" for n in range(400)))))
    subprocess.run(["postmap", f"{kind}:{root}/t"], check=True)
    return f"{kind}:{root}/t", next(root.glob("t.*"))


def opened(spec: str) -> Asked:
    table = open_proxied(spec)
    table.deadline = DEADLINE
    return table


@pytest.fixture
async def tables(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Keeper, list[dict[str, Any]]]]:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(keeper, "REST_MIN", 0.05)
    monkeypatch.setattr(keeper, "REMEMBER", 0.0)
    monkeypatch.setattr(keeper, "LOOK", 0.0)
    monkeypatch.setattr(keeper, "log", SimpleNamespace(warning=lambda what, **more: said.append({"": what, **more})))
    found = Keeper(opened)
    yield found, said
    found.close()


async def until_found(tables: Keeper, spec: str) -> None:
    end = time.monotonic() + 10
    while (await tables.answer(spec, KEY))[0] != wire.FOUND:
        assert time.monotonic() < end, "it is well again"


@pytest.mark.parametrize(("kind", "fault"), CASES)
async def test_d1_each_fault_puts_off(
    kind: str, fault: str, tables: tuple[Keeper, list[dict[str, Any]]], tmp_path: Path
) -> None:
    asked, said = tables
    spec, path = made(kind, tmp_path)
    assert asked.also([spec]) == []
    await until_found(asked, spec)
    whole, begun = path.read_bytes(), time.monotonic()
    FAULTS[fault](path, whole)
    state, why, _ = await asked.answer(spec, KEY)
    assert time.monotonic() - begun < DEADLINE + 5
    assert state == wire.FAILED and str(path) in why, (state, why)
    (line,) = said
    assert line[""] == "a table does not answer" and line["table"] == spec and line["seconds"] < DEADLINE + 5, line
    assert line["step"] and line["why"]
    (wrong,) = asked.degraded()
    assert not isinstance(wrong, str) and wrong["what"] == f"table {spec}"
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(whole)
    await until_found(asked, spec)
    assert asked.degraded() == []


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb"])
async def test_d1_who_holds_it_while_he_writes_is_waited_for_in_bounded_time(
    kind: str, tables: tuple[Keeper, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK", 30.0)
    asked, said = tables
    spec, path = made(kind, tmp_path)
    assert asked.also([spec]) == []
    begun = time.monotonic()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state, _, _ = await asked.answer(spec, KEY)
        assert state == wire.FAILED and time.monotonic() - begun < DEADLINE + 5
        assert said[0]["table"] == spec and str(path) in said[0]["step"]
    await until_found(asked, spec)
