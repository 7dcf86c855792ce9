"""Peers that are well until they have a part of the content, and are killed there, each kind in its own protocol."""

import asyncio
import random
import re
import struct
from typing import Any

from tests.peers.good_milter import GO_ON, OFFER
from tests.peers.hostile import Act, Question, Reader, Writer, reset
from tests.peers.icap import Service


class Death:
    """Takes `octets` of the content in small reads, and is gone; `reached` says how far it came."""

    def __init__(self, octets: int) -> None:
        self.octets, self.reached = octets, 0

    async def dies(self, reader: Reader, writer: Writer) -> None:
        while self.reached < self.octets:
            part = await reader.read(min(4096, self.octets - self.reached))
            if not part:
                raise asyncio.IncompleteReadError(b"", self.octets)
            self.reached += len(part)
        reset(writer)

    async def smtp(self, question: Any, reader: Reader, writer: Writer) -> None:
        """`question`: an SmtpQuestion, whatever its step; it dies behind its 354."""
        question.step = "DATA"
        await question.read(reader, writer)
        writer.write(question.answer)
        await self.dies(reader, writer)

    async def icap(self, _question: Question, reader: Reader, writer: Writer, methods: bytes = b"") -> None:
        service = Service(preview=None)
        service.methods = methods or service.methods
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"OPTIONS"):
            writer.write(service.said())
            head = await reader.readuntil(b"\r\n\r\n")
        assert re.match(rb"RE(SP|Q)MOD ", head)
        await self.dies(reader, writer)

    async def reqmod(self, question: Question, reader: Reader, writer: Writer) -> None:
        """An ICAP service that takes requests alone."""
        await self.icap(question, reader, writer, b"REQMOD")

    async def rspamd(self, _question: Question, reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await self.dies(reader, writer)

    async def milter(self, _question: Question, reader: Reader, writer: Writer) -> None:
        while True:
            size, letter = struct.unpack(">Ic", await reader.readexactly(5))
            if letter == b"B":
                return await self.dies(reader, writer)
            await reader.readexactly(size - 1)
            if letter not in b"DAQK":
                writer.write(OFFER if letter == b"O" else GO_ON)


def dies(kind: str) -> Act:
    """Anywhere in the content: in its first octets, or far behind them."""

    async def dies_in_the_content(question: Question, reader: Reader, writer: Writer) -> None:
        death = Death(int(10 ** random.uniform(0, 5.5)))
        await getattr(death, kind)(question, reader, writer)

    return dies_in_the_content
