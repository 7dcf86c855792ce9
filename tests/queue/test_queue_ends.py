"""What is under way when something ends: a lane, a spool, somebody who waits; and damage that is found during a move."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from appliance.queue import kept
from appliance.queue.errors import SpoolError
from appliance.queue.item import Item, Note, Result
from appliance.queue.spool import Spool
from appliance.queue.writer import Writer
from tests.queue.queue_rig import Rig, settled


async def queued(rig: Rig, content: bytes = b"hello") -> Item:
    await rig.commit(content)
    return rig.pump()[-1]


async def test_a_lane_that_is_closed_does_nothing_more_and_says_so() -> None:
    loop = asyncio.get_running_loop()
    lane, did, told = Writer("closed lane", loop.call_soon_threadsafe), list[str](), list[object]()
    lane.run(lambda: did.append("before"), told.append)
    lane.close()
    lane.run(lambda: did.append("behind"), told.append)
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0)
    assert did == ["before"] and told[0] is None and isinstance(told[1], SpoolError)
    assert "closed lane" not in [thread.name for thread in threading.enumerate()]


async def test_a_descriptor_that_is_let_go_behind_the_end_is_closed_all_the_same() -> None:
    lane = Writer("closed lane", asyncio.get_running_loop().call_soon_threadsafe)
    lane.close()
    lane.let_go(fd := os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(OSError):
        os.fstat(fd)
    assert not lane.idle().cancel()  # who waits may go, and changes nothing


async def test_moves_that_wait_when_the_spool_is_closed_never_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is free then: the folders are another process's."""
    rig = Rig(tmp_path / "spool")
    rig.start_worker()
    items = [await queued(rig) for _ in range(3)]
    monkeypatch.setattr(kept, "BATCH", 1)
    moves = [asyncio.wrap_future(rig.spool.keep(item, "hold", Note(0, "hold"))) for item in items]
    rig.log.close()
    rig.pump()
    rig.spool.close()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*moves, return_exceptions=True)
    assert outcomes[0] is None and all(isinstance(outcome, SpoolError) for outcome in outcomes[1:])
    assert len(rig.names("hold")) == 2  # one message and its log
    another = Spool(rig.root, lambda *args: None, rig.reports.append)
    assert len([item for batch in another.recover() for item in batch]) == 3
    another.close()


async def test_who_waits_no_longer_keeps_nobody_else_waiting(rig: Rig) -> None:
    items = [await queued(rig) for _ in range(3)]
    waits = [asyncio.wrap_future(rig.spool.keep(item, "hold", Note(0, "hold"))) for item in items]
    waits[0].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waits[1:])
    assert [item.folder for item in items] == ["hold"] * 3 and not any(item.moving for item in items)


async def test_damage_found_while_a_message_moves_is_dealt_with_behind_the_move(rig: Rig) -> None:
    """Else its place would be closed twice, and the file deleted that has another message."""
    item, other = await queued(rig), await queued(rig, b"another")
    rig.log.resend(rig.wire)  # seals
    rig.pump()
    moved = asyncio.wrap_future(rig.spool.keep(item, "hold", Note(0, "hold")))
    rig.spool.set_aside(item, "its checksum is wrong")
    await moved
    await settled(rig.spool)
    assert rig.spool.get(item.queue_id) is None and item.queue_id in rig.names("corrupt")
    assert not rig.names("hold")
    assert other.name in rig.names("intake")
    assert [one.queue_id for one in rig.crash_all()] == [other.queue_id]


@pytest.mark.parametrize("folder", ["intake", "deferred"])
@pytest.mark.parametrize("how", ["deleted", "damaged"])
async def test_what_is_gone_while_it_is_sent_is_closed_once(rig: Rig, folder: str, how: str) -> None:
    """By an operator, or because another delivery of it found damage. Else the file goes that has another message."""
    item, other = await queued(rig), await queued(rig, b"another")
    rig.log.resend(rig.wire)  # seals
    rig.pump()
    if folder == "deferred":
        await asyncio.wrap_future(rig.spool.keep(item, "deferred", Note(0, "deferred")))
    if how == "deleted":
        rig.spool.remove(item)
        assert not rig.spool.mark_done(item)
    else:
        for _ in range(2):
            rig.spool.set_aside(item, "its checksum is wrong")
        await settled(rig.spool)
        assert rig.spool.damaged == 1
        rig.spool.record(item, Note(0, "deferred", results={0: Result("todo", "4.0.0", "later")}))
    assert len(rig.reports) == int(how == "damaged"), rig.reports
    assert other.name in rig.names("intake")
    assert [one.queue_id for one in rig.crash_all()] == [other.queue_id]


