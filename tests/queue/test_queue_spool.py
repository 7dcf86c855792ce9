"""Delivery's side: moves with their order of syncs, state logs, operators' acts, retention, damage, the lock."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path

import pytest

from appliance.queue import disk
from appliance.queue.envelope import Trailer
from appliance.queue.errors import ContentDamaged, SpoolError, SpoolLocked
from appliance.queue.item import Item, Note, Result
from appliance.queue.spool import Spool
from tests.queue.queue_rig import Rig, settled, trailer


async def queued(rig: Rig, content: bytes = b"hello", **more: object) -> Item:
    await rig.commit(content, **more)
    return rig.pump()[-1]


async def kept(rig: Rig, folder: str = "deferred", content: bytes = b"hello", **more: object) -> Item:
    item = await queued(rig, content, **more)
    await asyncio.wrap_future(rig.spool.keep(item, folder, Note(time.time(), folder, "why", 1, 99.0)))
    return item


async def large(rig: Rig, content: bytes) -> Item:
    file = rig.large()
    file.write(content)
    await file.commit(trailer(len(content)))
    return rig.pump()[-1]


async def test_a_second_instance_is_refused(rig: Rig) -> None:
    with pytest.raises(SpoolLocked, match="another instance"):
        Spool(rig.root, lambda *a: None, print)


async def test_the_segment_goes_when_all_is_done_or_moved(rig: Rig) -> None:
    items = [await queued(rig, b"%d" % i) for i in range(3)]
    name = items[0].name
    rig.log.resend(rig.wire)  # seals
    rig.pump()
    rig.spool.mark_done(items[0])
    await asyncio.wrap_future(rig.spool.keep(items[1], "deferred", Note(0, "deferred")))
    assert {name, f"{name}.done"} <= rig.names("intake")
    rig.spool.mark_done(items[2])
    assert not {name, f"{name}.done"} & rig.names("intake")
    assert rig.content(items[1]) == b"1"
    assert len(rig.spool) == 1


async def test_a_move_is_synced_before_the_old_place_is_closed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    item = await queued(rig)
    await settled(rig.spool)  # what was granted to the worker is synced by the same lane
    steps: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "pwrite", "write")}

    def path_of(fd: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{fd}")).name

    def spy(name: str):
        def call(first, *rest, **more):
            where = path_of(first) if isinstance(first, int) else Path(rest[0]).name
            steps.append(f"{name} {where}")
            return real[name](first, *rest, **more)

        return call

    for name in real:
        monkeypatch.setattr(os, name, spy(name))
    await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    i = item.queue_id
    segment = next(iter(rig.spool.granted.files.values())).name
    marks = [s for s in steps if s.endswith(".done")]
    wanted = [f"fsync {i}.new.state", f"fsync {i}.new", f"replace {i}.state", f"rename {i}", "fsync deferred", *marks]
    assert len(marks) == 1 and marks[0].startswith("write") and segment
    assert [s for s in steps if not s.startswith("write") or s in marks] == wanted


async def test_state_survives_a_restart(rig: Rig) -> None:
    item = await kept(rig, recipients=3)
    result = Result("todo", "4.2.0", "try later é")
    rig.spool.record(item, Note(5.0, "deferred", "mailbox busy", 2, 777.0, results={1: result}))
    rig.spool.mark_done(item, [0])
    born = item.born
    (again,) = rig.crash_all()
    assert (again.reason, again.attempts, again.next_try, again.act) == ("mailbox busy", 2, 777.0, "done")
    assert again.todo == [1, 2]
    assert again.results[1] == result
    assert again.born == pytest.approx(born)
    assert again.trailer == item.trailer
    assert rig.content(again) == b"hello"
    rig.start_worker()


async def test_a_torn_state_note_does_not_hide_later_ones(rig: Rig) -> None:
    item = await kept(rig, recipients=2)
    rig.spool.record(item, Note(5.0, "deferred", attempts=2))
    log = rig.spool.kept.state("deferred", item.queue_id)
    for cut in range(1, 12):
        whole = log.read_bytes()
        rig.spool.record(rig.spool.get(item.queue_id), Note(5.0, "deferred", attempts=50 + cut))
        os.truncate(log, len(whole) + cut)
        (again,) = rig.crash_all()
        rig.spool.record(again, Note(5.0, "deferred", attempts=100 + cut))
        (again,) = rig.crash_all()
        assert again.attempts == 100 + cut
    rig.start_worker()


async def test_a_long_state_log_is_rewritten(rig: Rig) -> None:
    item = await kept(rig, recipients=2)
    log = rig.spool.kept.state("deferred", item.queue_id)
    for attempt in range(200):
        result = {0: Result("todo", "4.0.0", "x" * 500)}
        rig.spool.record(item, Note(5.0, "deferred", attempts=attempt, results=result))
    while item.moving:
        await settled(rig.spool)
    assert log.stat().st_size < 80_000
    (again,) = rig.crash_all()
    assert again.attempts == 199
    rig.start_worker()


async def test_hold_release_requeue_remove(rig: Rig) -> None:
    item = await kept(rig, recipients=2)
    rig.spool.record(item, Note(1.0, "failed", results={0: Result("done"), 1: Result("failed", "5.1.1", "no")}))
    assert item.failed == [1]
    assert item.todo == []
    assert not item.finished
    await asyncio.wrap_future(rig.spool.hold(item, "operator"))
    assert rig.names("hold") == {item.queue_id, f"{item.queue_id}.state"}
    assert not rig.names("deferred")
    (item,) = rig.crash_all()
    assert (item.folder, item.reason) == ("hold", "operator")
    await asyncio.wrap_future(rig.spool.release(item))
    assert (item.folder, item.todo) == ("deferred", [1])
    await asyncio.wrap_future(rig.spool.requeue(item))
    assert item.attempts == 0
    rig.spool.remove(item)
    assert not rig.names("deferred")
    assert len(rig.spool) == 0
    assert rig.crash_all() == []
    rig.start_worker()


async def test_results_during_a_move_are_not_lost(rig: Rig) -> None:
    item, other = await queued(rig, recipients=2), await queued(rig)
    moving = rig.spool.keep(item, "deferred", Note(0, "deferred"))
    gone = rig.spool.keep(other, "deferred", Note(0, "deferred"))
    rig.spool.mark_done(item, [1])
    rig.spool.mark_done(other)
    with pytest.raises(SpoolError, match="being moved"):
        rig.spool.keep(item, "hold", Note(0, "hold")).result()
    await asyncio.gather(asyncio.wrap_future(moving), asyncio.wrap_future(gone))
    assert rig.spool.get(other.queue_id) is None
    (again,) = rig.crash_all()
    assert again.todo == [0]
    rig.start_worker()


async def test_removed_while_it_moves(rig: Rig) -> None:
    item = await queued(rig)
    moving = rig.spool.keep(item, "deferred", Note(0, "deferred"))
    rig.spool.remove(item)
    await asyncio.wrap_future(moving)
    assert len(rig.spool) == 0
    assert rig.crash_all() == []
    rig.start_worker()


@pytest.mark.parametrize("name", ["fsync", "rename", "write"])
async def test_a_move_that_fails_leaves_the_message_where_it_was(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    item = await queued(rig)

    def fail(*args: object, **more: object) -> None:
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(SpoolError):
            await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    assert (item.folder, item.moving) == ("intake", False)
    assert not rig.names("deferred")
    assert rig.content(item) == b"hello"
    await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(SpoolError):
            await asyncio.wrap_future(rig.spool.hold(item, "x"))
    assert item.folder == "deferred"
    assert rig.content(item) == b"hello"
    (again,) = rig.crash_all()
    assert again.folder == "deferred"
    rig.start_worker()


async def test_large_messages_are_linked_not_copied(rig: Rig) -> None:
    body = os.urandom(200_000)
    item = await large(rig, body)
    inode = (rig.root / "intake" / item.name).stat().st_ino
    await asyncio.wrap_future(rig.spool.keep(item, "quarantine", Note(0, "quarantine")))
    assert (rig.root / "quarantine" / item.queue_id).stat().st_ino == inode
    (again,) = rig.crash_all()
    assert (again.folder, rig.content(again)) == ("quarantine", body)
    rig.start_worker()


@pytest.mark.parametrize("moved", [False, True], ids=["intake", "deferred"])
@pytest.mark.parametrize("read", [False, True], ids=["at rest", "being sent"])
async def test_the_loop_does_not_wait_until_octets_are_freed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, moved: bool, read: bool
) -> None:
    """What is freed with the last descriptor of a file without a name is for the lane: 20 MB can take 200 ms."""
    closed: list[tuple[str, str]] = []
    close = os.close

    def watched(fd: int) -> None:
        closed.append((os.readlink(f"/proc/self/fd/{fd}"), threading.current_thread().name))
        close(fd)

    item = await large(rig, b"x" * 100_000)
    if moved:
        await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(time.time(), "deferred", "why", 1, 99.0)))
    name = str(rig.root / item.folder / item.name)
    content = rig.spool.open_content(item) if read else None
    monkeypatch.setattr(os, "close", watched)
    assert rig.spool.mark_done(item)
    assert not Path(name).exists()
    if content is not None:
        content.close()
    await settled(rig.spool)
    monkeypatch.undo()
    assert [thread for path, thread in closed if path == f"{name} (deleted)"] == ["spool"] * (2 if read else 1)


async def test_damaged_content_is_noticed_before_the_last_chunk(rig: Rig) -> None:
    body = os.urandom(200_000)
    item = await large(rig, body)
    path = rig.root / "intake" / item.name
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"!!!!")
    with rig.spool.open_content(item) as content:
        got = []
        with pytest.raises(ContentDamaged):
            for chunk in content.chunks():
                got.append(chunk)
        assert sum(map(len, got)) < len(body)
    rig.spool.set_aside(item, "content")
    await settled(rig.spool)
    assert not path.exists()
    assert (rig.root / "corrupt" / f"{item.name}.0").stat().st_size > len(body)
    assert rig.crash_all() == []
    rig.start_worker()


async def test_a_damaged_entry_stops_nothing(rig: Rig) -> None:
    items = [await queued(rig, b"message %d" % i) for i in range(3)]
    keep = [await kept(rig, content=b"kept %d" % i) for i in range(3)]
    with (rig.root / "intake" / items[1].name).open("r+b") as file:
        file.seek(items[1].offset + 45)
        file.write(b"!!!!")
    victim = rig.root / "deferred" / keep[1].queue_id
    victim.write_bytes(b"nothing like an entry")
    victim.with_name(victim.name + ".state").write_bytes(b"nor a log")
    found = rig.crash_all()
    await settled(rig.spool)
    good = {items[0].queue_id, items[2].queue_id, keep[0].queue_id, keep[2].queue_id}
    assert {i.queue_id for i in found} == good
    assert rig.spool.damaged == 2
    assert any(items[1].queue_id in report for report in rig.reports)
    assert sum(name.endswith(".why") for name in rig.names("corrupt")) == 2
    assert {i.queue_id for i in rig.crash_all()} == good
    assert rig.spool.damaged == 0  # set aside once
    rig.start_worker()


async def test_damage_that_cannot_be_looked_at_is_told(rig: Rig) -> None:
    item = await queued(rig)
    (rig.root / "intake" / item.name).unlink()  # somebody's hands
    rig.spool.set_aside(item, "its checksum is wrong")
    (report,) = rig.reports
    assert item.queue_id in report and "its checksum is wrong" in report and "No such file" in report
    assert rig.spool.get(item.queue_id) is item and not rig.spool.damaged


async def test_a_finished_file_that_cannot_be_deleted_is_marked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its last message would be delivered again by the next process."""
    await rig.commit(b"x")
    rig.log._retire()
    (item,) = rig.pump()

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "unlink", refused)
        assert rig.spool.mark_done(item)
    assert rig.crash_all() == [] and item.name not in rig.names("intake")
    rig.start_worker()


