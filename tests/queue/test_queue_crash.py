"""docs/queue.md line by line: the process is stopped at every single step of an operation, then started again."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.queue import disk
from appliance.queue.item import Item, Note
from appliance.queue.kept import KeptEntries
from appliance.queue.marks import Marks
from appliance.queue.spool import Spool
from tests.queue.queue_rig import Killed, Rig, trailer

STEPS = ("open", "write", "pwrite", "pwritev", "fsync", "fdatasync", "rename", "replace", "link", "unlink", "ftruncate")


class Death:
    """The `at`-th step (from 0) in a thread whose name begins with `thread` never happens, nor does any later one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, thread: str, at: int, half: bool = False) -> None:
        self.thread, self.left, self.half, self.dead = thread, at, half, threading.Event()
        for name in STEPS:
            monkeypatch.setattr(os, name, self._spy(name, getattr(os, name)))

    def _spy(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **more: Any) -> Any:
            if threading.current_thread().name.startswith(self.thread):
                if self.left == 0 and not self.dead.is_set():
                    self.dead.set()
                    if self.half and name == "write":
                        real(args[0], bytes(args[1])[: len(args[1]) // 2])
                if self.dead.is_set():
                    raise Killed
                self.left -= 1
            return real(*args, **more)

        return step


@pytest.fixture(autouse=True)
def quiet_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)


async def died(death: Death, done: asyncio.Future) -> bool:
    """Until the operation is done or the thread is dead; True if it died."""
    while not done.done() and not death.dead.is_set():
        await asyncio.sleep(0.001)
    return death.dead.is_set()


def restarted(rig: Rig) -> list[Item]:
    return rig.crash_all()


async def every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: Callable[[Rig, Item], Any], before: Any, half: bool
) -> int:
    """Kill `operation` at its first, second, ... step; after each the message is there exactly once and whole."""
    for at in range(100):
        rig = Rig(tmp_path / f"{half}{at}")
        rig.start_worker()
        item, body = await before(rig)
        with monkeypatch.context() as patch:
            death = Death(patch, "spool", at, half)
            dead = await died(death, asyncio.wrap_future(operation(rig, item)))
        found = restarted(rig)
        assert [(i.queue_id, rig.content(i)) for i in found] == [(item.queue_id, body)], f"step {at}"
        places = [p for f in ("deferred", "hold", "quarantine") for p in rig.names(f)]
        own = [] if found[0].folder == "intake" else [item.queue_id, f"{item.queue_id}.state"]
        assert sorted(places) == own, f"step {at}"
        assert not rig.names("corrupt")
        rig.start_worker()
        rig.close()
        if not dead:
            return at
    raise AssertionError("the operation never ended")


async def small(rig: Rig) -> tuple[Item, bytes]:
    await rig.commit(b"small message")
    return rig.pump()[-1], b"small message"


async def big(rig: Rig) -> tuple[Item, bytes]:
    body = os.urandom(100_000)
    file = rig.large()
    file.write(body)
    await file.commit(trailer(len(body)))
    return rig.pump()[-1], body


async def own(rig: Rig) -> tuple[Item, bytes]:
    item, body = await small(rig)
    await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    return item, body


@pytest.mark.parametrize("half", [False, True], ids=["step", "half a write"])
@pytest.mark.parametrize(
    ("before", "operation", "least"),
    [
        (small, lambda rig, item: rig.spool.keep(item, "deferred", Note(0, "deferred")), 8),
        (big, lambda rig, item: rig.spool.keep(item, "quarantine", Note(0, "quarantine")), 5),
        (own, lambda rig, item: rig.spool.hold(item, "operator"), 5),
        (own, lambda rig, item: rig.spool.keep(item, "deferred", Note(0, "rewritten")), 4),
    ],
    ids=["intake to deferred", "large to quarantine", "deferred to hold", "log rewritten"],
)
async def test_a_move_stopped_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Any, operation: Any, least: int, half: bool
) -> None:
    assert await every_step(tmp_path, monkeypatch, operation, before, half) >= least


@pytest.mark.parametrize("large", [False, True])
async def test_a_commit_stopped_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """No answer was given, so the message is there whole or not at all; what was there before stays."""
    seen = set()
    for at in range(4):
        rig = Rig(tmp_path / str(at))
        rig.start_worker()
        _first, body = await small(rig)
        with monkeypatch.context() as patch:
            death = Death(patch, "smtpd.0", at)
            if large:
                file = rig.large()
                file.write(b"L" * 100_000)
                done = file.commit(trailer(100_000))
            else:
                done = rig.log.commit(b"second", trailer(6))
            dead = await died(death, done)
        contents = [rig.content(i) for i in restarted(rig)]
        contents.sort(key=lambda content: content != body)
        assert contents[0] == body
        assert contents[1:] in ([], [b"second"], [b"L" * 100_000])
        assert dead or len(contents) == 2
        seen.add((dead, len(contents)))
        assert not rig.names("corrupt")
        rig.start_worker()
        rig.close()
    assert (True, 1) in seen
    assert (False, 2) in seen


