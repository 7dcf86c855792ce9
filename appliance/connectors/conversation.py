"""One question to a scanner over a connection of its own, one answer, and the connection is gone.

Contract: works on plain sockets of the running loop: no task and no timer a chunk. It has no deadline of its own; the
caller puts one around the whole of it. A peer that hangs up while we still send may have answered already: the answer is
read first. NoAnswer: nothing came back, another server may be asked. ProtocolError: something came that is no answer.
What failure means for the mail: both are "not scanned".
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from appliance.observe.text import in_words
from appliance.protocol.errors import ProtocolError

#: Seconds for a connection to come up, and for the end of the stream behind a whole answer.
CONNECT, GRACE = 5.0, 1.0
#: Octets after which others on the loop get their turn, however fast the peer takes them.
BURST = 1024 * 1024
_READ = 65536

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class NoAnswer(Exception):
    """The server gave no answer: not there, or hung up before its first octet."""


class Server(NamedTuple):
    """Where a scanner listens: a unix socket, or host (address or name) and port. `program`: what is run instead, by
    whoever listens there."""

    path: str = ""
    host: str = ""
    port: int = 0
    program: str = ""

    def __str__(self) -> str:
        if self.program:
            return self.program
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Reader(Protocol[T_co]):
    """Collects an answer (protocol.clamd.ReplyReader, protocol.spamd.ReplyReader)."""

    @property
    def complete(self) -> bool: ...

    def feed(self, data: bytes) -> None: ...

    def end(self) -> T_co: ...


class Question(NamedTuple, Generic[T]):
    """`pieces` are sent one after the other; `half_close`: then the sending side is shut."""

    pieces: Iterator[bytes]
    reader: Reader[T]
    half_close: bool = False


class Progress:
    """How far a question got; for the log when it got no further."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.phase = "waiting for its turn"
        #: Why not all of the question was sent, if so.
        self.broken = ""

    def __str__(self) -> str:
        return f"{self.phase} {self.server}" if self.server else self.phase


async def ask(server: Server, question: Question[T], progress: Progress) -> T:
    """The answer. Raises NoAnswer, ProtocolError, and whatever `question.pieces` raises."""
    loop = asyncio.get_running_loop()
    with await connect(server, progress) as sock:
        await exchange(sock, question, progress)
        if not question.reader.complete:
            return question.reader.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await _read(loop, sock, question.reader, to_the_end=True)
        return question.reader.end()


async def exchange(sock: socket.socket, question: Question[T], progress: Progress) -> None:
    """Send the question, feed its reader until it is complete, or the stream ends. Raises NoAnswer, ProtocolError, and
    whatever `question.pieces` raises."""
    loop = asyncio.get_running_loop()
    progress.phase = "sending to"
    progress.broken = await _send(loop, sock, question)
    if not progress.broken:  # else that is where it ended, though an answer may be there still
        progress.phase = "waiting for the answer of"
    if not await _read(loop, sock, question.reader):
        raise NoAnswer(f"hung up without an answer{f' ({progress.broken})' if progress.broken else ''}")


async def connect(server: Server, progress: Progress) -> socket.socket:
    """A new connection. Raises NoAnswer."""
    progress.server, progress.phase = server, "connecting to"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT):
            return await _dial(loop, server)
    except TimeoutError:
        raise NoAnswer(f"no connection within {CONNECT:g} s") from None
    except OSError as error:
        raise NoAnswer(f"cannot connect: {in_words(error)}") from error


async def _dial(loop: asyncio.AbstractEventLoop, server: Server) -> socket.socket:
    family, address = await _resolve(loop, server)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if server.path:
            while not _connected(sock, server.path):  # noqa: ASYNC110 - nothing else tells of room in a backlog
                await asyncio.sleep(0.05)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _resolve(loop: asyncio.AbstractEventLoop, server: Server) -> tuple[int, tuple[str, int]]:
    """The address family and the address to connect to. Raises OSError for a name that leads nowhere."""
    if server.path:
        return socket.AF_UNIX, ("", 0)
    try:
        version = ipaddress.ip_address(server.host).version
    except ValueError:
        found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        return found[0][0], (str(found[0][4][0]), server.port)
    return (socket.AF_INET6 if version == 6 else socket.AF_INET), (server.host, server.port)


def _connected(sock: socket.socket, path: str) -> bool:
    """A unix socket whose backlog is full says EAGAIN, and nothing tells when it has room again."""
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


async def _send(loop: asyncio.AbstractEventLoop, sock: socket.socket, question: Question[T]) -> str:
    """Send everything; why that ended early, or ""."""
    sent = 0
    for piece in question.pieces:
        try:
            await loop.sock_sendall(sock, piece)
        except OSError as error:
            return error.strerror or str(error)
        sent += len(piece)
        if sent >= BURST:
            sent = 0
            await asyncio.sleep(0)
    if question.half_close:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
    return ""


async def _read(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, reader: Reader[T], *, to_the_end: bool = False
) -> bool:
    """Feed `reader` until it is complete (or the stream ends); whether anything came."""
    heard = False
    while to_the_end or not reader.complete:
        try:
            data = await loop.sock_recv(sock, _READ)
        except OSError as error:
            if not heard and not to_the_end:
                raise NoAnswer(f"hung up: {error.strerror or error}") from error
            if reader.complete:
                return True
            raise ProtocolError(f"hung up in its answer: {error.strerror or error}") from error
        if not data:
            break
        heard = True
        reader.feed(data)
    return heard
