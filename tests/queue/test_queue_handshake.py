"""Who may scan a file, and when: deaths of worker and delivery in every order (docs/queue.md, handshake)."""

import asyncio
import errno
import os
import socket
import threading
from pathlib import Path

import msgspec
import pytest

from appliance.queue import disk, segment
from appliance.queue.envelope import Committed, Sealed
from tests.queue.queue_rig import Rig, settled, trailer


async def test_worker_dies_after_the_sync_before_the_notice(rig: Rig) -> None:
    told = await rig.commit(b"told")
    rig.pump()
    rig.wire.cut = True
    silent = [await rig.commit(b"silent %d" % i) for i in range(3)]
    file = rig.large()
    file.write(b"L" * 100_000)
    large = rig.log._loop.create_task(_large(file))
    silent.append(await large)
    rig.kill_worker()
    rig.spool.gone("smtpd.0")
    assert {i.queue_id for i in rig.recheck()} == {t.queue_id for t in silent}
    assert {i.queue_id for i in rig.spool} == {t.queue_id for t in [told, *silent]}
    assert rig.recheck() == []  # handed out once
    rig.start_worker()


async def _large(file):
    one = trailer(file.size)
    await file.commit(one)
    return one


async def test_a_file_that_a_living_worker_holds_is_not_scanned(rig: Rig) -> None:
    """The connection broke, the worker lives: what it is writing may yet fail and be refused."""
    rig.pump()
    rig.wire.cut = True
    sent = await rig.commit(b"x")
    rig.spool.gone("smtpd.0")
    assert rig.recheck() == []
    assert {i.queue_id for i in rig.reconnect()} == {sent.queue_id}
    assert rig.recheck() == []


async def test_delivery_dies_the_worker_goes_on_and_nothing_is_lost(rig: Rig) -> None:
    seen = await rig.commit(b"seen")
    rig.pump()
    lost_notice = await rig.commit(b"notice in the dead socket")
    rig.kill_delivery()
    alone = await rig.commit(b"while nobody is there")
    found = rig.open()
    assert found == []  # the worker holds everything
    late = await rig.commit(b"before it reconnects")
    found = rig.reconnect()
    assert {i.queue_id for i in found} == {t.queue_id for t in [seen, lost_notice, alone, late]}
    after = await rig.commit(b"after")
    assert [i.queue_id for i in rig.pump()] == [after.queue_id]
    assert len({i.queue_id for i in rig.spool}) == 5


async def test_a_done_message_stays_done_over_a_killed_delivery(rig: Rig) -> None:
    done, half, todo = await rig.commit(b"1"), await rig.commit(b"2", recipients=3), await rig.commit(b"3")
    for item in rig.pump():
        if item.queue_id == done.queue_id:
            assert rig.spool.mark_done(item)
        if item.queue_id == half.queue_id:
            assert not rig.spool.mark_done(item, [0, 2])
    rig.kill_delivery()
    rig.open()
    found = {i.queue_id: i.todo for i in rig.reconnect()}
    assert found == {half.queue_id: [1], todo.queue_id: [0]}


async def test_a_large_draft_outlives_delivery(rig: Rig) -> None:
    file = rig.large()
    file.write(b"1" * 100_000)
    rig.kill_delivery()
    assert rig.open() == []
    assert file.name in rig.names("intake")  # a living worker's draft is not an orphan
    rig.reconnect()
    file.write(b"2" * 100_000)
    one = await _large(file)
    (item,) = rig.pump()
    assert item.queue_id == one.queue_id
    assert rig.content(item) == b"1" * 100_000 + b"2" * 100_000


async def test_a_large_commit_while_nobody_is_there(rig: Rig) -> None:
    file = rig.large()
    file.write(b"1" * 100_000)
    rig.kill_delivery()
    one = await _large(file)
    assert rig.open() == []
    assert [i.queue_id for i in rig.reconnect()] == [one.queue_id]


