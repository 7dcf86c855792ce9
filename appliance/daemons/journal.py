"""The journal: keeps one JSON event a message, writes them to the mail log, and serves /metrics.

Contract: events come as lines of JSON over the rendezvous socket and are kept as they are (control characters escaped),
in the order of each sender. What failure means for the mail: nothing; while this process is away the senders keep their
events in a bounded buffer and count what they drop.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from appliance.config.snapshot import Snapshot
from appliance.daemons.skeleton import Birth
from appliance.observe import maillog, metrics, oplog
from appliance.observe.journal_files import JournalFiles

log = oplog.get("journal")
#: A longer line is no event of ours.
LONGEST = 1024 * 1024
_EXPIRE = 60.0
_REQUEST = 8192
#: Seconds for one /metrics request.
_PATIENCE = 10.0

#: What needs no escaping, and line ends, stays; all else is something else.
_PLAIN = bytes(octet if 0x20 <= octet < 0x7F or octet == 0x0A else 0x20 for octet in range(256))
_kept = metrics.counter("postgate_journal_events_total", "Events kept in the journal.")
_lost = metrics.counter("postgate_journal_lost_total", "Events that could not be written (disk full).")


def printable(line: str) -> str:
    """JSON with what a terminal must not see escaped; it stays the same value."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def split(lines: bytes) -> list[bytes]:
    """lines.split(b"\\n"), which looks at each octet by itself: on lines of a KB this takes a third of the time."""
    found, at, find = [], 0, lines.find
    while (end := find(b"\n", at)) >= 0:
        found.append(lines[at:end])
        at = end + 1
    found.append(lines[at:])
    return found


class _Sender(asyncio.Protocol):
    """One process's connection."""

    def __init__(self, keep: "Journal") -> None:
        self._keep = keep
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._keep.joined(transport)

    def data_received(self, data: bytes) -> None:
        whole, end, rest = data.rpartition(b"\n")
        if not end:
            self._rest += data
        else:
            self._keep.take(self._rest + whole)
            self._rest = rest
        if len(self._rest) > LONGEST:
            log.warning("a process sent what is no event", octets=len(self._rest))
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._keep.left(self._transport)


class Journal:
    """The daemon (skeleton.Daemon)."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        logging = birth.snapshot.wiring.logging
        self._files = JournalFiles(birth.state_dir / "journal", logging.journal_age, logging.journal_size)
        self._to_log = logging.events
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem = ""
        self._senders: set[asyncio.BaseTransport] = set()
        self._alone = asyncio.Event()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._birth.listening["unix:journal"]:
            self._servers.append(await loop.create_unix_server(lambda: _Sender(self), sock=sock))
        for sock in self._birth.listening.get("metrics", ()):
            serve = asyncio.start_unix_server if sock.family.name == "AF_UNIX" else asyncio.start_server
            self._servers.append(await serve(self._scrape, sock=sock))
        self._expire()

    def joined(self, sender: asyncio.BaseTransport) -> None:
        self._senders.add(sender)
        self._alone.clear()

    def left(self, sender: asyncio.BaseTransport) -> None:
        self._senders.discard(sender)
        if not self._senders:
            self._alone.set()

    def take(self, lines: bytes) -> None:
        """Keep whole lines: as they came if none needs escaping."""
        found = split(lines)
        if lines.translate(_PLAIN) != lines or b"" in found:
            text = lines.decode("utf-8", "backslashreplace")
            found = [printable(line).encode() for line in text.split("\n") if line]
            lines = b"\n".join(found)
        if found:
            if self._to_log:
                maillog.raw("event", found)
            self._append(lines + b"\n", len(found))

    def _append(self, lines: bytes, count: int) -> None:
        try:
            self._files.append(lines)
        except OSError as error:
            _lost.inc(count)
            self._trouble(f"the journal cannot be written: {error.strerror}")
        else:
            _kept.inc(count)
            self._problem = ""

    def _trouble(self, text: str) -> None:
        if text != self._problem:
            log.error(text)
        self._problem = text

    def _expire(self) -> None:
        asyncio.get_running_loop().call_later(_EXPIRE, self._expire)
        try:
            gone = self._files.expire(time.time())
        except OSError as error:
            self._trouble(f"old journal files cannot be deleted: {error.strerror}")
            return
        if gone:
            log.info("old journal files deleted", files=len(gone), last=gone[-1].name)

    async def _scrape(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One HTTP request: GET /metrics."""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = await self._page(head[:_REQUEST].split(b" ", 2))
                kind = metrics.CONTENT_TYPE if status.startswith("200") else "text/plain"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()

    async def _page(self, request: list[bytes]) -> tuple[str, bytes]:
        if request[0] not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", b"only GET\n"
        if len(request) < 3 or request[1].split(b"?")[0] not in (b"/metrics", b"/"):
            return "404 Not Found", b"see /metrics\n"
        try:
            return "200 OK", await self._merged()
        except (OSError, ValueError, KeyError) as error:
            log.warning("metrics cannot be collected", reason=str(error))
            return "503 Service Unavailable", b"the master does not answer\n"

    async def _merged(self) -> bytes:
        """The master asks all processes and adds up."""
        reader, writer = await asyncio.open_unix_connection(self._birth.rendezvous["control"], limit=1 << 26)
        try:
            writer.write(b'{"op":"metrics"}\n')
            answer = json.loads(await reader.readline())
        finally:
            writer.close()
        return str(answer["text"]).encode()

    def prepare(self, snapshot: Snapshot) -> None:
        """Nothing in the files can be wrong for the journal."""

    def commit(self, snapshot: Snapshot) -> None:
        logging = snapshot.wiring.logging
        self._to_log, self._files.age, self._files.size = logging.events, logging.journal_age, logging.journal_size

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """It speaks no TLS."""

    async def drain(self, grace: float) -> None:
        """The others are gone already: take what they left in the sockets, then end."""
        for server in self._servers:
            server.close()
        if self._senders:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._alone.wait(), min(grace, 1.0))
        self._files.close()

    def health(self) -> dict[str, Any]:
        return {"degraded": [self._problem] if self._problem else [], "senders": len(self._senders)}


def create(birth: Birth) -> Journal:
    return Journal(birth)
