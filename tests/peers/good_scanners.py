"""Good scanners that are spoken to over a socket, for tests in which they are anything but good (hostile.py)."""

import asyncio
import json
import re
from typing import Any, NamedTuple

from tests.peers.hostile import Good
from tests.peers.icap import Service

CLEAN = b"stream: OK\0"
HAM = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 3\r\nSpam: False ; 1.5 / 5.0\r\n\r\nA,B"
CONTINUE = b"version_server=2\r\nreturn_value=continue\r\nexit_code=0\r\n\r\n"


async def read_clamd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.readexactly(10) == b"zINSTREAM\0"
    while length := int.from_bytes(await reader.readexactly(4), "big"):
        await reader.readexactly(length)


async def read_spamd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def read_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length
    await reader.readexactly(int(length[1]))


async def read_icap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """OPTIONS, which is answered, then one content."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"OPTIONS"):
        writer.write(Service(preview=None).said())
        head = await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"\r\n0\r\n\r\n")


def rspamd_answer(**more: Any) -> bytes:
    body = json.dumps({"action": "no action", "score": 1.5, "required_score": 15.0, "symbols": {}, **more}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n" % len(body) + body


async def read_amavis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


class Kind(NamedTuple):
    """How a kind is played: a good peer, and what its scanner needs besides."""

    good: Good
    options: Any = None


KINDS: dict[str, Kind] = {
    "clamd": Kind(Good(read_clamd, CLEAN)),
    "spamd": Kind(Good(read_spamd, HAM)),
    "icap": Kind(Good(read_icap, b"ICAP/1.0 204 No Content\r\nISTag: x\r\n\r\n")),
    "rspamd": Kind(Good(read_http, rspamd_answer())),
}
