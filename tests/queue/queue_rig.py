"""What the queue's tests share: a spool and a worker in one process, wired by a list, either of which can be killed."""

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from appliance.queue.clock import SpoolClock
from appliance.queue.envelope import Committed, QueuedRecipient, Returned, Sealed, Trailer, Want, decode_notice
from appliance.queue.ids import QueueIds
from appliance.queue.intake import IntakeLog
from appliance.queue.item import Item
from appliance.queue.large import LargeFile
from appliance.queue.spool import Spool

IDS = QueueIds(7)
_encode = msgspec.msgpack.Encoder().encode


def trailer(size: int = 0, recipients: int = 1, **more: Any) -> Trailer:
    people = tuple(QueuedRecipient(f"r{i}@example.com", "example.com") for i in range(recipients))
    more.setdefault("queue_id", next(IDS))
    return Trailer(received=time.time(), sender="s@example.org", recipients=people, size=size, **more)


class Killed(BaseException):
    """The process ended here (no handler of Exception sees it)."""


class Wire:
    """A channel that only remembers. `cut`: the process died before it could send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.cut = self.closed = False

    def send(self, value: Any, fds: tuple[int, ...] = ()) -> None:
        if self.closed:
            raise ConnectionError("closed")
        if not self.cut:
            self.sent.append(decode_notice(_encode(value)))  # as delivery reads it

    def send_many(self, values: Any) -> None:
        for value in values:
            self.send(value)


class Rig:
    """One spool, one worker. `pump()` lets delivery read what the worker sent."""

    def __init__(self, root: Path, **clock: Any) -> None:
        self.root, self._clock = root, clock
        self.reports: list[str] = []
        self.open()

    def open(self) -> list[Item]:
        """Start delivery: everything it finds."""
        loop = asyncio.get_running_loop()
        clock = SpoolClock(self.root / "clock", **self._clock) if self._clock else None
        self.spool = Spool(self.root, loop.call_soon_threadsafe, self.reports.append, clock)
        return [item for batch in self.spool.recover() for item in batch]

    def start_worker(self, name: str = "smtpd.0") -> IntakeLog:
        self.wire = Wire()
        self.log = IntakeLog(self.wire, name)
        self.drafts: list[LargeFile] = []
        self.pump()
        return self.log

    def start_worker_later(self) -> None:
        """The dead one holds nothing any more."""
        self.wire = Wire()
        self.wire.cut = True
        self.log = IntakeLog(None, "nobody")
        self.drafts = []

    def large(self) -> LargeFile:
        """A large file, which `kill_worker` closes too."""
        file = self.log.large()
        assert file is not None
        self.drafts.append(file)
        return file

    def reconnect(self) -> list[Item]:
        self.wire = Wire()
        self.log.resend(self.wire)
        return self.pump()

    def pump(self) -> list[Item]:
        """All notices, also those that the answers cause; the messages that came in."""
        found: list[Item] = []
        while self.wire.sent:
            notice = self.wire.sent.pop(0)
            if isinstance(notice, Want):
                for purpose in ["segment"] * notice.segment + ["large"] * notice.large:
                    grant, fd = self.spool.grant(purpose, notice.worker)
                    self.log.on_grant(grant, fd)
            elif isinstance(notice, Committed):
                item = self.spool.committed(notice)
                found += [item] if item is not None else []
            elif isinstance(notice, Sealed):
                found += [item for batch in self.spool.sealed(notice) for item in batch]
            elif isinstance(notice, Returned):
                self.spool.returned(notice)
        return found

    def recheck(self) -> list[Item]:
        return [item for batch in self.spool.recheck() for item in batch]

    async def commit(self, content: bytes, **more: Any) -> Trailer:
        one = trailer(len(content), **more)
        await self.log.commit(content, one)
        return one

    def kill_worker(self) -> None:
        """kill -9: descriptors are closed (locks go), nothing is said."""
        self.wire.cut = True
        self.log._segments.close()
        self.log._large.close()
        files = [self.log._current, *self.log._spares, *self.log._pool.idle, *[f for f in self.drafts if not f._ended]]
        for fd in {file.fd for file in files if file is not None} | {fd for _, fd in self.log._unsent}:
            os.close(fd)
        self.start_worker_later()
        for handle in [self.log._starving]:
            if handle is not None:
                handle.cancel()

    def kill_delivery(self) -> None:
        """kill -9: what was sent and not read is lost, locks go."""
        self.spool._lane.close()
        os.close(self.spool._lock)
        for pool in self.spool.granted._pool.values():
            for _, fd in pool:
                os.close(fd)
            pool.clear()
        self.spool.granted._closed = True  # what the lane made last is dropped
        for file in self.spool.granted.files.values():
            file.marks.close()
        self.wire.closed = True
        self.log.disconnected()

    def crash_all(self) -> list[Item]:
        """Both die, delivery starts again."""
        self.kill_delivery()
        self.kill_worker()
        return self.open()

    def open_copy(self) -> list[Item]:
        """What a start would find in a copy of the spool as it is on disk now."""
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(self.root, Path(folder) / "spool", dirs_exist_ok=True)
            spool = Spool(Path(folder) / "spool", lambda *args: None, self.reports.append)
            found = [item for batch in spool.recover() for item in batch]
            spool.close()
        return found

    def content(self, item: Item) -> bytes:
        with self.spool.open_content(item) as content:
            return content.whole()

    def names(self, folder: str) -> set[str]:
        return {path.name for path in (self.root / folder).iterdir()}

    def close(self) -> None:
        self.log.close()
        self.pump()
        self.spool.close()


async def settled(spool: Spool) -> None:
    """Everything handed to the lane is done and its results are here."""
    await asyncio.wrap_future(spool.idle())
    await asyncio.sleep(0)