async def test_grants_stopped_at_every_step_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(6):
        root = tmp_path / str(at)
        with monkeypatch.context() as patch:
            death = Death(patch, "spool", at)
            spool = Spool(root, lambda *a: None, print)
            while not death.dead.is_set():
                await asyncio.sleep(0.001)
        os.close(spool._lock)
        del spool
        import gc

        gc.collect()
        for fd in os.listdir("/proc/self/fd"):  # the descriptors of the dead process
            try:
                where = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if where.startswith(str(root)):
                os.close(int(fd))
        rig = Rig(root)
        rig.start_worker()
        await rig.commit(b"works")
        assert len(rig.pump()) == 1
        rig.close()
        async with asyncio.timeout(10):  # what the lane made last comes back, and goes
            while len(rig.names("intake")) != 1:
                await asyncio.sleep(0)


async def test_power_cut_in_the_unsynced_tail(rig: Rig) -> None:
    """Any prefix, and any page of zeros, of what was written after the last sync: acknowledged entries are found."""
    good = [await rig.commit(b"good %d" % i * 100) for i in range(3)]
    rig.pump()
    file = rig.log._current
    path = rig.root / "intake" / file.name
    from appliance.queue.entry import encode_entry

    tail = b"".join(b"".join(encode_entry(b"u%d" % i * 300, trailer(600), file.salt)) for i in range(3))
    base = path.read_bytes()[: file.end]
    for cut in range(0, len(tail), 97):
        for hole in (None, cut // 2):
            data = bytearray(tail[:cut])
            if hole is not None:
                data[hole : hole + 200] = bytes(len(data[hole : hole + 200]))
            path.write_bytes(base + data)
            found = {i.queue_id for i in rig.open_copy()}
            assert {t.queue_id for t in good} <= found


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, 31, 32])
async def test_lost_marks_mean_once_more_never_lost(rig: Rig, cut: int) -> None:
    """A power cut took the end of the mark file (or all of it)."""
    first, second, third = [await rig.commit(b"%d" % i) for i in range(3)]
    items = {i.queue_id: i for i in rig.pump()}
    rig.spool.mark_done(items[first.queue_id])
    rig.spool.mark_done(items[second.queue_id])
    name = items[first.queue_id].name
    os.truncate(rig.root / "intake" / f"{name}.done", cut)
    found = {i.queue_id for i in rig.crash_all()}
    wanted = [{first.queue_id, second.queue_id}, {second.queue_id}, set()][cut // 16]
    assert found == wanted | {third.queue_id}
    item = rig.spool.get(third.queue_id)
    rig.spool.mark_done(item)  # appends behind a torn record
    assert third.queue_id not in {i.queue_id for i in rig.crash_all()}
    rig.start_worker()


async def test_moved_but_its_mark_was_lost(rig: Rig) -> None:
    item, other = [await small(rig) for _ in range(2)]
    name = item[0].name
    await asyncio.wrap_future(rig.spool.keep(item[0], "hold", Note(time.time(), "hold")))
    (rig.root / "intake" / f"{name}.done").unlink()
    found = {i.queue_id: i.folder for i in rig.crash_all()}
    assert found == {item[0].queue_id: "hold", other[0].queue_id: "intake"}
    rig.start_worker()


async def test_marks_without_a_file_and_drafts_of_moves_are_removed(rig: Rig) -> None:
    item, _ = await own(rig)
    (rig.root / "intake" / "00112233445566ff.seg.done").write_bytes(b"x" * 16)
    for name in ("ABC.new", "ABC.new.state", "ABC.state"):
        (rig.root / "deferred" / name).write_bytes(b"draft")
    assert [i.queue_id for i in rig.crash_all()] == [item.queue_id]
    assert rig.names("deferred") == {item.queue_id, f"{item.queue_id}.state"}
    assert "00112233445566ff.seg.done" not in rig.names("intake")
    rig.start_worker()


async def test_what_cannot_be_opened_at_start_is_not_taken_for_damaged(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ever reads what is in corrupt/."""
    await rig.commit(b"x")
    (item,) = rig.pump()
    await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    rig.kill_delivery()
    rig.kill_worker()
    real, read_bytes = os.open, Path.read_bytes

    def none_left(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if str(path).endswith(item.queue_id):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *more, **named)

    def unread(path: Path) -> bytes:
        if path.suffix == ".state":
            raise OSError(errno.EMFILE, "Too many open files")
        return read_bytes(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", none_left)
        patched.setattr(Path, "read_bytes", unread)
        assert rig.open() == []
    assert not rig.names("corrupt") and not rig.spool.damaged
    assert [i.queue_id for i in rig.crash_all()] == [item.queue_id]
    rig.start_worker()


@pytest.mark.parametrize("step", ["read", "truncate"])
async def test_a_state_log_that_cannot_be_read_at_start_is_not_written_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A descriptor is free again a moment later: who is done would get the message once more."""
    await rig.commit(b"x", recipients=2)
    (item,) = rig.pump()
    await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    rig.spool.mark_done(item, [1])
    log = rig.spool.kept.state("deferred", item.queue_id)
    rig.kill_delivery()
    rig.kill_worker()
    before = log.read_bytes()
    log.write_bytes(before + (b"torn" if step == "truncate" else b""))

    read_bytes = Path.read_bytes

    def unread(path: Path) -> bytes:
        if path == log:
            raise OSError(errno.EMFILE, "Too many open files")
        return read_bytes(path)

    def wrong(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", unread) if step == "read" else patched.setattr(os, "truncate", wrong)
        rig.open()
    assert log.read_bytes().startswith(before) and not rig.names("corrupt")
    (again,) = rig.crash_all()
    assert again.todo == [0]
    rig.start_worker()


async def test_a_kept_message_that_cannot_be_read_at_start_is_read_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files of the intake are: else it would wait for the next start."""
    await rig.commit(b"x")
    await rig.commit(b"y")
    one, other = rig.pump()
    for item in (one, other):
        await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    rig.kill_delivery()
    rig.kill_worker()

    def unread(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(KeptEntries, "load", unread)
        assert rig.open() == []
        assert rig.recheck() == []
        assert len(rig.reports) == 4
        rig.spool.kept.path("deferred", other.queue_id).unlink()
        rig.spool.kept.state("deferred", other.queue_id).unlink()
    assert [i.queue_id for i in rig.recheck()] == [one.queue_id]
    rig.recheck()
    assert rig.recheck() == [] and len(rig.reports) == 5  # what somebody took away is not asked for again
    rig.start_worker()


@pytest.mark.parametrize("files", [1, 2])
async def test_marks_that_cannot_be_read_at_start_are_read_before_anything_is_delivered_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    waiting = []
    for _ in range(files):
        await rig.commit(b"done")
        await rig.commit(b"waits")
        rig.log._retire()
        done, waits = rig.pump()
        rig.spool.mark_done(done)
        waiting.append(waits.queue_id)
    rig.kill_delivery()
    rig.kill_worker()
    read, once = Marks.read, list[Any]()

    def unread(marks: Marks) -> Marks:
        once.append(marks)
        if len(once) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(marks)

    monkeypatch.setattr(Marks, "read", unread)
    found = rig.open()
    assert any("Too many open files" in report for report in rig.reports)
    assert sorted(i.queue_id for i in found + rig.recheck()) == sorted(waiting)
    rig.start_worker()


async def test_a_file_that_cannot_be_opened_keeps_nothing_else_unread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the other files of dead workers nor the kept messages that are looked at behind them."""
    items = []
    for _ in range(3):
        await rig.commit(b"x")
        rig.log._retire()
        items += rig.pump()
    kept, bad, good = items
    await asyncio.wrap_future(rig.spool.keep(kept, "deferred", Note(0, "deferred")))
    if bad.name > good.name:
        bad, good = good, bad
    rig.kill_delivery()
    rig.kill_worker()
    real = os.open

    def wrong(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if str(path).endswith(bad.name):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, flags, *more, **named)

    def unread(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", wrong)
    with monkeypatch.context() as patched:
        patched.setattr(disk, "held", unread)
        patched.setattr(KeptEntries, "load", unread)
        assert rig.open() == []
    assert {i.queue_id for i in rig.recheck()} == {kept.queue_id, good.queue_id}
    assert any(bad.name in report and "Input/output" in report for report in rig.reports)
    monkeypatch.setattr(os, "open", real)
    assert [i.queue_id for i in rig.recheck()] == [bad.queue_id]
    rig.start_worker()


async def test_mail_that_is_moved_while_the_names_are_read_at_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its drafts are none of a process that died, and its state log is no orphan."""
    await rig.commit(b"x", recipients=2)
    (item,) = rig.pump()
    rig.spool.mark_done(item, [1])
    named, go_on, replace = threading.Event(), threading.Event(), Path.replace

    def slow(path: Path, target: Path) -> Path:
        replace(path, target)
        named.set()
        assert go_on.wait(5)
        return target

    monkeypatch.setattr(Path, "replace", slow)
    moved = asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    assert await asyncio.to_thread(named.wait, 5)
    assert rig.names("deferred") == {f"{item.queue_id}.state", f"{item.queue_id}.new"}
    list(rig.spool.kept.listing())
    go_on.set()
    await moved
    monkeypatch.undo()
    (again,) = rig.crash_all()
    assert again.folder == "deferred" and again.todo == [0]
    rig.start_worker()


async def test_an_unreadable_disk_at_start_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.commit(b"x")
    rig.kill_delivery()
    rig.kill_worker()
    real = os.pread

    def broken(fd: int, count: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    assert rig.open() == []
    assert any("cannot be read" in report for report in rig.reports)
    monkeypatch.setattr(os, "pread", real)
    assert len(rig.recheck()) == 1  # nothing was given up
    rig.start_worker()
