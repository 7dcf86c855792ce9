"""Delivery's side of the intake folder: files granted to workers, what is known of their entries, when they may go.

Contract: a file is open (its worker may write), sealed (an end is announced) or lost (its worker's connection is gone).
Only a sealed file, or a lost one whose lock is free (so nobody can write), is scanned; every entry is handed out once a
process life. A file is deleted when nothing more can come and every entry is closed (finished, moved or set aside).
What failure means for the mail: an entry that cannot be deleted or marked is handed out again after a crash, never lost.
"""

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from appliance.queue import disk, entry
from appliance.queue.entry import Damaged, Found
from appliance.queue.envelope import Committed, Grant
from appliance.queue.marks import ALL, SUFFIX, Marks
from appliance.queue.writer import Writer

Purpose = Literal["segment", "large"]
_EXTENSION: dict[str, str] = {"segment": ".seg", "large": ".big"}
#: How many files are made ahead, each an open descriptor; refilled when half of them are granted.
POOL: dict[Purpose, int] = {"segment": 4, "large": 32}
#: No file is that long: a notice that says so comes from a broken worker (its file is scanned when the worker is gone).
MAX_END = 1 << 48


class IntakeFile:
    """One file. `end`: entries are known without a gap up to here. `sealed`: nothing more is written. `open`: where the
    entries begin that are neither finished nor moved. `worker` is "" when nobody's connection stands for it."""

    def __init__(self, folder: Path, name: str, worker: str) -> None:
        self.path, self.name, self.worker = folder / name, name, worker
        self.marks = Marks(folder / (name + SUFFIX))
        self.known: set[int] = set()
        self.open: set[int] = set()
        self.end = 0
        self.sealed: int | None = None
        self.scanning = False

    @property
    def gap(self) -> bool:
        """It is sealed behind entries that are not known."""
        return self.sealed is not None and self.end < self.sealed

    @property
    def complete(self) -> bool:
        """Every entry that is or will be in it is known, and closed."""
        return self.sealed is not None and not self.gap and not self.open and not self.scanning


