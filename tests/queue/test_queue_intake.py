"""The worker's side: group commit, failing disks, rotation, large files, life without delivery."""

import asyncio
import errno
import itertools
import os
import threading
from typing import Any

import pytest

from appliance.queue import intake as intake_module
from appliance.queue import segment
from appliance.queue.entry import HEADER
from appliance.queue.envelope import Committed, Returned, Sealed, Want, decode_trailer
from appliance.queue.errors import SpoolError, SpoolFull
from appliance.queue.intake import IntakeLog
from appliance.queue.pool import SPARE_LARGE
from tests.queue.queue_rig import Rig, Wire, trailer


class Gate:
    """Counts a function of os, may hold it or make it fail; `threads` says who called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.real, self.calls, self.failures = getattr(os, name), 0, []
        self.threads: set[str] = set()
        self.open = threading.Event()
        self.open.set()
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        self.open.wait(10)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, BaseException):
                raise failure
            return failure(*args)
        return self.real(*args)


async def test_commits_that_wait_share_one_write_and_one_sync(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, write = Gate(monkeypatch, "fdatasync"), Gate(monkeypatch, "pwritev")
    await asyncio.gather(*[rig.commit(b"%d" % i) for i in range(20)])
    assert (sync.calls, write.calls) == (1, 1)
    sync.open.clear()
    first = asyncio.ensure_future(rig.commit(b"first"))
    while sync.calls < 2:
        await asyncio.sleep(0)
    rest = [asyncio.ensure_future(rig.commit(b"%d" % i)) for i in range(50)]
    await asyncio.sleep(0.01)
    assert not first.done()  # nothing is answered while the sync runs
    sync.open.set()
    await asyncio.gather(first, *rest)
    assert (sync.calls, write.calls) == (3, 3)
    assert sync.threads == {"smtpd.0 intake"}
    assert len(rig.pump()) == 71


async def test_what_is_announced_is_what_is_on_disk(rig: Rig) -> None:
    sent = [await rig.commit(b"content %d\r\n" % i) for i in range(5)]
    notices = [n for n in rig.wire.sent if isinstance(n, Committed)]
    assert [decode_trailer(n.trailer).queue_id for n in notices] == [t.queue_id for t in sent]
    assert all(a.end == b.offset for a, b in itertools.pairwise(notices))
    for item in rig.pump():
        inline = rig.content(item)
        item.content = None
        assert rig.content(item) == inline


FAILURES = [
    ("fdatasync", OSError(errno.EIO, "io"), SpoolError),
    ("pwritev", OSError(errno.ENOSPC, "full"), SpoolFull),
    ("pwritev", lambda fd, buffers, at: os.pwrite(fd, buffers[0], at), SpoolFull),
]


@pytest.mark.parametrize(("name", "failure", "error"), FAILURES, ids=["sync", "write", "short"])
@pytest.mark.parametrize("truncate", [True, False], ids=["cut", "cut fails"])
async def test_a_failed_batch_is_told_and_never_delivered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str, failure: Any, error: type[Exception], truncate: bool
) -> None:
    """Also when the bytes cannot be cut off again, and when both processes die before delivery hears of it."""
    good = await rig.commit(b"good")
    gate = Gate(monkeypatch, name)
    gate.failures = [failure]
    if not truncate:
        Gate(monkeypatch, "ftruncate").failures = [OSError(errno.EIO, "io")]
    name_before = rig.log._current.name
    results = await asyncio.gather(rig.commit(b"bad1"), rig.commit(b"bad2"), return_exceptions=True)
    assert [type(r) for r in results] == [error, error]
    after = await rig.commit(b"after")
    assert rig.log._current.name != name_before  # the file is given up, its sync is not tried again
    found = rig.crash_all()
    assert {i.queue_id for i in found} == {good.queue_id, after.queue_id}
    assert not rig.names("corrupt")
    assert rig.spool.damaged == 0
    rig.start_worker()


async def test_a_sealed_end_holds_after_a_restart_even_if_the_file_could_not_be_cut(rig: Rig) -> None:
    good, bad = await rig.commit(b"good"), await rig.commit(b"refused")
    rig.pump()
    file = rig.log._current
    end = rig.spool.get(bad.queue_id).offset
    rig.spool.forget(rig.spool.get(bad.queue_id))  # as if it never was announced: a refused one behind the end
    granted = rig.spool.granted.files[file.name]
    granted.known.discard(end)
    granted.end, granted.open = end, {0}
    list(rig.spool.sealed(Sealed(file.name, end)))
    assert {i.queue_id for i in rig.crash_all()} == {good.queue_id}
    rig.start_worker()


async def test_rotation_by_entries_and_octets(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_ENTRIES", 3)
    for _ in range(3):
        await rig.commit(b"x")
    assert [n for n in rig.wire.sent if isinstance(n, Sealed)]
    rig.pump()
    monkeypatch.setattr(segment, "SEGMENT_OCTETS", 1000)
    await rig.commit(b"x" * 2000)
    sealed = [n for n in rig.wire.sent if isinstance(n, Sealed)]
    assert len(sealed) == 1
    assert sealed[0].end > 2000
    rig.pump()
    assert len(rig.spool) == 4


async def test_without_delivery_two_segments_are_used_up_then_452(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_ENTRIES", 2)
    rig.wire.closed = True
    rig.log.disconnected()
    sent = [await rig.commit(b"x") for _ in range(4)]
    assert rig.log.room() is None
    with pytest.raises(SpoolFull):
        await rig.commit(b"x")
    assert all(rig.log.large() is not None for _ in range(SPARE_LARGE))
    assert rig.log.large() is None
    assert {i.queue_id for i in rig.reconnect()} == {t.queue_id for t in sent}
    await rig.commit(b"again")


async def test_a_commit_waits_for_a_grant_of_a_living_delivery(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path / "spool")
    rig.wire = Wire()
    rig.log = IntakeLog(rig.wire, "smtpd.0")
    waiting = asyncio.ensure_future(rig.commit(b"x"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    rig.pump()
    await waiting
    rig.close()


async def test_a_commit_does_not_wait_for_ever(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "GRANT_WAIT", 0.01)
    wire = Wire()
    log = IntakeLog(wire, "smtpd.0")
    with pytest.raises(SpoolFull):
        await log.commit(b"x", trailer())
    assert [n.segment for n in wire.sent if isinstance(n, Want)] == [0, 2]


async def test_a_client_that_went_away_does_not_stop_the_others(rig: Rig) -> None:
    first, second = rig.log.commit(b"1", trailer(1)), rig.log.commit(b"2", trailer(1))
    first.cancel()
    await second
    assert len(rig.pump()) == 2


async def test_large_file_round_trip(rig: Rig) -> None:
    file = rig.log.large()
    body = os.urandom(300_000)
    for at in range(0, len(body), 7001):
        file.write(body[at : at + 7001])
    reader = file.reader()
    assert os.pread(reader, len(body) + 1, file.content_offset) == body
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(reader, b"!")
    os.close(reader)
    one = trailer(len(body))
    await file.commit(one)
    (item,) = rig.pump()
    assert rig.content(item) == body
    assert item.queue_id == one.queue_id
    file.abort()  # of no effect after the end
    assert len(rig.log._pool.idle) == SPARE_LARGE  # a new one was asked for


async def test_aborted_drafts_are_deleted_and_untouched_files_used_again(rig: Rig) -> None:
    file = rig.log.large()
    rig.pump()
    file.write(b"x" * 100_000)
    file.abort()
    rig.pump()
    assert file.name not in rig.names("intake")
    fresh = rig.log.large()
    fresh.abort()
    assert fresh in rig.log._pool.idle


@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
async def test_a_failed_large_commit_is_told_and_never_delivered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = rig.log.large()
    file.write(b"x" * 100_000)
    file.flush()
    Gate(monkeypatch, name).failures = [OSError(errno.EIO, "io")]
    with pytest.raises(SpoolError):
        await file.commit(trailer(100_000))
    assert isinstance(next(n for n in rig.wire.sent if not isinstance(n, Want)), Returned)
    assert rig.crash_all() == []
    assert not rig.names("corrupt")
    rig.start_worker()


async def test_a_full_disk_while_a_large_message_comes_in(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    file = rig.log.large()
    Gate(monkeypatch, "pwrite").failures = [OSError(errno.ENOSPC, "full")]
    with pytest.raises(SpoolFull):
        file.write(b"x" * 100_000)
    with pytest.raises(SpoolError):
        file.write(b"more")
    with pytest.raises(SpoolError):
        await file.commit(trailer())
    rig.pump()
    assert file.name not in rig.names("intake")


async def test_room_is_read_through_the_granted_descriptor(rig: Rig) -> None:
    room = rig.log.room()
    stat = os.statvfs(rig.root)
    assert abs(room.octets - stat.f_bavail * stat.f_frsize) < 1 << 30
    assert room.enough(1 << 20)
    assert not room._replace(octets=(3 << 19) - 1).enough(1 << 20)
    assert room._replace(octets=3 << 19).enough(1 << 20)
    assert not room._replace(inodes=10).enough(1 << 20)
    assert room._replace(inodes=None).enough(1 << 20)


async def test_a_torn_batch_of_a_dead_worker_leaves_what_was_acknowledged(rig: Rig) -> None:
    good = await rig.commit(b"good")
    rig.pump()
    os.pwrite(rig.log._current.fd, b"\x93PGE half a header"[:20], rig.log._current.end)
    rig.kill_worker()
    rig.spool.gone("smtpd.0")
    assert rig.recheck() == []
    assert {i.queue_id for i in rig.spool} == {good.queue_id}
    assert not rig.names("corrupt")
    rig.start_worker()


def test_header_room_is_what_the_entry_says() -> None:
    assert intake_module.LargeFile.content_offset == HEADER


async def test_a_batch_waits_for_company_only_while_there_is_some(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "GATHER", 2.0)
    loop = asyncio.get_running_loop()
    await rig.commit(b"first")
    began = loop.time()
    await rig.commit(b"alone")
    assert loop.time() - began < 1.8
    rig.log.company = lambda: 30
    await rig.commit(b"before")
    began = loop.time()
    await asyncio.gather(*(rig.commit(b"%d" % number) for number in range(20)))
    assert loop.time() - began > 1.8
    began = loop.time()
    await asyncio.gather(*(rig.commit(b"%d" % number) for number in range(30)))
    assert loop.time() - began < 1.8, "all are there: nobody is waited for"
