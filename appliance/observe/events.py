"""One JSON event a message to the journal daemon.

Contract: `emit` never blocks and never raises. Events of 5 ms go out in one write; while the journal is away they
wait in a bounded buffer, beyond it they are dropped and counted: mail flows on. On the wire an event is one line of
JSON, so the journal writes what it reads without decoding it. An event whose line was written half when the journal died
is sent again whole.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from appliance.observe import metrics

#: Octets of events that may wait for the journal.
BACKLOG = 8 * 1024 * 1024
_RETRY = 0.5
#: Seconds that an event waits for company: more of them together keep the journal, and who needs its processor, longer.
LINGER = 0.005
_BATCH = 65536

_dropped = metrics.counter("postgate_events_dropped_total", "Journal events dropped because the journal was away.")
_emitted = metrics.tally("postgate_events_total", "Journal events emitted.").counts
_encode = msgspec.json.Encoder().encode


class _Sender:
    """The connection to the journal at `path` ("" = no journal: events are dropped silently)."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.waiting: deque[bytes] = deque()
        self.octets = 0
        self._sock: socket.socket | None = None
        self._sent = 0  # octets of the first waiting event that are gone already
        self._due = False
        #: The loop that says when the journal takes more.
        self._watching: asyncio.AbstractEventLoop | None = None

    def put(self, line: bytes) -> None:
        if self.octets > BACKLOG:
            _dropped.inc()
            return
        self.waiting.append(line)
        self.octets += len(line)
        if not self._due:
            self._later(LINGER)

    def put_all(self, lines: Sequence[bytes]) -> None:
        """All of them, or none."""
        if self.octets > BACKLOG:
            _dropped.inc(len(lines))
            return
        self.waiting.extend(lines)
        self.octets += sum(map(len, lines))
        if not self._due:
            self._later(LINGER)

    def _later(self, delay: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if delay <= LINGER:  # no loop runs: nothing comes later
                self.flush()
            return
        self._due = True
        loop.call_later(delay, self.flush)

    def flush(self) -> None:
        self._due = False
        try:
            while self.waiting:
                self._push(self._connected())
            self._watch_no_more()
        except BlockingIOError:
            self._when_taken()
        except OSError:
            self.close()
            self._later(_RETRY)

    def _when_taken(self) -> None:
        """Go on once the journal has read."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop runs: the next event tries again
        if self._watching is not loop and self._sock is not None:
            self._watch_no_more()
            loop.add_writer(self._sock, self.flush)
            self._watching = loop
        self._due = True

    def _watch_no_more(self) -> None:
        loop, self._watching = self._watching, None
        if loop is not None and self._sock is not None and not loop.is_closed():
            loop.remove_writer(self._sock)

    def _connected(self) -> socket.socket:
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                sock.connect(self.path)
            except OSError as error:
                sock.close()
                raise ConnectionError(str(error)) from error
            self._sock = sock
        return self._sock

    def _push(self, sock: socket.socket) -> None:
        batch, size = [], 0
        for line in self.waiting:
            batch.append(line)
            size += len(line)
            if size > _BATCH:
                break
        sent = sock.send(memoryview(b"".join(batch))[self._sent :]) + self._sent
        while self.waiting and sent >= len(self.waiting[0]):
            size = len(self.waiting.popleft())
            sent -= size
            self.octets -= size
        self._sent = sent

    def close(self) -> None:
        self._watch_no_more()
        self._sent = 0
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.close()
            self._sock = None


_sender = _Sender()
_settling: list[Callable[[], None]] = []


def configure(path: str) -> None:
    """Send to the journal's socket `path`; "" switches events off."""
    global _sender
    _sender.close()
    _sender = _Sender(path)


def emit(event: dict[str, Any] | msgspec.Struct) -> None:
    """Hand one event to the journal. Values are what JSON knows; octets in strings are the caller's to decode."""
    if not _sender.path:
        return
    _emitted[()] += 1
    try:
        line = _encode(event) + b"\n"
    except (TypeError, ValueError, UnicodeEncodeError):
        _dropped.inc()
        return
    _sender.put(line)


def emit_line(line: bytes) -> None:
    """As emit, for an event that is written already: JSON on one line, with its line feed."""
    if _sender.path:
        _emitted[()] += 1
        _sender.put(line)


def emit_lines(lines: Sequence[bytes]) -> None:
    """As emit_line, of several."""
    if _sender.path:
        _emitted[()] += len(lines)
        _sender.put_all(lines)


def unwritten() -> None:
    """An event could not be written."""
    if _sender.path:
        _emitted[()] += 1
        _dropped.inc()


def waiting() -> int:
    """Events that wait for the journal."""
    return len(_sender.waiting)


def before_flush(settle: Callable[[], None]) -> None:
    """Whoever keeps events, and log lines, for a moment hands them in when a process ends: before this `flush`."""
    _settling.append(settle)


def flush() -> None:
    """Send what waits, as far as the journal takes it now."""
    for settle in _settling:
        settle()
    _sender.flush()