class Granted:
    """All intake files. `lane` is the thread that makes new ones ahead of time."""

    def __init__(self, folder: Path, lane: Writer) -> None:
        self.folder, self._lane = folder, lane
        self.files: dict[str, IntakeFile] = {}
        self._found = sorted(path.name for path in folder.iterdir())
        self._pool: dict[Purpose, deque[tuple[str, int]]] = {"segment": deque(), "large": deque()}
        self._making = self._closed = False

    # ------------------------------------------------------------------ grants

    def grant(self, purpose: Purpose, worker: str) -> tuple[Grant, int]:
        """A new file, its name durable. The caller sends both and closes the descriptor. Raises OSError."""
        pool = self._pool[purpose]
        if not pool:
            pool.extend(self._make({purpose: 1})[purpose])
        name, fd = pool.popleft()
        self.files[name] = IntakeFile(self.folder, name, worker)
        return Grant(name, purpose), fd

    def refill(self) -> None:
        """Make files ahead of time, in the lane, so that grants are answered at once."""
        missing = {purpose: count - len(self._pool[purpose]) for purpose, count in POOL.items()}
        if not self._making and any(count * 2 >= POOL[purpose] for purpose, count in missing.items()):
            self._making = True
            self._lane.run(lambda: self._make(missing), self._made)

    def _make(self, missing: dict[Purpose, int]) -> dict[Purpose, list[tuple[str, int]]]:
        made: dict[Purpose, list[tuple[str, int]]] = {purpose: [] for purpose in missing}
        try:
            for purpose, count in missing.items():
                for _ in range(count):
                    name = os.urandom(8).hex() + _EXTENSION[purpose]
                    made[purpose].append((name, disk.create_locked(self.folder / name)))
            disk.sync_folder(self.folder)
        except OSError:
            self._discard(pair for files in made.values() for pair in files)
            raise
        return made

    def _discard(self, files: Iterable[tuple[str, int]]) -> None:
        for name, fd in files:
            (self.folder / name).unlink(missing_ok=True)
            os.close(fd)

    def _made(self, made: dict[Purpose, list[tuple[str, int]]] | Exception) -> None:
        self._making = False
        if not isinstance(made, Exception):  # else: no room now; the next grant tries again
            for purpose, files in made.items():
                self._pool[purpose].extend(files)
        if self._closed:
            self._empty_pool()

    # ------------------------------------------------------------------ notices

    def committed(self, notice: Committed) -> bool:
        """True if this entry was not known yet. Files that we do not know have been dealt with already."""
        file = self.files.get(notice.name)
        if file is None or notice.offset in file.known or not 0 <= notice.offset < MAX_END:
            return False
        self._admit(file, notice.offset)
        if notice.offset == file.end:
            file.end = max(file.end, notice.end)
        return True

    def _admit(self, file: IntakeFile, offset: int) -> None:
        file.known.add(offset)
        file.open.add(offset)

    def seal(self, name: str, end: int) -> IntakeFile | None:
        """Nothing more is written to the file, entries end at `end` (made durable if anything stands behind it).
        Returns the file if it must be scanned for entries we were not told of. Raises OSError."""
        file = self.files.get(name)
        if file is None or file.sealed is not None or file.scanning or not 0 <= end < MAX_END:
            return None
        if file.path.stat().st_size > end:
            file.marks.seal(end)
        file.sealed = end
        self.tidy(file)
        return file if file.gap else None

    def returned(self, name: str) -> None:
        """The file holds no message. Raises OSError."""
        file = self.files.get(name)
        if file is not None and not file.known:
            self._delete(file)

    def gone(self, worker: str) -> None:
        """The connection of `worker` is closed: its files are lost until it seals them or their locks are free."""
        for file in self.files.values():
            if file.worker == worker:
                file.worker = ""

    # ------------------------------------------------------------------ scans

    def adopt(self) -> list[IntakeFile]:
        """At start: take over what the process before us left. Marks without a file are removed. Raises OSError."""
        names = self._found
        intake = {name for name in names if name.endswith(tuple(_EXTENSION.values()))}
        for name in names:
            if name.endswith(SUFFIX) and name.removesuffix(SUFFIX) not in intake:
                (self.folder / name).unlink(missing_ok=True)
        for name in sorted(intake):
            self.files[name] = IntakeFile(self.folder, name, "")
        self._found = []  # not before: where it fails it is called again
        return [self.files[name] for name in sorted(intake)]

    def lost(self) -> list[IntakeFile]:
        """The files nobody stands for, or whose scan failed: to be scanned now, unless somebody can write to them."""
        return [f for f in self.files.values() if not f.scanning and (f.gap or (not f.worker and f.sealed is None))]

    def scan(self, file: IntakeFile) -> Iterator[Found | Damaged]:
        """Every entry that is not known yet, then the file is sealed where the scan ended. Run it to its end.
        Raises OSError if the disk cannot be read (the file stays as it is). Of one that is gone, or that is being scanned
        already, nothing."""
        if file.scanning or self.files.get(file.name) is not file:
            return
        file.marks.read()  # what the process before us finished: without it that would be handed out again
        end = file.sealed if file.sealed is not None else file.marks.end
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        file.scanning = True
        try:
            if end is None and file.name.endswith(_EXTENSION["large"]) and entry.is_draft(fd):
                end = 0
            for one in entry.iterate(fd, entry.salt_of(file.name), file.end, end):
                if isinstance(one, Found | Damaged) and one.offset not in file.known:
                    file.known.add(one.offset)
                    if one.offset not in file.marks.finished:
                        file.open.add(one.offset)
                        yield one
                file.end = one.end
            file.sealed = file.end if end is None else end
            file.end = file.sealed
        finally:
            os.close(fd)
            file.scanning = False
        self.tidy(file)

    # ------------------------------------------------------------------ closing

    def done(self, name: str, offset: int, indexes: list[int]) -> bool:
        """These recipients are done: False if the mark could not be written (disk full)."""
        file = self.files.get(name)  # None: somebody's hands took it away, a mark would be of nothing
        return file is None or file.marks.put(offset, indexes)

    def close_entry(self, name: str, offset: int) -> bool:
        """The entry is finished, moved or set aside: mark it, or delete the file if that was the last one.
        False if neither could be written. Of an entry that is closed already nothing is left to do."""
        file = self.files.get(name)
        if file is None or offset not in file.open:
            return True
        file.open.remove(offset)
        if file.complete and self.tidy(file):
            return True
        return file.marks.put(offset, [ALL])

    def tidy(self, file: IntakeFile) -> bool:
        """Delete the file if nothing is in it and nothing can come."""
        if not file.complete:
            return True
        try:
            self._delete(file)
        except OSError:
            return False
        return True

    def _delete(self, file: IntakeFile) -> None:
        disk.unlink(file.path, self._lane.let_go)  # first the file: marks without a file are harmless
        self.files.pop(file.name, None)
        with contextlib.suppress(OSError):
            file.marks.remove()

    def close(self) -> None:
        """Give back what was made ahead of time; entries stay as they are."""
        self._closed = True
        self._empty_pool()
        for file in self.files.values():
            file.marks.close()

    def _empty_pool(self) -> None:
        for pool in self._pool.values():
            self._discard(pool)
            pool.clear()