async def test_the_adopted_worker_dies_without_a_word(rig: Rig) -> None:
    rig.kill_delivery()
    sent = await rig.commit(b"x")
    assert rig.open() == []
    rig.kill_worker()
    assert [i.queue_id for i in rig.recheck()] == [sent.queue_id]
    rig.start_worker()


async def test_both_die_drafts_and_unused_grants_go_messages_stay(rig: Rig) -> None:
    sent = await rig.commit(b"x")
    file = rig.large()
    file.write(b"draft" * 30_000)
    found = rig.crash_all()
    assert [i.queue_id for i in found] == [sent.queue_id]
    assert file.name not in rig.names("intake")
    assert not rig.names("corrupt")
    rig.spool.mark_done(found[0])
    rig.spool.granted._empty_pool()
    assert {name for name in rig.names("intake") if name.endswith((".seg", ".done"))} <= {
        p for p in rig.names("intake") if os.path.getsize(rig.root / "intake" / p) == 0
    }
    rig.start_worker()


async def test_a_batch_in_the_writer_while_delivery_changes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segment of the old delivery is sealed after the running sync; nothing in it is told twice or forgotten."""
    rig.wire.cut = True
    before = await rig.commit(b"its notice is lost")
    real, running, go_on = os.fdatasync, threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        running.set()
        go_on.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    batch = [asyncio.ensure_future(rig.commit(b"%d" % i)) for i in range(5)]
    while not running.is_set():
        await asyncio.sleep(0.001)
    rig.kill_delivery()
    rig.open()
    assert rig.reconnect() == []
    go_on.set()
    sent = await asyncio.gather(*batch)
    rig.pump()
    assert {i.queue_id for i in rig.spool} == {t.queue_id for t in [before, *sent]}


async def test_a_worker_that_ends_with_a_commit_on_its_way_loses_nothing(rig: Rig) -> None:
    """The thread has synced, the loop does not know yet: the file must not be given back as if it were empty."""
    sent = trailer(1)
    future = rig.log.commit(b"x", sent)
    await asyncio.sleep(0)  # handed to the thread
    rig.log.close()  # joins it; the result waits in the loop
    rig.wire.cut = True
    rig.pump()
    await future
    rig.kill_worker()
    rig.spool.gone("smtpd.0")
    assert [i.queue_id for i in rig.recheck()] == [sent.queue_id]
    rig.start_worker()


async def test_gone_is_said_late_when_the_worker_is_back_already(rig: Rig) -> None:
    """A restarted worker has the same name: its new files are not touched, the dead one's are scanned."""
    rig.wire.cut = True
    silent = await rig.commit(b"silent")
    rig.kill_worker()
    rig.start_worker()
    rig.spool.gone("smtpd.0")
    assert [i.queue_id for i in rig.recheck()] == [silent.queue_id]
    fresh = await rig.commit(b"fresh")
    assert [i.queue_id for i in rig.pump()] == [fresh.queue_id]


