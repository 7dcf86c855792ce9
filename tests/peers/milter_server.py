"""A milter played by a test: it agrees to what it is told to, keeps what it hears, and answers each event by its script.

`says` maps the letter of an event to the packets of its answer, each (letter, data), "" the shipped answer (continue); a
callable gets the data. No code of the gateway is used here: framing and offer are written out.
"""

import asyncio
import contextlib
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Packet = tuple[bytes, bytes]
Answer = Sequence[Packet] | Callable[[bytes], Sequence[Packet]]
GO_ON: list[Packet] = [(b"c", b"")]
#: Bits that save the answer to an event.
SILENT = {b"L": 0x80, b"C": 0x1000, b"H": 0x2000, b"M": 0x4000, b"R": 0x8000, b"T": 0x10000, b"N": 0x40000, b"B": 0x80000}
UNANSWERED = b"DAQK"


def packed(packets: Sequence[Packet]) -> bytes:
    return b"".join(struct.pack(">I", len(data) + 1) + letter + data for letter, data in packets)


def header(letter: bytes, name: str, value: str, position: int | None = None) -> Packet:
    """A header edit: b"h" (add), b"i" (insert), b"m" (change)."""
    start = b"" if position is None else struct.pack(">I", position)
    return letter, start + name.encode() + b"\0" + value.encode() + b"\0"


class MilterServer:
    """Listens on 127.0.0.1, or on a unix socket. Use with `async with`."""

    def __init__(
        self,
        says: dict[bytes, Answer] | None = None,
        *,
        version: int = 6,
        actions: int = 0x1FF,
        steps: int = 0,
        macros: bytes = b"",
        path: Path | None = None,
    ) -> None:
        self.says = says or {}
        self.offer = struct.pack(">III", version, actions, steps) + macros
        self.steps, self.path = steps, path
        #: Of each connection: (letter, data) in the order in which they came.
        self.heard: list[list[Packet]] = []
        self.offered: list[tuple[int, ...]] = []
        self.open = 0
        self.closed = asyncio.Event()
        self.closed.set()
        self._server: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def address(self) -> str:
        return f"unix:{self.path}" if self.path else f"inet:127.0.0.1:{self.port}"

    async def __aenter__(self) -> "MilterServer":
        if self.path:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def letters(self, connection: int = -1) -> bytes:
        """What was heard, without macros."""
        return b"".join(letter for letter, _ in self.heard[connection] if letter != b"D")

    def texts(self, letter: bytes, connection: int = -1) -> list[list[bytes]]:
        """The texts of all packets of one letter."""
        return [data.split(b"\0")[:-1] for at, data in self.heard[connection] if at == letter]

    def macros(self, of: bytes, connection: int = -1) -> dict[str, str]:
        """The macros that came with an event."""
        found: dict[str, str] = {}
        for letter, data in self.heard[connection]:
            if letter == b"D" and data[:1] == of:
                parts = data[1:].decode().split("\0")
                found |= dict(zip(parts[::2], parts[1::2], strict=False))
        return found

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        mine: list[Packet] = []
        self.heard.append(mine)
        self.open += 1
        self.closed.clear()
        try:
            while True:
                size = struct.unpack(">I", await reader.readexactly(4))[0]
                packet = await reader.readexactly(size)
                letter, data = packet[:1], packet[1:]
                mine.append((letter, data))
                if letter == b"Q":
                    return
                if (answer := self._answer(letter, data)) is None:
                    return
                writer.write(packed(answer))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            if not self.open:
                self.closed.set()
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    def _answer(self, letter: bytes, data: bytes) -> Sequence[Packet] | None:
        """None: hang up."""
        if letter == b"O":
            self.offered.append(struct.unpack(">III", data))
            return [(b"O", self.offer)]
        if letter in UNANSWERED:
            return []
        said = self.says.get(letter, GO_ON)
        said = said(data) if callable(said) else said
        return [] if self.steps & SILENT.get(letter, 0) and said is GO_ON else said