@pytest.mark.parametrize("folder", ["intake", "deferred"])
async def test_what_is_gone_is_not_moved_and_fails_no_other_move(rig: Rig, folder: str) -> None:
    """Else it is there again; and of a batch with one that has no name the others would be on disk unknown to us."""
    item, other = await queued(rig), await queued(rig, b"another")
    if folder == "deferred":
        for one in (item, other):
            await asyncio.wrap_future(rig.spool.keep(one, "deferred", Note(0, "deferred")))
    rig.spool.remove(item)
    moves = [asyncio.wrap_future(rig.spool.hold(one, "held")) for one in (item, other)]
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*moves, return_exceptions=True)
    assert "not queued any more" in str(outcomes[0]) and outcomes[1] is None
    assert [one.queue_id for one in rig.spool] == [other.queue_id] and not item.moving
    rig.spool.remove(item)
    assert rig.names("hold") == {other.queue_id, other.queue_id + ".state"} and not rig.names("deferred")
    assert [one.queue_id for one in rig.crash_all()] == [other.queue_id]


async def test_a_move_that_fails_takes_back_what_it_said(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alarm that could not be released is one still. What came meanwhile stays."""
    await rig.commit(b"x", recipients=3)
    (item,) = rig.pump()
    failed = {i: Result("failed", "5.1.1", "no") for i in range(3)}
    rig.spool.record(item, Note(0, "deferred", attempts=2, results=failed))
    await asyncio.wrap_future(rig.spool.hold(item, "undeliverable"))
    before = item.summary(0.0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "full")))
        released = asyncio.wrap_future(rig.spool.release(item))
        assert not item.failed and not item.reason
        rig.spool.mark_done(item, [1])
        with pytest.raises(SpoolError):
            await released
    after = item.summary(0.0)
    assert (item.folder, after.reason, after.born, after.attempts) == ("hold", "undeliverable", before.born, 2)
    assert item.failed == [0, 2] and after.results[1].status == "done"
    (again,) = rig.crash_all()
    assert (again.folder, again.reason, again.failed) == ("hold", "undeliverable", [0, 2])


async def test_a_file_that_somebody_took_away_is_told_nothing(rig: Rig) -> None:
    assert rig.spool.granted.done("0123456789abcdef.seg", 0, [0])


async def test_an_entry_that_is_closed_twice_counts_once(rig: Rig) -> None:
    item, other = await queued(rig), await queued(rig, b"another")
    rig.log.resend(rig.wire)  # seals
    rig.pump()
    for _ in range(2):
        assert rig.spool.granted.close_entry(item.name, item.offset)
    assert other.name in rig.names("intake")
    for _ in range(2):  # the second one finds no file any more
        assert rig.spool.granted.close_entry(other.name, other.offset)
    assert other.name not in rig.names("intake")


async def test_a_file_that_was_given_up_is_read_no_more(rig: Rig, tmp_path: Path) -> None:
    """Its descriptor may be another file's."""
    file = rig.large()
    await settled(rig.spool)
    file.write(b"x" * 100_000)
    file.abort()
    (tmp_path / "other").write_bytes(b"of others")
    with (tmp_path / "other").open("rb") as other:
        fd = os.dup2(other.fileno(), file.fd)
        with pytest.raises(SpoolError):
            os.close(file.reader())
        if fd != other.fileno():
            os.close(fd)


async def test_a_file_that_is_given_up_while_a_thread_opens_it_is_not_read(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real, opened = rig.large(), os.open, list[int]()
    await settled(rig.spool)
    file.write(b"x" * 100_000)
    (tmp_path / "other").write_bytes(b"of others")

    def late(path: str, flags: int) -> int:
        file.abort()
        other = real(tmp_path / "other", flags)
        if other != file.fd:
            os.dup2(other, file.fd)
            os.close(other)
        opened.append(real(path, flags))
        return opened[0]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", late)
        with pytest.raises(SpoolError):
            file.reader()
    os.close(file.fd)
    with pytest.raises(OSError):
        os.fstat(opened[0])
