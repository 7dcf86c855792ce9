"""Entries in files of their own (deferred, hold, quarantine) and the thread that puts them there, durably and in batches.

Contract: `FOLDER/ID` is always a whole entry: it is written as ID.new, synced with its state log, renamed, the
folder synced; only then is the job done and the entry's old place closed. Names of a batch share the folder syncs.
What failure means for the mail: a job that fails changes nothing: the message stays where it was.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from appliance.queue import disk, entry, ids, statelog
from appliance.queue.errors import SpoolError, from_oserror
from appliance.queue.item import Item, Kept, Note
from appliance.queue.statelog import SUFFIX
from appliance.queue.writer import Writer

KEPT: tuple[Kept, ...] = ("quarantine", "hold", "deferred")
_NEW = ".new"
#: Messages that are moved together: two descriptors each.
BATCH = 64


class Source(NamedTuple):
    """Where the octets of an entry come from: `start` of an intake file, a whole file to link, or memory."""

    path: Path
    start: int = 0
    link: bool = False
    data: tuple[bytes, ...] = ()


class Job(NamedTuple):
    """One entry on its way to `folder`; `state` is its whole state log. `settle(error or None)` runs on the loop."""

    item: Item
    folder: Kept
    state: bytes
    source: Source | None
    settle: Callable[[SpoolError | None], None]


class KeptEntries:
    """The three folders. `lane` is the thread that syncs."""

    def __init__(self, root: Path, lane: Writer) -> None:
        self.root, self._lane = root, lane
        self.names: dict[str, Kept] = {}
        #: Names whose message could not be read yet; who waits longest is first.
        self.unread: dict[str, None] = {}
        self._inodes: dict[int, str] = {}
        self._jobs: list[Job] = []
        self._under_way: set[str] = set()
        self._busy = False

    def path(self, folder: Kept, queue_id: str) -> Path:
        return self.root / folder / queue_id

    def state(self, folder: Kept, queue_id: str) -> Path:
        return self.root / folder / (queue_id + SUFFIX)

    # ------------------------------------------------------------------ moving

    def put(self, job: Job) -> None:
        """Move an entry into a folder; jobs that come while the thread is busy make the next batch."""
        self._jobs.append(job)
        self._under_way.add(job.item.queue_id)
        self._next()

    def _next(self) -> None:
        if self._busy or not self._jobs:
            return
        batch, self._jobs = self._jobs[:BATCH], self._jobs[BATCH:]
        self._busy = True
        self._lane.run(lambda: self._work(batch), lambda errors: self._worked(batch, errors))

    def _worked(self, batch: list[Job], errors: list[SpoolError | None] | Exception) -> None:
        self._busy = False
        if isinstance(errors, Exception):
            errors = [SpoolError(str(errors))] * len(batch)
        for job, error in zip(batch, errors, strict=True):
            self._under_way.discard(job.item.queue_id)
            if error is None:
                self.names[job.item.queue_id] = job.folder
            job.settle(error)
        self._next()

    def _work(self, batch: list[Job]) -> list[SpoolError | None]:
        """In the thread: all files, then their syncs (the first one brings most of the others to the disk), then all
        names, then each folder's sync."""
        fds: list[list[int]] = [[] for _ in batch]
        errors = [_caught(partial(self._write, job, mine)) for job, mine in zip(batch, fds, strict=True)]
        errors = [e or _caught(partial(_sync, mine)) for e, mine in zip(errors, fds, strict=True)]
        for fd in chain.from_iterable(fds):
            os.close(fd)
        errors = [e or _caught(partial(self._name, job)) for e, job in zip(errors, batch, strict=True)]
        touched = {job.folder for job in batch} | {self.names[job.item.queue_id] for job in batch if not job.source}
        for folder in touched:
            error = _caught(partial(disk.sync_folder, self.root / folder))
            if error is not None:
                errors = [e or error for e in errors]
        for job, failure in zip(batch, errors, strict=True):
            if failure is not None:
                self._undo(job)
        return errors

    def _write(self, job: Job, fds: list[int]) -> None:
        queue_id = job.item.queue_id
        if job.source is not None and self.path(job.folder, queue_id).exists():
            raise SpoolError(f"{queue_id} exists in {job.folder}")
        fds.append(disk.create(self.state(job.folder, queue_id + _NEW), [job.state]))
        if job.source is None or job.source.link:
            return
        source = job.source
        pieces = source.data or entry.octets(source.path, source.start)
        fds.append(disk.create(self.path(job.folder, queue_id + _NEW), pieces))

    def _name(self, job: Job) -> None:
        """The state log gets its name first: a log without an entry is dropped at start, an entry always has its log."""
        queue_id, path = job.item.queue_id, self.path(job.folder, job.item.queue_id)
        self.state(job.folder, queue_id + _NEW).replace(self.state(job.folder, queue_id))
        if job.source is None:
            old = self.names[queue_id]
            if old != job.folder:
                self.path(old, queue_id).rename(path)
                self.state(old, queue_id).unlink(missing_ok=True)
        elif job.source.link:
            os.link(job.source.path, path)
        else:
            self.path(job.folder, queue_id + _NEW).rename(path)

    def _undo(self, job: Job) -> None:
        """What did not become durable: the names are taken back, the old place stays the true one."""
        queue_id = job.item.queue_id
        old = self.names.get(queue_id)
        drafts = [queue_id + _NEW, queue_id + _NEW + SUFFIX]
        for name in drafts if old is not None else [queue_id, queue_id + SUFFIX, *drafts]:
            with contextlib.suppress(OSError):
                (self.root / job.folder / name).unlink(missing_ok=True)
        if old is None:
            return
        if old != job.folder:
            with contextlib.suppress(OSError):
                self.path(job.folder, queue_id).rename(self.path(old, queue_id))
                self.state(job.folder, queue_id).replace(self.state(old, queue_id))

    def create(self, item: Item, folder: Kept, content: bytes, settle: Callable[[SpoolError | None], None]) -> None:
        """A message of our own making (a DSN): settle(None) when it is durable."""
        state = statelog.render(item, Note(item.arrived, "created"))
        source = Source(self.root, data=tuple(entry.encode_entry(content, item.trailer)))
        self.put(Job(item, folder, state, source, settle))

    # ------------------------------------------------------------------ what is there

    def append(self, item: Item, folder: Kept, note: Note, sync: bool = False) -> None:
        """One more note in the log. Raises OSError."""
        item.state_octets += statelog.append(self.state(folder, item.queue_id), note, sync)

    def remove(self, folder: Kept, queue_id: str) -> None:
        """The message is finished: the entry goes first, a log without an entry is harmless. Raises OSError."""
        disk.unlink(self.path(folder, queue_id), self._lane.let_go)
        self.names.pop(queue_id, None)
        self.state(folder, queue_id).unlink(missing_ok=True)

    def finish(self, item: Item, folder: Kept, note: Note) -> None:
        """Remove it; where the disk refuses, its log says that it is finished. Raises OSError where that fails, too."""
        try:
            self.remove(folder, item.queue_id)
        except OSError:
            self.append(item, folder, note)

    def listing(self) -> Iterator[int]:
        """At start: learn all names, remove drafts, put state logs beside their entries; what the thread moves
        meanwhile (new mail) is left alone. Yields now and then (for a turn of the loop); afterwards `names` is complete.
        Raises OSError."""
        logs: list[tuple[Kept, str]] = []
        for folder in KEPT:
            with os.scandir(self.root / folder) as names:
                for count, found in enumerate(names):
                    self._listed(folder, found.name, found.inode(), logs)
                    if count % 1024 == 1023:
                        yield count
        for count, (folder, queue_id) in enumerate(logs):
            if self.names.get(queue_id) != folder and queue_id not in self._under_way:
                self._orphan(folder, queue_id)
            if count % 1024 == 1023:
                yield count

    def _listed(self, folder: Kept, name: str, inode: int, logs: list[tuple[Kept, str]]) -> None:
        queue_id = name.removesuffix(SUFFIX)
        if queue_id.removesuffix(_NEW) in self._under_way:
            return
        if queue_id.endswith(_NEW):
            (self.root / folder / name).unlink(missing_ok=True)
        elif name != queue_id:
            logs.append((folder, queue_id))
            self._inodes[inode] = queue_id
        elif ids.valid(name):
            self.names.setdefault(name, folder)

    def _orphan(self, folder: Kept, queue_id: str) -> None:
        """A log without an entry beside it: of a move that was cut short (the log is taken along), or of nothing."""
        log, home = self.state(folder, queue_id), self.names.get(queue_id)
        if home is not None and not self.state(home, queue_id).exists():
            log.rename(self.state(home, queue_id))
        else:
            log.unlink(missing_ok=True)

    def in_disk_order(self) -> Iterator[str]:
        """All names that `listing` found, those with a log in the order of the logs' inodes: reading 100,000 small files
        in the folder's order would be a seek each. A name may come twice."""
        inodes, self._inodes = self._inodes, {}
        logged: set[str] = set()
        for inode in sorted(inodes):
            logged.add(inodes[inode])
            yield inodes[inode]
        yield from [name for name in self.names if name not in logged]

    def load(self, queue_id: str, born: float) -> Item | None:
        """The item of a listed name; None if it cannot be read. An entry without a log gets one. Raises OSError."""
        folder = self.names[queue_id]
        item = statelog.load(self.path(folder, queue_id), self.state(folder, queue_id), folder, born)
        if item is not None and not item.state_octets:
            log = statelog.render(item, Note(item.arrived, "found without a log"))
            disk.write_file(self.state(folder, queue_id), [log])
            item.state_octets = len(log)
        return item


def _sync(fds: list[int]) -> None:
    for fd in fds:
        os.fsync(fd)


def _caught(work: Callable[[], None]) -> SpoolError | None:
    try:
        work()
    except OSError as error:
        return from_oserror(error)
    except SpoolError as error:
        return error
    return None