async def test_sealed_is_not_lost_with_the_connection(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(segment, "SEGMENT_ENTRIES", 1)
    rig.kill_delivery()
    sent = await rig.commit(b"x")  # rotates: Sealed cannot be sent
    (notice, _fd) = rig.log._unsent[0]
    assert isinstance(notice, Sealed)
    assert disk.held(rig.root / "intake" / notice.name)  # nobody may guess its end meanwhile
    rig.open()
    assert [i.queue_id for i in rig.reconnect()] == [sent.queue_id]
    assert not disk.held(rig.root / "intake" / notice.name)


@pytest.mark.parametrize("how", ["lost", "sealed"])
async def test_a_scan_that_finds_no_free_descriptor_is_made_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Else what was taken with 250 would be found at the next start only."""
    rig.wire.cut = True
    silent = await rig.commit(b"silent")
    real, opened = os.open, list[str]()

    def none_left(path: object, flags: int, *more: int, **named: int) -> int:
        if str(path).endswith(".seg") and flags == os.O_RDONLY | os.O_CLOEXEC:
            opened.append(str(path))
            if how == "sealed" or opened.count(str(path)) == 2:  # the first one looks at the lock
                raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *more, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", none_left)
        if how == "sealed":
            assert rig.reconnect() == []
        else:
            rig.kill_worker()
            rig.spool.gone("smtpd.0")
            assert rig.recheck() == []
    assert any("Too many open files" in report for report in rig.reports)
    assert [i.queue_id for i in rig.recheck()] == [silent.queue_id]
    assert rig.recheck() == []
    (item,) = rig.spool
    name = item.name
    rig.spool.mark_done(item)
    assert name not in rig.names("intake")
    if how == "lost":
        rig.start_worker()


async def test_a_notice_for_an_unknown_file_or_twice_is_harmless(rig: Rig) -> None:
    await rig.commit(b"x")
    notice = next(n for n in rig.wire.sent if isinstance(n, Committed))
    assert len(rig.pump()) == 1
    assert rig.spool.committed(notice) is None
    assert rig.spool.committed(Committed("0123456789abcdef.seg", 0, notice.trailer)) is None
    assert list(rig.spool.sealed(Sealed("../../etc/passwd", 0))) == []
    assert list(rig.spool.sealed(Sealed(notice.name, -1))) == []
    assert list(rig.spool.sealed(Sealed(notice.name, 1 << 62))) == []
    assert rig.spool.committed(Committed(notice.name, -5, notice.trailer)) is None
    assert rig.spool.committed(Committed(notice.name, 1 << 70, notice.trailer)) is None
    assert len(rig.spool) == 1


@pytest.mark.parametrize(
    "more", [{"queue_id": "../../escape"}, {"queue_id": ""}, {"queue_id": "a/b"}, {"recipients": 0}], ids=str
)
async def test_what_only_a_broken_worker_writes_is_set_aside(rig: Rig, more: dict) -> None:
    await rig.commit(b"evil", **more)
    assert rig.pump() == []
    from tests.queue.queue_rig import settled

    await settled(rig.spool)
    assert rig.spool.damaged == 1
    assert any(name.endswith(".why") for name in rig.names("corrupt"))
    assert rig.crash_all() == []
    rig.start_worker()


async def test_a_queue_id_in_use_is_set_aside_and_the_first_message_stays(rig: Rig) -> None:
    first = await rig.commit(b"first")
    await rig.commit(b"second", queue_id=first.queue_id)
    (item,) = rig.pump()
    assert rig.content(item) == b"first"
    assert rig.spool.damaged == 1


def test_the_lock_travels_with_the_descriptor(tmp_path: Path) -> None:
    """A granted file is held by whoever has the descriptor, also while it is in a socket, by another process too."""
    path = tmp_path / "0123456789abcdef.seg"
    fd = disk.create_locked(path)
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [fd])
    os.close(fd)
    assert disk.held(path)  # on its way
    ready, ready_w = os.pipe()
    end, end_w = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(end_w)
            socket.recv_fds(right, 1, 1)
            os.write(ready_w, b"x")
            os.read(end, 1)
        finally:
            os.kill(os.getpid(), 9)
    os.close(end)
    os.read(ready, 1)
    left.close()
    right.close()
    assert disk.held(path)
    os.close(end_w)
    os.waitpid(child, 0)
    assert not disk.held(path)


async def test_a_trailer_that_cannot_be_read_is_set_aside(rig: Rig) -> None:
    await rig.commit(b"x")
    notice = next(n for n in rig.wire.sent if isinstance(n, Committed))
    broken = msgspec.structs.replace(notice, trailer=msgspec.Raw(b"\xc1"))
    assert rig.spool.committed(broken) is None
    await settled(rig.spool)
    assert any(name.endswith(".why") for name in rig.names("corrupt")) and len(rig.spool) == 0
