"""A scripted scanner: a server that does exactly what a test says, and remembers what it was sent."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from appliance.connectors.conversation import Server
from appliance.connectors.scanner import Scanner, Settings
from appliance.mail.context import Client, Context

Act = Callable[["Peer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MAIL = b"Received: from a (a [192.0.2.1])\r\n\tby b (Postgate) with ESMTP id 1;\r\n\tMon, 1 Jan 2024 12:00:00 +0000\r\n"
MAIL += b"Subject: x\r\n\r\nhello\r\n"
FOUND = b"stream: Eicar-Test-Signature FOUND\0"


class Message:
    """mail.ports.Content without a descriptor: for small messages."""

    header_complete = True

    def __init__(self, octets: bytes = MAIL) -> None:
        self.octets = octets
        self.opened = 0

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def header(self) -> bytes:
        return self.octets[: self.octets.find(b"\r\n\r\n") + 4]

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        for start in range(0, len(self.octets), size):
            yield self.octets[start : start + size]

    def open_fd(self) -> int:
        self.opened += 1
        raise OSError("no descriptor")


def context(transaction: str = "T1", client: str = "192.0.2.1") -> Context:
    return Context(stage="message", transaction=transaction, client=Client(address=client))


class Peer:
    """`act` is done with each connection; connections are counted, what came is kept in `heard`."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.connections = self.open = self.most_open = 0
        self.heard: list[bytes] = []
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()

    async def __aenter__(self) -> "Peer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 27)
        self.server = Server(host="127.0.0.1", port=self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self.act(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def whole_stream(reader: asyncio.StreamReader) -> bytes:
    """The content of one INSTREAM."""
    assert await reader.readexactly(10) == b"zINSTREAM\0"
    content = b""
    while length := int.from_bytes(await reader.readexactly(4), "big"):
        content += await reader.readexactly(length)
    return content


def says(answer: bytes) -> Act:
    """Read the whole question, say this, hang up."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.heard.append(await whole_stream(reader))
        peer.arrived.set()
        writer.write(answer)

    return act


def says_when_told(answer: bytes) -> Act:
    """As `says`, but not before `peer.go` is set."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.heard.append(await whole_stream(reader))
        peer.arrived.set()
        await peer.go.wait()
        writer.write(answer)

    return act


def says_when_found(sign: bytes, found: bytes, other: bytes) -> Act:
    """`found` where `sign` stands in what came, `other` where not."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.heard.append(await whole_stream(reader))
        writer.write(found if sign in peer.heard[-1] else other)

    return act


async def hangs(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything, say nothing."""
    peer.arrived.set()
    await reader.read()


async def hangs_up(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing and go."""


def make(*servers: Server, kind: str = "clamd", timeout: float = 5.0, **more: Any) -> Scanner:
    return Scanner(Settings("av", kind, servers, timeout, **more))
