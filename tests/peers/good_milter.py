"""A milter that is well until a step of its session, for tests in which it is not from there on (hostile.py)."""

import asyncio
import struct

from tests.peers.hostile import Good
from tests.peers.milter_server import packed

OFFER = packed([(b"O", struct.pack(">III", 6, 0x1FF, 0))])
GO_ON = packed([(b"c", b"")])
#: The events of a session in order, each with the stage at which it is said.
STEPS = ("negotiation", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "header", "body", "END-OF-MESSAGE")
_LETTERS = dict(zip(STEPS, (b"O", b"C", b"H", b"M", b"R", b"T", b"L", b"B", b"E"), strict=True))


def good(step: str) -> Good:
    """A milter that is well until `step`: the question is that event, and what is before it is answered on the way."""
    wanted = _LETTERS[step]

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            size = struct.unpack(">I", await reader.readexactly(4))[0]
            letter = (await reader.readexactly(size))[:1]
            if letter == wanted:
                return
            if letter not in b"DAQK":
                writer.write(OFFER if letter == b"O" else GO_ON)

    return Good(read, OFFER if step == "negotiation" else packed([(b"c", b"")]))
