"""A table that hangs keeps only itself waiting: another of its type, asked meanwhile, answers as if nothing were."""

import asyncio
import contextlib
import fcntl
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from appliance.tables import wire
from appliance.tables.proxied import Asked, files, keeper, open_proxied
from appliance.tables.proxied.keeper import Keeper
from tests.peers.good_tables import KINDS
from tests.peers.hostile import Hostile, Question, answers, goes_on

#: Seconds that a look-up may take here, and that one of a healthy table takes at most.
DEADLINE, SOON = 6.0, 2.5
#: More than any table asks at once.
MANY = 40
KEY = "joe@example.com"
LOCKS = """\
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""
needs_postmap = pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed")


def opened(spec: str) -> Asked:
    table = open_proxied(spec)
    table.deadline = DEADLINE
    return table


@contextlib.asynccontextmanager
async def server(name: str, root: Path) -> AsyncIterator[tuple[str, str, asyncio.Event]]:
    """(the table whose server hangs behind every question, a healthy one, set once some questions hang)."""
    kind, stuck, asked = KINDS[name], asyncio.Event(), []

    async def hangs(good: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await good.read(reader, writer)
        asked.append(writer)
        if len(asked) == 8:
            stuck.set()
        await asyncio.Event().wait()

    keeps = kind.whole or name == "ldap"  # a good peer of the others has a login before each question
    async with Hostile(kind.good, hangs) as bad, Hostile(kind.good, goes_on if keeps else answers) as good:
        (root / "a").mkdir(), (root / "b").mkdir()
        yield kind.spec(bad.port, root / "a"), kind.spec(good.port, root / "b"), stuck


@contextlib.contextmanager
def sqlite(root: Path) -> Iterator[tuple[str, str]]:
    """(a table whose database another process has locked, a healthy one)."""
    specs = []
    for name in ("slow", "quick"):
        with contextlib.closing(sqlite3.connect(root / f"{name}.sqlite")) as database:
            database.execute("CREATE TABLE alias (address TEXT, goto TEXT)")
            database.execute("INSERT INTO alias VALUES (?, 'inside')", (KEY,))
            database.commit()
        cf = root / f"{name}.cf"
        cf.write_text(f"dbpath = {root}/{name}.sqlite\nquery = SELECT goto FROM alias WHERE address = '%s'\n")
        specs.append(f"sqlite:{cf}")
    locks = [sys.executable, "-c", LOCKS, str(root / "slow.sqlite")]
    with subprocess.Popen(locks, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"locked\n"
        yield specs[0], specs[1]
        process.communicate(b"")


@contextlib.contextmanager
def compiled(kind: str, root: Path) -> Iterator[tuple[str, str]]:
    """(a table whose file a writer has locked, a healthy one). Nobody locks a cdb: its disk is slow."""
    for name in ("slow", "quick"):
        (root / name).write_text(f"{KEY} inside\n")
        subprocess.run(["postmap", f"{kind}:{root / name}"], check=True)
    path = next(root.glob("slow.*"))
    specs = f"{kind}:{root}/slow", f"{kind}:{root}/quick"
    if kind == "cdb":
        disk, (opens, locked) = threading.Event(), files._READERS["cdb"]

        def slowly(fd: int, name: str) -> files.Reader:
            if name == str(path):
                disk.wait(60)
            return opens(fd, name)

        files._READERS["cdb"] = slowly, locked
        yield specs
        files._READERS["cdb"] = opens, locked
        disk.set()
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield specs


async def others_answer(slow: str, quick: str, stuck: asyncio.Event | None = None) -> list[asyncio.Task[keeper.Answer]]:
    """The look-ups that hang; each of the healthy table's was answered soon."""
    tables = Keeper(opened)
    assert tables.also([slow, quick]) == []
    async with asyncio.timeout(20):  # until what it needs is loaded, and it is logged in
        while (await tables.answer(quick, KEY))[0] == wire.FAILED:
            await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(tables.answer(slow, f"{number}{KEY}")) for number in range(MANY)]
    if stuck is not None:
        await asyncio.wait_for(stuck.wait(), DEADLINE / 2)
    for _ in range(20):
        begun = time.monotonic()
        assert (await tables.answer(quick, KEY))[0] == wire.FOUND
        assert time.monotonic() - begun < SOON
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting), "they hang meanwhile"
    begun = time.monotonic()
    tables.close()
    assert time.monotonic() - begun < SOON, "a table that hangs is closed without waiting for it"
    return waiting


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "REMEMBER", 0.0)


@pytest.mark.parametrize("name", KINDS)
async def test_a_server_that_hangs(name: str, tmp_path: Path) -> None:
    async with server(name, tmp_path) as (slow, quick, stuck):
        waiting = await others_answer(slow, quick, stuck)
    async with asyncio.timeout(DEADLINE * 2):
        assert {state for state, _, _ in await asyncio.gather(*waiting)} == {wire.FAILED}


async def test_a_database_that_another_process_has_locked(tmp_path: Path) -> None:
    with sqlite(tmp_path) as (slow, quick):
        waiting = await others_answer(slow, quick)
    async with asyncio.timeout(DEADLINE * 2):
        assert {state for state, _, _ in await asyncio.gather(*waiting)} <= {wire.MISSING, wire.FAILED}


@pytest.mark.peer
@needs_postmap
@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb", "cdb"])
async def test_a_file_that_a_writer_has_locked(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK", DEADLINE * 0.75)
    with compiled(kind, tmp_path) as (slow, quick):
        waiting = await others_answer(slow, quick)
    async with asyncio.timeout(DEADLINE * 2):
        assert {state for state, _, _ in await asyncio.gather(*waiting)} <= {wire.MISSING, wire.FAILED}


@pytest.mark.peer
@needs_postmap
async def test_who_waits_for_a_slot_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a slot is part of the table's own time; the first says what it was at."""
    monkeypatch.setattr(files, "LOCK", 30.0)

    def short(spec: str) -> Asked:
        table = open_proxied(spec)
        table.deadline = 0.5
        return table

    with compiled("hash", tmp_path) as (slow, _):
        tables = Keeper(short)
        tables.also([slow])
        begun = time.monotonic()
        said = await asyncio.gather(*(tables.answer(slow, f"{number}{KEY}") for number in range(5)))
        assert time.monotonic() - begun < 8
        tables.close()
    assert {state for state, _, _ in said} == {wire.FAILED}
    texts = sorted(text for _, text, _ in said)
    why = f"{slow}: no answer within 0.5 s"
    assert texts == [f"{why} (reading {tmp_path}/slow.db)", *[f"{why} (waiting for its turn)"] * 4]
