"""Compiled files: hash, btree (berkeley.py), cdb, lmdb, looked up in a thread, since a disk may be slow.

Contract: a file that was replaced or changed is opened again at the next look-up; hash, btree and lmdb files are read
under a shared lock (flock), since postmap(1) writes them in place under an exclusive one. Postfix ends keys and values
of some types with NUL: both are tried. Each table has one thread, which alone touches the open file. What failure
means for the mail: a damaged or locked file puts off.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from appliance.mail.ports import Unavailable
from appliance.tables.proxied import berkeley, cdb, lmdbfile
from appliance.tables.proxied.base import Bad, Step
from appliance.tables.proxied.threads import Threads

#: Seconds to wait for whoever writes the file.
LOCK = 5.0
Stamp = tuple[int, int, int]


class Reader(Protocol):
    """An open file. Raises ValueError for damage, OSError."""

    def get(self, key: bytes) -> bytes | None: ...

    def keys(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


#: type -> (opens a descriptor or path, read under a lock)
_READERS: dict[str, tuple[Callable[[int, str], Reader], bool]] = {
    "hash": (berkeley.opened, True),
    "btree": (berkeley.opened, True),
    "lmdb": (lmdbfile.opened, True),
    "cdb": (cdb.opened, False),
}


class FileTable:
    """One file."""

    remembered = False
    deadline = 10.0
    slots = 1

    def __init__(self, kind: str, path: str) -> None:
        self.path = path
        self._open, self._locked = _READERS[kind]
        self._reader: Reader | None = None
        self._fd = -1
        self._stamp: Stamp | None = None
        self._threads = Threads("file", self.slots)
        if not os.access(path, os.R_OK):
            raise Bad(f"{path}: cannot be read by the user of proxymap, or is not there (postmap makes it)")

    async def get(self, key: str, step: Step) -> str | None:
        octets = key.encode("utf-8", "surrogateescape")
        try:
            found = await self._threads.run(self._look, octets, step)
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None
        return None if found is None else found.decode("utf-8", "surrogateescape")

    def sample(self) -> str | None:
        return ""

    def changed(self) -> bool:
        """It sees that for itself."""
        return False

    def close(self) -> None:
        self._threads.close(self._forget)

    def _look(self, key: bytes, step: Step) -> bytes | None:
        step.text = f"reading {self.path}"
        try:
            return self._find(key)
        except (OSError, ValueError):
            self._forget()
            raise

    def _find(self, key: bytes) -> bytes | None:
        seen = Path(self.path).stat()
        stamp = seen.st_mtime_ns, seen.st_size, seen.st_ino
        if self._fd < 0 or (self._stamp is not None and stamp[2] != self._stamp[2]):
            self._forget()
            self._fd = _opened(self.path)
        if self._locked:
            _lock(self._fd)
        try:
            seen = os.fstat(self._fd)
            stamp = seen.st_mtime_ns, seen.st_size, seen.st_ino
            if self._reader is None or stamp != self._stamp:
                if self._reader is not None:
                    self._reader.close()
                self._reader, self._stamp = None, stamp
                self._reader = self._open(self._fd, self.path)
            found = self._reader.get(key + b"\0")
            found = self._reader.get(key) if found is None else found
            return None if found is None else found.removesuffix(b"\0")
        finally:
            if self._locked and self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._reader, self._fd, self._stamp = None, -1, None


def _opened(path: str) -> int:
    """A descriptor, at once. Raises OSError, ValueError for what has no end or nobody writes (a device, a pipe)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise ValueError("is not a regular file")


def _lock(fd: int) -> None:
    """Raises OSError if a writer holds the file for long."""
    end = time.monotonic() + LOCK
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(0, f"locked by a writer for over {LOCK:g} s") from None
            time.sleep(0.01)
        else:
            return


def every_key(kind: str, path: str) -> list[str]:
    """All keys of a file that nobody writes meanwhile. Raises OSError, ValueError."""
    opener, locked = _READERS[kind]
    fd = _opened(path)
    try:
        if locked:
            _lock(fd)
        reader = opener(fd, path)
        try:
            return [key.removesuffix(b"\0").decode("utf-8", "surrogateescape") for key in reader.keys()]  # noqa: SIM118
        finally:
            reader.close()
    finally:
        os.close(fd)
