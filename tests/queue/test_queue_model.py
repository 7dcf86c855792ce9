"""Random histories against a model: what was acknowledged is found once or was done; what was refused is never found."""

import asyncio
import errno
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.queue import intake
from appliance.queue.envelope import Trailer
from appliance.queue.errors import SpoolError
from appliance.queue.item import Item, Note
from tests.queue.queue_rig import Rig, trailer

MAIL = ["small", "small", "batch", "large", "abort", "read", "done", "some", "keep", "hold", "release", "remove"]
DEATH = ["kill worker", "kill silent worker", "kill delivery", "kill both", "reconnect", "power cut"]
#: Who is killed loses nothing that he wrote, synced or not; a power cut is played. So histories need no disk.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
STEPS = st.sampled_from([*MAIL, *DEATH, "sync fails"])


class Model:
    """What must be true: `owed` maps queue ids to (content, recipients still to do); `repeats` may come once more."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.rig = Rig(root)
        self.rig.start_worker()
        self.owed: dict[str, tuple[bytes, set[int]]] = {}
        self.repeats: dict[str, bytes] = {}
        self.lost_marks = False

    def body(self, octets: int) -> bytes:
        return self.random.randbytes(octets)

    async def commit(self, body: bytes, count: int = 1) -> None:
        one = trailer(len(body), count)
        try:
            await self.rig.log.commit(body, one)
        except SpoolError:
            return
        self.acknowledged(one, body)

    def acknowledged(self, one: Trailer, body: bytes) -> None:
        self.owed[one.queue_id] = (body, set(range(len(one.recipients))))

    def pick(self, *folders: str) -> Item | None:
        items = [item for item in self.rig.spool if item.folder in folders and not item.moving]
        return self.random.choice(items) if items else None

    async def step(self, name: str) -> None:
        await getattr(self, "do_" + name.replace(" ", "_"))()

    async def do_small(self) -> None:
        await self.commit(self.body(self.random.randrange(300)), self.random.randrange(1, 4))

    async def do_batch(self) -> None:
        await asyncio.gather(*[self.do_small() for _ in range(10)])

    async def do_large(self) -> None:
        file = self.rig.log.large()
        if file is None:
            return
        self.rig.drafts.append(file)
        body = self.body(70_000)
        file.write(body)
        one = trailer(len(body))
        await file.commit(one)
        self.acknowledged(one, body)

    async def do_abort(self) -> None:
        file = self.rig.log.large()
        if file is not None:
            self.rig.drafts.append(file)
            file.write(b"draft" * self.random.randrange(30_000))
            if self.random.random() < 0.7:  # else the client hangs while others crash
                file.abort()

    async def do_read(self) -> None:
        self.rig.pump()

    async def do_done(self) -> None:
        item = self.pick("intake", "deferred")
        if item is not None:
            self.finish(item, set(item.todo))
            self.rig.spool.mark_done(item)

    async def do_some(self) -> None:
        item = self.pick("intake", "deferred")
        if item is not None and item.todo:
            index = self.random.choice(item.todo)
            self.finish(item, {index})
            self.rig.spool.mark_done(item, [index])

    def finish(self, item: Item, indexes: set[int]) -> None:
        body, todo = self.owed[item.queue_id]
        self.repeats[item.queue_id] = body
        if todo - indexes:
            self.owed[item.queue_id] = (body, todo - indexes)
        else:
            del self.owed[item.queue_id]

    async def do_keep(self) -> None:
        item = self.pick("intake", "deferred")
        if item is not None:
            await asyncio.wrap_future(self.rig.spool.keep(item, "deferred", Note(0, "deferred", "later")))

    async def do_hold(self) -> None:
        item = self.pick("intake", "deferred", "hold")
        if item is not None:
            await asyncio.wrap_future(self.rig.spool.hold(item, "operator"))

    async def do_release(self) -> None:
        item = self.pick("hold")
        if item is not None:
            await asyncio.wrap_future(self.rig.spool.release(item))

    async def do_remove(self) -> None:
        item = self.pick("intake", "deferred", "hold")
        if item is not None:
            self.repeats[item.queue_id] = self.owed.pop(item.queue_id)[0]
            self.rig.spool.remove(item)

    async def do_sync_fails(self) -> None:
        def broken(fd: int) -> None:
            raise OSError(errno.EIO, "io")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fdatasync", broken)
            for call in [self.do_small(), self.do_small()]:
                await call

    async def do_kill_worker(self) -> None:
        self.rig.pump()
        self.rig.kill_worker()
        self.rig.spool.gone("smtpd.0")
        self.rig.recheck()
        self.rig.start_worker()

    async def do_kill_silent_worker(self) -> None:
        """It dies between sync and notice, and leaves half an entry behind."""
        self.rig.pump()
        self.rig.wire.cut = True
        await self.do_batch()
        file = self.rig.log._current
        if file is not None:
            os.pwrite(file.fd, b"\x93PGE\x01" + self.body(self.random.randrange(30)), file.end)
        self.rig.kill_worker()
        self.rig.spool.gone("smtpd.0")
        self.rig.recheck()
        self.rig.start_worker()

    async def do_kill_delivery(self) -> None:
        self.rig.kill_delivery()
        if self.random.random() < 0.5:
            await self.do_batch()
        self.rig.open()
        self.check_books()
        self.rig.reconnect()

    async def do_kill_both(self) -> None:
        self.rig.crash_all()
        self.check_books()
        self.rig.start_worker()

    async def do_reconnect(self) -> None:
        """The connection breaks, what was in it is lost, both live."""
        self.rig.spool.gone("smtpd.0")
        self.rig.reconnect()

    async def do_power_cut(self) -> None:
        """All die; of the marks, which are not synced, only a part is left."""
        self.rig.kill_delivery()
        self.rig.kill_worker()
        for marks in (self.rig.root / "intake").glob("*.done"):
            os.truncate(marks, self.random.randrange(marks.stat().st_size + 1))
            self.lost_marks = True
        self.rig.open()
        self.check_books()
        for item in list(self.rig.spool):  # what the marks lost is delivered once more
            if item.queue_id not in self.owed:
                self.rig.spool.mark_done(item)
        self.rig.start_worker()

    def check_books(self) -> None:
        found = [item.queue_id for item in self.rig.spool]
        assert len(found) == len(set(found))
        for item in self.rig.spool:
            body = self.owed[item.queue_id][0] if item.queue_id in self.owed else self.repeats[item.queue_id]
            assert self.rig.content(item) == body
            assert set(item.todo) >= self.owed.get(item.queue_id, (b"", set()))[1]

    def check_end(self) -> None:
        self.rig.crash_all()
        self.check_books()
        found = {item.queue_id: set(item.todo) for item in self.rig.spool}
        assert set(found) == set(self.owed)
        if not self.lost_marks:
            assert found == {queue_id: todo for queue_id, (_, todo) in self.owed.items()}
        assert self.rig.spool.damaged == 0
        assert not self.rig.names("corrupt")
        self.rig.start_worker()
        self.rig.close()


async def history(seed: int, steps: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "GRANT_WAIT", 0.005)
        model = Model(Path(folder) / "spool", seed)
        for name in steps:
            await model.step(name)
        model.check_end()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.lists(STEPS, min_size=5, max_size=40))
def test_random_histories(seed: int, steps: list[str]) -> None:
    asyncio.run(history(seed, steps))
