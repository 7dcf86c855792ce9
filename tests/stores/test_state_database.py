"""The embedded database and the write-behind: what survives, what a damaged or full disk does."""

import asyncio
import contextlib
import errno
import os
import threading
import time as clock_of_day
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from appliance.mail.greylisting import GreylistAsk
from appliance.stores import embedded, keeper, wire
from appliance.stores.greylist import Triplet
from appliance.stores.state import State
from tests.stores.state_fakes import Direct, Time, state_at

Make = Callable[[], State]


def ask(n: int = 0, **more: object) -> GreylistAsk:
    given = {
        "keys": ("net:192.0.2.0/24",), "sender": f"s{n}@example.org", "recipient": "r@example.com",
        "client": "192.0.2.1", "now": 0.0, "delay": 90.0, "window": 172800.0, "remember": 3110400.0, "auto_accept": 5,
    }  # fmt: skip
    return GreylistAsk(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def make(tmp_path: Path, time: Time) -> AsyncIterator[Make]:
    made: list[State] = []

    def state() -> State:
        made.append(state_at(tmp_path / "stores" / "x.db", time))
        return made[-1]

    yield state
    for one in made:
        one.database.close()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_who_writes_thousands_of_rows_lets_others_have_the_processor(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, paused = make(), list[float]()
    monkeypatch.setattr(embedded, "time", SimpleNamespace(sleep=paused.append))
    for n in range(embedded.TOGETHER // 4):
        await Direct(state).step(ask(n))
    await state.keeper.flush()
    assert not paused
    for n in range(1000, 1000 + 5 * embedded.TOGETHER):
        await Direct(state).step(ask(n))
    await state.keeper.flush()
    assert paused == [embedded.BREATH] * 10  # a triplet and a pair of each
    for n in range(2000, 2000 + embedded.TOGETHER):
        await Direct(state).step(ask(n))
    await state.keeper.stop()
    assert paused[10:] == [0.0] * 2  # nobody is answered any more


async def test_state_survives_a_restart(make: Make, time: Time) -> None:
    state = make()
    await Direct(state).step(ask())
    state.answer([wire.Accepted("192.0.2.1"), wire.ProbePut("a@example.com", "known", "250 ok", "hop", 1000.0)], {})
    await state.keeper.flush()
    state.database.close()
    time.pass_(91)
    again = make()
    assert (await Direct(again).step(ask())).state == "passed"
    assert again.answer([wire.Connect("192.0.2.9", 60.0), wire.ProbeGet("a@example.com")], {})[0][3] is True
    assert again.answer([wire.ProbeGet("a@example.com")], {})[0][0] == "known"


async def test_nothing_waits_longer_than_the_interval(make: Make) -> None:
    state = make()
    await state.keeper.start()
    await Direct(state).step(ask())
    await until(lambda: state.keeper.lag == 0)
    assert state.database.count("triplet") == 1
    await state.keeper.stop()


async def test_stop_writes_what_waits(make: Make) -> None:
    state = make()
    await state.keeper.start()
    for n in range(50):
        await Direct(state).step(ask(n))
    await state.keeper.stop()
    again = make()
    assert again.database.count("triplet") == 50


async def test_what_is_evicted_from_memory_is_read_from_disk(make: Make, time: Time) -> None:
    state = make()
    state.triplets._hot_cap = state.pairs._hot_cap = 3
    store = Direct(state)
    for n in range(10):
        await store.step(ask(n))
    assert len(state.triplets.hot) == 3
    time.pass_(30)
    assert (await store.step(ask(0))).state == "early"  # from what waits to be written
    await state.keeper.flush()
    time.pass_(61)
    for n in range(10):
        assert (await store.step(ask(n))).state == "passed"


async def test_database_that_is_no_database_is_set_aside(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "stores" / "x.db"
    path.parent.mkdir()
    path.write_bytes(b"this is not a database" * 500)
    state = make()
    assert "damaged" in " ".join(state.health()["degraded"])
    assert (await Direct(state).step(ask())).state == "new"
    await state.keeper.flush()
    assert state.database.count("triplet") == 1
    [aside] = path.parent.glob("x.db.damaged-*")
    assert aside.read_bytes().startswith(b"this is not")


async def test_damage_inside_is_found_and_memory_is_written_anew(make: Make, tmp_path: Path, time: Time) -> None:
    state = make()
    for n in range(3000):
        await Direct(state).step(ask(n))
    await state.keeper.flush()
    state.database.checkpoint()
    state.database.close()
    path = tmp_path / "stores" / "x.db"
    data = bytearray(path.read_bytes())
    for page in range(10, len(data) // 4096, 3):
        data[page * 4096 : page * 4096 + 2000] = b"\xee" * 2000
    path.write_bytes(data)
    again = make()
    await again.keeper.start()
    assert (await Direct(again).step(ask(99_999))).state == "new"
    await until(lambda: again.database.lost)
    time.pass_(91)
    assert (await Direct(again).step(ask(99_999))).state == "passed"
    await until(lambda: again.keeper.lag == 0)
    assert again.database.read("triplet", "net:192.0.2.0/24\x1fs99999@example.org\x1fr@example.com")
    await again.keeper.stop()


async def test_full_disk_goes_on_from_memory_and_recovers(
    make: Make, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "RETRY", 0.05)
    state = make()
    await Direct(state).step(ask(0))
    await state.keeper.flush()
    writer = state.database._writer
    assert writer is not None
    [[pages]] = writer.execute("PRAGMA page_count").fetchall()
    writer.execute(f"PRAGMA max_page_count={pages}").fetchall()
    await state.keeper.start()
    for n in range(2000):
        assert (await Direct(state).step(ask(n))).state == ("early" if n == 0 else "new")
    await until(lambda: state.database.trouble)
    assert "deciding from memory" in " ".join(state.health()["degraded"])
    time.pass_(91)
    assert (await Direct(state).step(ask(1500))).state == "passed"
    writer.execute("PRAGMA max_page_count=1000000").fetchall()
    await until(lambda: not state.database.trouble and state.keeper.lag == 0)
    assert state.database.count("triplet") == 2000
    assert state.health()["degraded"] == []
    await state.keeper.stop()


async def test_folder_that_cannot_be_made_leaves_memory(tmp_path: Path, time: Time) -> None:
    (tmp_path / "stores").write_text("a file stands where the folder should be")
    state = state_at(tmp_path / "stores" / "x.db", time)
    assert (await Direct(state).step(ask())).state == "new"
    with pytest.raises(OSError, match="deciding from memory"):
        await state.keeper.flush()
    time.pass_(90)
    assert (await Direct(state).step(ask())).state == "passed"
    (tmp_path / "stores").unlink()
    await state.keeper.flush()
    assert state.database.count("triplet") == 1
    state.database.close()


async def test_forgotten_changes_are_said(make: Make) -> None:
    state = make()
    state.triplets._dirty_cap = 5
    for n in range(8):
        await Direct(state).step(ask(n))
    assert "3 changes of state were forgotten" in " ".join(state.health()["degraded"])


async def test_sweep_warms_memory_and_removes_what_expired(
    make: Make, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PAGE", 7)
    state = make()
    for n in range(20):
        await Direct(state).step(ask(n))
    await state.keeper.flush()
    time.pass_(172800 + 100)
    for n in range(100, 120):
        await Direct(state).step(ask(n))
    await state.keeper.flush()
    state.database.close()
    again = make()
    await again.keeper.start()
    await until(lambda: again.triplets.complete and again.pairs.complete)
    assert len(again.triplets.hot) == 20
    await until(lambda: again.keeper.lag == 0)
    assert again.database.count("triplet") == 20
    assert again.keeper.expired == 40  # triplets and pairs
    await again.keeper.stop()


async def test_record_of_an_unknown_version_counts_as_unknown(make: Make) -> None:
    state = make()
    state.database.write({"triplet": [("net:192.0.2.0/24\x1fs0@example.org\x1fr@example.com", b"\xc1", 9e9)]}, b"")
    assert (await Direct(state).step(ask())).state == "new"


async def test_one_broken_ask_costs_itself_only(make: Make) -> None:
    state = make()
    good = wire.Step(("net:1",), "s", "r", "c", 90.0, 172800.0, 3110400.0, 5)
    answers = state.answer([wire.List("nonsense", "", "", 10), good], {})
    assert "error" in answers[0]
    assert answers[1][0] == "new"


async def test_steps_stay_short_with_many_entries(make: Make, time: Time) -> None:
    """The longest single call on the loop of stated: an ask that reads the disk, a step of the sweep."""
    state = make()
    far = time.wall_now + 1e6
    row = (Triplet(1.0, 1.0, 1), far)
    for start in range(0, 200_000, 50_000):
        state.triplets.flushing = {f"net:10.0.0.0/24\x1fs{n}@example.org\x1fr": row for n in range(start, start + 50_000)}
        await state.keeper.flush()
    worst = 0.0
    after = ""
    for _ in range(100):
        began = clock_of_day.thread_time()
        page = state.database.walk("triplet", after, keeper.PAGE)
        state.keeper.sweep_page(state.triplets, page, warm=True)
        worst = max(worst, clock_of_day.thread_time() - began)
        after = page[-1][0]
    for n in range(0, 200_000, 997):
        began = clock_of_day.thread_time()
        state.triplets.get(f"net:10.0.0.0/24\x1fs{n}@example.org\x1fr")
        worst = max(worst, clock_of_day.thread_time() - began)
    assert worst < 0.02, worst


def test_sqlite_is_the_bundled_one_without_the_wal_reset_bug() -> None:
    assert tuple(map(int, apsw.sqlite_lib_version().split("."))) >= (3, 51, 3)


async def test_a_key_that_is_new_in_an_early_retry_is_written_too(make: Make, time: Time) -> None:
    state = make()
    await Direct(state).step(ask(keys=("id:example.org",)))
    await state.keeper.flush()
    time.pass_(10)
    assert (await Direct(state).step(ask(keys=("id:example.org", "net:192.0.2.0/24")))).state == "early"
    await state.keeper.flush()
    state.database.close()
    time.pass_(80)
    assert (await Direct(make()).step(ask(keys=("net:192.0.2.0/24",)))).state == "passed"


def test_nobody_reads_over_a_connection_that_is_being_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread opens a database that was away, while the loop goes on asking."""
    database, seen = embedded.Database(tmp_path / "x.db", ("t",)), list[bool]()

    class Looks(apsw.Connection):
        def execute(self, sql: str, *more: object) -> apsw.Cursor:  # type: ignore[override]
            if sql.startswith("SELECT"):
                seen.append(database.is_open)
            return super().execute(sql, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(embedded.apsw, "Connection", Looks)
    database.open()
    assert seen == [False, False] and database.is_open
    database.close()


def test_who_found_damage_has_closed_the_file_when_it_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = tmp_path / "x.db", list[str]()
    database, aside = embedded.Database(path, ("t",)), embedded.Database.set_aside
    database.open()
    database.write({"t": [("key", b"value", 1.0)]}, b"")
    database.checkpoint()
    database.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xee" * (len(data) - 4096))

    def watched(self: embedded.Database, why: str) -> bool:
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                left.append(os.readlink(f"/proc/self/fd/{fd}"))
        return aside(self, why)

    monkeypatch.setattr(embedded.Database, "set_aside", watched)
    database.open()
    assert database.lost and left and not [name for name in left if name.startswith(str(path))]
    database.close()


async def test_a_database_is_not_set_aside_in_the_middle_of_a_checkpoint(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection cannot be closed under the thread that is in it: it would go on in the files that are set aside."""
    state, begun, go_on, order = make(), threading.Event(), threading.Event(), list[str]()

    def checkpoint() -> None:
        begun.set()
        go_on.wait(5)
        order.append("checkpoint")

    def check() -> str:
        begun.wait(5)
        return "damaged"

    monkeypatch.setattr(keeper, "CHECKPOINT", 0.0)
    monkeypatch.setattr(state.database, "checkpoint", checkpoint)
    monkeypatch.setattr(state.database, "check", check)
    monkeypatch.setattr(state.keeper, "replace", lambda why: order.append(why))
    await state.keeper.start()
    look = state.keeper._tasks[-1]
    await asyncio.wait((look,), timeout=0.2)
    go_on.set()
    await look
    await state.keeper.stop()
    assert order[0] == "checkpoint" and "damaged" in order


async def test_who_cannot_set_a_damaged_file_aside_goes_on_trying(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that goes bad is often made read-only: the end of that must not end the writing."""
    path = tmp_path / "stores" / "x.db"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    monkeypatch.setattr(keeper, "INTERVAL", 0.01)
    monkeypatch.setattr(keeper, "RETRY", 0.01)
    tried = list[Path]()

    def refused(self: Path, _target: object) -> Path:
        tried.append(self)
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refused)
        state = make()
        await state.keeper.start()
        assert (await Direct(state).step(ask())).state == "new"
        assert "Read-only file system" in " ".join(state.health()["degraded"])
        before = len(tried)
        await until(lambda: len(tried) > before + 1)
        assert path.read_bytes().startswith(b"no database")
    await until(lambda: state.database.is_open and not state.keeper.lag)
    await state.keeper.stop()
    assert (await Direct(make()).step(ask())).state == "early"


async def test_damage_that_was_dealt_with_meanwhile_costs_no_second_file(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks through the old file and finds it damaged says nothing of the new one."""
    state, begun, go_on, aside = make(), threading.Event(), threading.Event(), list[str]()

    def check() -> str:
        begun.set()
        go_on.wait(5)
        return "damaged"

    monkeypatch.setattr(state.database, "check", check)
    set_aside = state.database.set_aside

    def watched(why: str) -> bool:
        aside.append(why)
        return set_aside(why)

    monkeypatch.setattr(state.database, "set_aside", watched)
    await state.keeper.start()
    await asyncio.to_thread(begun.wait, 5)
    async with state.keeper._flushing:
        state.keeper.replace("a row cannot be read")
    go_on.set()
    await state.keeper._tasks[-1]
    await state.keeper.stop()
    assert aside == ["a row cannot be read"]


def test_a_damaged_file_is_set_aside_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a new one is begun without what the RAM holds: nobody hears that the old one is gone."""
    path, rename = tmp_path / "x.db", Path.rename
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"x.db{suffix}").write_bytes(b"no database" * 1000)
    database = embedded.Database(path, ["t"])

    def full(self: Path, target: Path) -> Path:
        if self.name == "x.db-wal":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        assert not database.set_aside("damaged")
        assert path.exists() and not database.lost
    assert database.set_aside("damaged") and database.is_open
    database.close()
    assert len(list(tmp_path.glob("x.db.damaged-*"))) == 3
