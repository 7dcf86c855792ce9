"""Where log lines end: a file, stderr (terminal, pipe) or a syslog socket, by descriptor.

Contract: `put` never blocks and never raises: lines are written within LINGER seconds; what the reader does not take
waits in a bounded buffer; what does not fit is dropped and counted. A log that stands still never stops mail.
"""

import asyncio
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable, Sequence

from appliance.observe import metrics

#: Octets that may wait for a slow reader.
BACKLOG = 4 * 1024 * 1024
#: Octets of one write: so much goes into a writable pipe at once, undivided (PIPE_BUF); a file takes any number so.
CHUNK, _FILE_CHUNK = 4096, 65536
_RETRY = 0.1
#: Seconds that a line waits for company: under load one write takes many.
LINGER = 0.02

_dropped = metrics.counter("postgate_log_lines_dropped_total", "Log lines that the log's reader did not take in time.")


class Sink:
    """Lines (octets that end with a line feed) to `fd`, which stays the caller's. A line waits at most `linger` seconds
    (None: LINGER) for company."""

    def __init__(self, fd: int, linger: float | None = None) -> None:
        self._linger = linger
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._due = False
        self.swap(fd)

    def swap(self, fd: int) -> None:
        """Go on with another descriptor (rotation, syslog came back)."""
        self.fd = fd
        self._write, self._chunk = _writer(fd)

    def put(self, line: bytes) -> None:
        """Lines that go together may come as one, but not to a syslog."""
        if self._octets > BACKLOG:
            _dropped.inc(line.count(b"\n"))
            return
        self._waiting.append(line)
        self._octets += len(line)
        if not self._due:
            self._later(LINGER if self._linger is None else self._linger)

    def put_all(self, lines: Sequence[bytes]) -> None:
        """As `put`, for many lines at once: all of them wait, or none."""
        if self._octets > BACKLOG:
            _dropped.inc(len(lines))
            return
        self._waiting.extend(lines)
        self._octets += sum(map(len, lines))
        if not self._due:
            self._later(LINGER if self._linger is None else self._linger)

    def _later(self, delay: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if delay <= LINGER:  # no loop runs (start, end, tests): nothing comes later
                self.flush()
            return
        self._due = True
        loop.call_later(delay, self.flush)

    def flush(self) -> None:
        """Write what waits, as far as the reader takes it now."""
        self._due = False
        while self._waiting:
            batch = self._batch()
            try:
                taken = self._write(self.fd, batch)
            except BlockingIOError:
                taken = False
            except OSError:
                _dropped.inc(sum(lines.count(b"\n") for lines in batch))
                taken = True
            if not taken:
                self._waiting.extendleft(reversed(batch))
                self._later(_RETRY)
                return
            self._octets -= sum(map(len, batch))

    def _batch(self) -> list[bytes]:
        """The next lines that fit into one undivided write (at least one line)."""
        batch: list[bytes] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0]) <= self._chunk):
            line = self._waiting.popleft()
            batch.append(line)
            size += len(line)
        return batch


def _to_file(fd: int, lines: list[bytes]) -> bool:
    data = b"".join(lines)
    return os.write(fd, data) == len(data) or _cut()


def _cut() -> bool:
    raise OSError("short write")


def _to_stream(fd: int, lines: list[bytes]) -> bool:
    """A pipe or terminal may be shared with others, so it is not made non-blocking: it is asked first."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    ready = poll.poll(0)
    if not ready:
        return False
    if ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
        raise OSError("the reader of the log is gone")
    return _to_file(fd, lines)


def _to_syslog(fd: int, lines: list[bytes]) -> bool:
    """One datagram a line. Of a batch that is taken in part the rest is lost: counted as one failed write."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        for line in lines:
            sock.send(line.rstrip(b"\n"), socket.MSG_DONTWAIT)
    return True


def is_syslog(fd: int) -> bool:
    """Whether `fd` is a datagram socket (the local syslog)."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.type == socket.SOCK_DGRAM


def _writer(fd: int) -> tuple[Callable[[int, list[bytes]], bool], int]:
    """How lines are written there, and how many octets at once."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:  # closed stderr: every write fails and is counted
        return _to_file, CHUNK
    if stat.S_ISREG(mode):
        return _to_file, _FILE_CHUNK
    return (_to_syslog if is_syslog(fd) else _to_stream), CHUNK
