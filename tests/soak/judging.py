"""What a played peer says depends on what it is asked: refusal where the question has the word `evil`, else what is good.

So every lane has one law, whatever its peer does: evil mail is not taken (or carries the mark that its policy defines),
good mail is never refused for good.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

from tests.peers.hostile import Question, Reader, Writer

EVIL = re.compile(rb"evil|EICAR|WDVPIVAl")  # and the scanners' own self-test, also in base64


class Overheard:
    """A StreamReader that remembers what was read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.heard = bytearray()

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._reader, name)

        async def reads(*args: Any) -> bytes:
            octets: bytes = await inner(*args)
            self.heard += octets
            return octets

        return reads


class Judged:
    """A Question whose answer is `bad` where `evil(what was asked)`."""

    def __init__(self, inner: Question, good: bytes, bad: bytes, evil: Callable[[bytes], bool]) -> None:
        self._inner, self._good, self._bad, self._evil = inner, good, bad, evil
        self.answer = good

    async def read(self, reader: Reader, writer: Writer) -> None:
        overheard = Overheard(reader)
        await self._inner.read(cast("asyncio.StreamReader", overheard), writer)
        self.answer = self._bad if self._evil(bytes(overheard.heard)) else self._good


def says_evil(octets: bytes) -> bool:
    return EVIL.search(octets) is not None


def names_nobody_good(octets: bytes) -> bool:
    """For tables of who is known: neither evil addresses nor the shorter keys that are asked for behind them."""
    return b"good" not in octets


def judged(inner: Question, good: bytes, bad: bytes, evil: Callable[[bytes], bool] = says_evil) -> Callable[[], Question]:
    """A factory for Hostile: each connection has a question of its own."""
    return lambda: Judged(inner, good, bad, evil)