async def test_a_finished_message_of_a_folder_that_cannot_be_deleted_is_marked(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of the intake: else the next process would deliver it again."""
    item = await kept(rig, recipients=2)

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "unlink", refused)
        assert rig.spool.mark_done(item)
    assert not rig.reports
    assert rig.crash_all() == [] and item.queue_id not in rig.names("deferred")
    rig.start_worker()


async def test_damage_found_at_start_that_cannot_be_set_aside_is_looked_at_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = await kept(rig)
    victim = rig.root / "deferred" / item.queue_id
    victim.write_bytes(b"nothing like an entry")
    victim.with_name(victim.name + ".state").write_bytes(b"nor a log")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write_file", full)
        assert rig.crash_all() == []
        assert not rig.spool.damaged and victim.exists()
    assert rig.recheck() == []
    assert rig.spool.damaged == 1 and not victim.exists()
    rig.start_worker()


async def test_what_cannot_be_set_aside_stays_queued(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    item = await kept(rig)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write_file", full)
        rig.spool.set_aside(item, "damaged")
    assert rig.spool.has(item) and not rig.spool.damaged and "No space left" in rig.reports[-1]
    rig.spool.set_aside(item, "damaged")
    assert not len(rig.spool) and rig.spool.damaged == 1
    assert rig.names("corrupt") == {item.queue_id, f"{item.queue_id}.state", f"{item.queue_id}.why"}


async def test_a_lost_state_log_makes_all_recipients_due(rig: Rig) -> None:
    item = await kept(rig, recipients=2)
    rig.spool.mark_done(item, [0])
    rig.spool.kept.state("deferred", item.queue_id).write_bytes(b"\0" * 50)
    (again,) = rig.crash_all()
    assert again.todo == [0, 1]
    rig.spool.record(again, Note(1.0, "deferred", attempts=3))
    (again,) = rig.crash_all()
    assert again.attempts == 3
    rig.start_worker()


async def test_a_message_of_our_own(rig: Rig) -> None:
    one: Trailer = trailer(3)
    item = await asyncio.wrap_future(rig.spool.submit(b"DSN", one))
    assert rig.content(item) == b"DSN"
    with pytest.raises(SpoolError, match="exists"):
        await asyncio.wrap_future(rig.spool.submit(b"again", one))
    (again,) = rig.crash_all()
    assert (again.queue_id, rig.content(again)) == (one.queue_id, b"DSN")
    rig.start_worker()


async def test_quarantine_retention_by_age_and_size(tmp_path: Path) -> None:
    now = [1000.0]
    rig = Rig(tmp_path / "spool", monotonic=lambda: now[0])
    rig.start_worker()
    items = []
    for _ in range(4):
        items.append(await kept(rig, "quarantine", b"x" * 100))
        now[0] += 100
    assert rig.spool.octets["quarantine"] == 400
    assert rig.spool.overdue_quarantine(10_000, 10_000) == []
    assert rig.spool.overdue_quarantine(250, 10_000) == items[:2]
    assert rig.spool.overdue_quarantine(10_000, 250) == items[:2]
    assert rig.spool.overdue_quarantine(0, 0) == []
    assert rig.spool.overdue_quarantine(250, 0) == rig.spool.overdue_quarantine(0, 250) == items[:2]
    for item in rig.spool.overdue_quarantine(350, 150):
        rig.spool.remove(item)
    assert list(rig.spool.folders["quarantine"]) == [items[3].queue_id]
    rig.close()


async def test_lingering_messages_in_order(tmp_path: Path) -> None:
    now = [1000.0]
    rig = Rig(tmp_path / "spool", monotonic=lambda: now[0])
    rig.start_worker()
    old = await queued(rig)
    now[0] += 10
    await queued(rig)
    assert rig.spool.lingering(5) == [old]
    rig.close()


async def test_memory_for_content_is_capped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.queue import books

    monkeypatch.setattr(books, "RAM", 150)
    items = [await queued(rig, b"%d" % i * 100) for i in range(3)]
    assert [i.content is not None for i in items] == [True, False, False]
    assert [rig.content(i)[:1] for i in items] == [b"0", b"1", b"2"]
    rig.spool.mark_done(items[0])
    assert (await queued(rig, b"n" * 100)).content is not None


async def test_marks_that_cannot_be_written_are_reported_and_stop_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    item, _other = await queued(rig), await queued(rig)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert rig.spool.mark_done(item)
    assert any(item.queue_id in report for report in rig.reports)
    assert len(rig.spool) == 1
    assert item.queue_id in {i.queue_id for i in rig.crash_all()}  # once more, never lost
    rig.start_worker()


async def test_start_up_comes_in_small_batches_and_serves_grants_first(rig: Rig) -> None:
    for i in range(150):
        await rig.commit(b"%d" % i)
    moves = [rig.spool.keep(item, "deferred", Note(0, "deferred")) for item in rig.pump()[:100]]
    await asyncio.gather(*map(asyncio.wrap_future, moves))
    rig.kill_delivery()
    rig.kill_worker()
    rig.spool = Spool(rig.root, asyncio.get_running_loop().call_soon_threadsafe, rig.reports.append)
    batches = rig.spool.recover()
    first = next(batch for batch in batches if batch)
    assert all(item.folder == "intake" for item in first)  # new mail before old
    rig.start_worker()
    fresh = await rig.commit(b"during start-up")
    assert [i.queue_id for i in rig.pump()] == [fresh.queue_id]
    rest = list(batches)
    assert max(map(len, rest)) <= 64
    assert len(rig.spool) == 151
