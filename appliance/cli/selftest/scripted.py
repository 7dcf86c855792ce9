"""Scripted peers of a self-test: a virus scanner, a spam scanner and a name server that do just what is told.

Contract: they speak clamd's and spamd's protocols, and DNS over UDP, well enough for one question a connection. They live
on the loop of the command; `mute` makes a scanner find nothing, `down` takes it away.
"""

import asyncio
import binascii
import contextlib
import re
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

#: Test strings in halves, so that no scanner takes this file for one.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
GTUBE_SCORE = 1000.0
#: What the virus scanner finds only where it stands as such: it decodes nothing for it.
DECODED = b"SELFTEST-DECODED-PART"
#: Contents that a scanner remembers, and the largest of them.
_REMEMBERED, _SMALL = 300, 65536
_BASE64 = re.compile(rb"(?:^[A-Za-z0-9+/]{4,76}={0,2}\r?\n)+", re.MULTILINE)


def has_eicar(content: bytes) -> bool:
    """As it stands, or in lines of base64."""
    if EICAR in content:
        return True
    for found in _BASE64.finditer(content):
        with contextlib.suppress(binascii.Error):
            if EICAR in binascii.a2b_base64(found[0]):
                return True
    return False


class Scanner:
    """`answer` gets the whole content and gives the octets of the reply; `read` takes the content off the wire."""

    def __init__(self, serve: Callable[[asyncio.StreamReader, "Scanner"], "asyncio.Future[bytes] | object"]) -> None:
        self._serve = serve
        self.port = 0
        self.mute = False
        #: What it was given.
        self.given: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._server: asyncio.Server | None = None

    async def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            answer = await self._serve(reader, self)  # type: ignore[misc]
            writer.write(answer)
            await writer.drain()
        writer.close()


async def clamd(reader: asyncio.StreamReader, scanner: Scanner) -> bytes:
    """INSTREAM: finds EICAR, by a name about which no operator has said anything."""
    await reader.readuntil(b"\0")
    content = b""
    while length := struct.unpack("!I", await reader.readexactly(4))[0]:
        content += await reader.readexactly(length)
    if len(content) <= _SMALL:
        scanner.given.append(content)
    bad = DECODED in content or has_eicar(content)
    return b"stream: Selftest-Signature FOUND\0" if bad and not scanner.mute else b"stream: OK\0"


async def spamd(reader: asyncio.StreamReader, scanner: Scanner) -> bytes:
    """SYMBOLS: GTUBE scores high."""
    content = await reader.read(-1)
    spam = GTUBE in content and not scanner.mute
    rules = b"GTUBE" if spam else b"NONE"
    return b"SPAMD/1.1 0 EX_OK\r\nContent-length: %d\r\nSpam: %s ; %s / 5.0\r\n\r\n%s" % (
        len(rules),
        b"True" if spam else b"False",
        b"%.1f" % (GTUBE_SCORE if spam else 0.0),
        rules,
    )


class Failing(asyncio.DatagramProtocol):
    """A name server that answers SERVFAIL to everything: DNS that is away, without the waiting."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = 0

    async def up(self) -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        self.port = transport.get_extra_info("sockname")[1]

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        if len(data) > 12:
            self._transport.sendto(data[:2] + b"\x81\x82" + data[4:6] + b"\0\0\0\0\0\0" + _question(data), addr)


def _question(data: bytes) -> bytes:
    """The question section of a query with one question."""
    end = data.index(b"\0", 12) + 5
    return data[12:end]
