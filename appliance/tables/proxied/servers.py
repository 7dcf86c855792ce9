"""socketmap and tcp tables: one line or netstring asks, one answers, over a few kept connections.

Contract: a connection that was kept may be gone: then the question is asked once more over a new one; after any
other trouble the connection is thrown away. No answer is taken that is not whole, or behind which more stands. What
failure means for the mail: put off.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from appliance.mail.ports import Unavailable
from appliance.protocol import socketmap, tcp_table
from appliance.protocol.errors import ProtocolError
from appliance.tables.proxied.base import Step
from appliance.tables.proxied.names import Names
from appliance.tables.text import TableError

#: Connections that are kept, and for how many seconds: without a question (Postfix socketmap: 10), and in all (100).
KEEP, IDLE, LIFE = 4, 10.0, 100.0
_READ = 65536


class Place(NamedTuple):
    """A unix socket, or host and port; `more`: what else tells it from another (a database of the same host)."""

    path: str
    host: str
    port: int
    more: str = ""

    def __str__(self) -> str:
        return (f"unix:{self.path}" if self.path else f"{self.host}:{self.port}") + self.more


class Reader(Protocol):
    @property
    def complete(self) -> bool: ...

    def feed(self, data: bytes) -> None: ...

    def end(self) -> bytes: ...


class Wire(NamedTuple):
    """A protocol: the octets of a question, what collects an answer, and what an answer says (raises Unavailable)."""

    ask: Callable[[str], bytes]
    reader: Callable[[], Reader]
    read: Callable[[bytes], str | None]


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.born = self.used = time.monotonic()

    @property
    def fresh(self) -> bool:
        now = time.monotonic()
        return now - self.used < IDLE and now - self.born < LIFE and not self.writer.is_closing()


async def quiet(reader: asyncio.StreamReader) -> bool:
    """Whether nothing came, not even the end (or a reset), that nobody asked for."""
    if reader.exception() is not None:
        return False
    try:
        async with asyncio.timeout(0):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


class Gone(Exception):
    """The connection ended before an answer began."""


class ServerTable:
    """One table of one server."""

    remembered = True
    deadline = 10.0
    slots = 16

    def __init__(self, place: Place, wire: Wire) -> None:
        self._place, self._wire = place, wire
        self._names = Names("server", 1)
        self._kept: list[_Connection] = []
        self._closed = False

    async def get(self, key: str, step: Step) -> str | None:
        try:
            question = self._wire.ask(key)
            connection = await self._take()
            if connection is not None:
                try:
                    return await self._exchange(connection, question, step)
                except Gone:
                    pass
            step.text = f"connecting to {self._place}"
            return await self._exchange(await self._connect(), question, step)
        except Gone as error:
            raise Unavailable(f"{self._place}: {error}") from None
        except (OSError, ProtocolError) as error:
            raise Unavailable(f"{self._place}: {getattr(error, 'strerror', None) or error}") from None

    async def _take(self) -> _Connection | None:
        """A kept connection on which nothing came since its last answer."""
        while self._kept:
            connection, silent = self._kept.pop(), False
            try:
                silent = connection.fresh and await quiet(connection.reader)
            finally:  # also of who is cancelled meanwhile
                if not silent:
                    connection.writer.transport.abort()
            if silent:
                return connection
        return None

    async def _connect(self) -> _Connection:
        place = self._place
        if place.path:
            return _Connection(*await asyncio.open_unix_connection(place.path))
        *others, last = await self._names.addresses(place.host)
        for found in others:
            with contextlib.suppress(OSError):
                return _Connection(*await asyncio.open_connection(found, place.port))
        return _Connection(*await asyncio.open_connection(last, place.port))

    async def _exchange(self, connection: _Connection, question: bytes, step: Step) -> str | None:
        """One question over this connection, which is kept if all went well. Raises Gone."""
        done = False
        try:
            step.text = f"asking {self._place}"
            connection.writer.write(question)
            await connection.writer.drain()
            step.text = f"waiting for the answer of {self._place}"
            payload = await self._read(connection, self._wire.reader())
            done = True
        except ConnectionError as error:
            raise Gone(error.strerror or str(error)) from None
        finally:
            if done and len(self._kept) < KEEP and not self._closed:
                connection.used = time.monotonic()
                self._kept.append(connection)
            else:
                connection.writer.transport.abort()
        return self._wire.read(payload)

    async def _read(self, connection: _Connection, reader: Reader) -> bytes:
        begun = False
        while not reader.complete:
            data = await connection.reader.read(_READ)
            if not data:
                if not begun:
                    raise Gone("hung up without an answer")
                break
            begun = True
            reader.feed(data)
        return reader.end()

    def sample(self) -> str | None:
        return ""

    def changed(self) -> bool:
        """Its address is its name."""
        return False

    def close(self) -> None:
        self._closed = True
        for connection in self._kept:
            connection.writer.transport.abort()
        self._kept.clear()
        self._names.close()


def _socketmap_says(payload: bytes) -> str | None:
    found = socketmap.read_answer(payload)
    if found.state == socketmap.FOUND:
        return found.text
    if found.state == socketmap.NOT_FOUND:
        return None
    raise Unavailable(f"answers {found.state} {found.text[:200]}")


def _tcp_says(payload: bytes) -> str | None:
    found = tcp_table.read_answer(payload)
    if found.code == tcp_table.FOUND:
        return found.text
    if found.code == tcp_table.NOT_FOUND:
        return None
    raise Unavailable(f"answers {found.code} {found.text[:200]}")


def socket_table(name: str) -> ServerTable:
    """`inet:host:port:map` or `unix:path:map`. Raises TableError."""
    kind, _, rest = name.partition(":")
    where, _, map_ = rest.rpartition(":")
    if kind == "unix" and where and map_:
        place = Place(where, "", 0)
    elif kind == "inet" and map_:
        place = address(where)
    else:
        raise TableError("write socketmap:inet:host:port:name or socketmap:unix:path:name")
    wire = Wire(lambda key: socketmap.question(map_, key), socketmap.NetstringReader, _socketmap_says)
    return ServerTable(place, wire)


def tcp(name: str) -> ServerTable:
    """`host:port`. Raises TableError."""
    return ServerTable(address(name), Wire(tcp_table.question, tcp_table.LineReader, _tcp_says))


def address(text: str, default: int = 0) -> Place:
    """`host:port`, `[address]:port`; `host` alone where there is a `default` port. Raises TableError."""
    host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if default and (not host or ("[" not in text and text.count(":") > 1)):
        host, port = text, str(default)
    port = port or str(default or "")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise TableError(f'"{text}" is no address: write host:port or [address]:port')
    return Place("", host.strip("[]"), int(port))
