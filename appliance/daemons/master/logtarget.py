"""Where the mail log goes, opened by the master: stderr, a file (rotated by others), the local syslog.

Contract: each second the place is looked at; a file that was moved away or a syslog that came back is opened anew and
its descriptor goes to all processes. A target that cannot be opened is said, and stderr takes the lines meanwhile.
"""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from appliance.observe import oplog

log = oplog.get("master")
SYSLOG = "/dev/log"
Mark = tuple[int, ...] | None


class LogTarget:
    """`target` as in [logging]: "stderr", "syslog", "syslog:/path" or a file. `on_change(fd)` after a reopening."""

    def __init__(self, target: str, gid: int | None, on_change: Callable[[int], None]) -> None:
        self._path = "" if target == "stderr" else target
        self._syslog = target == "syslog" or target.startswith("syslog:")
        if self._syslog:
            self._path = target.partition(":")[2] or SYSLOG
        self._gid, self._on_change = gid, on_change
        self.fd = 2
        self.problem = ""
        self._mark: Mark = None
        if self._path:
            self._open()

    def look(self, *, force: bool = False) -> None:
        """Open anew if the path leads elsewhere now (each second), or in any case (`force`, SIGHUP)."""
        if not self._path:
            return
        mark = _mark(self._path)
        if force or mark != self._mark or self.fd == 2:
            before = self.fd
            self._open()
            if self.fd != before:
                self._on_change(self.fd)
                if before > 2:
                    os.close(before)

    def _open(self) -> None:
        before = _mark(self._path)
        try:
            fd = self._connected() if self._syslog else self._file()
        except OSError as error:
            problem = f"cannot write the mail log to {self._path}: {error.strerror}; it goes to stderr meanwhile"
            if problem != self.problem:
                log.error(problem)
            self.problem, self.fd, self._mark = problem, 2, None
            return
        # As it was before: what takes its place while it is opened is found by the next look. A file may have been made.
        self.problem, self.fd, self._mark = "", fd, before if self._syslog else _marked(os.fstat(fd))

    def _file(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o640)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and self._gid is not None and os.fstat(fd).st_size == 0:
                os.fchown(fd, -1, self._gid)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _connected(self) -> int:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock.detach()


def _mark(path: str) -> Mark:
    """What the path leads to. Our open file keeps its inode from being used again; a socket's may be, at once."""
    try:
        return _marked(Path(path).stat())
    except OSError:
        return None


def _marked(found: os.stat_result) -> Mark:
    at = found.st_ctime_ns if stat.S_ISSOCK(found.st_mode) else 0
    return found.st_dev, found.st_ino, at
