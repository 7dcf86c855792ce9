"""Small durable steps on files: each says what is on disk when it returns. All raise OSError."""

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path

_PIECE = 1 << 20


def sync_folder(folder: Path) -> None:
    """The names in `folder` are durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unlink(path: Path, let_go: Callable[[int], object]) -> None:
    """The name `path` is gone. Its octets are freed when `let_go` closes the descriptor that it gets: many take the disk
    long, so that is for a thread."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # no such file, or no descriptor is left: then it takes its time
        path.unlink(missing_ok=True)
        return
    try:
        path.unlink(missing_ok=True)
    finally:
        let_go(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write every octet of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def create(path: Path, pieces: Iterable[bytes]) -> int:
    """`path` (made or overwritten) holds `pieces`; the caller syncs and closes it. On an error it is removed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for piece in pieces:
            write_all(fd, piece)
    except Exception:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """`path` (made or overwritten) holds `pieces`, durably, its name not yet. On an error it is removed."""
    fd = create(path, pieces)
    try:
        os.fsync(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def octets_of(path: Path, start: int, end: int | None = None) -> Iterable[bytes]:
    """Octets [start, end) of a file in pieces; stops early if it ends before."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while (count := _PIECE if end is None else min(_PIECE, end - start)) > 0:
            piece = os.pread(fd, count, start)
            if not piece:
                return
            yield piece
            start += len(piece)
    finally:
        os.close(fd)


def held(path: Path) -> bool:
    """True if a living process holds the lock that came with the grant of this file (docs/queue.md, handshake)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def create_locked(path: Path) -> int:
    """A new empty file, locked: the lock lives as long as any copy of the descriptor, in whatever process. Mode 0644
    lets the worker open it again read-only through its descriptor (the folder is closed to it)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd
