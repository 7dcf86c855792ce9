"""A server that breaks its protocol in every way that threats.md part 4 knows: one list for all connectors.

A kind of peer says how a question is read and what a good answer is (Good); FAULTS are what is done with them. `trickles`
is odd, but an answer all the same; after any other the one who asked must say "error" in bounded time.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from tests.peers.ports import free_port

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Read = Callable[[Reader, Writer], Awaitable[None]]


class Good(NamedTuple):
    """`read` takes one question off the wire, saying what must be said meanwhile; `answer` is what a good peer says."""

    read: Read
    answer: bytes


class Question(Protocol):
    """What a fault is done with; Good is one, so is whatever knows its answer only behind the question."""

    @property
    def read(self) -> Read: ...
    @property
    def answer(self) -> bytes: ...


Act = Callable[[Question, Reader, Writer], Awaitable[None]]


async def answers(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    writer.write(good.answer)
    await writer.drain()


async def goes_on(good: Question, reader: Reader, writer: Writer) -> None:
    """A good peer of a protocol that keeps its connections."""
    while True:
        await answers(good, reader, writer)


async def refuses(good: Question, reader: Reader, writer: Writer) -> None:
    reset(writer)


async def hangs_at_once(good: Question, reader: Reader, writer: Writer) -> None:
    await asyncio.Event().wait()


async def hangs_behind_the_question(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    await asyncio.Event().wait()


async def hangs_in_its_answer(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    writer.write(good.answer[: len(good.answer) // 2])
    await asyncio.Event().wait()


async def garbage(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    writer.write(bytes(range(256)) * 4)


async def another_protocol(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    writer.write(b"220 mx.example.com ESMTP\r\n\r\n")


async def half_an_answer(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    writer.write(good.answer[: len(good.answer) // 2])


async def two_answers(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    writer.write(good.answer * 2)


async def hangs_up_early(good: Question, reader: Reader, writer: Writer) -> None:
    await reader.read(10)


async def hangs_up_behind_the_question(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)


async def endless(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    writer.write(good.answer[: len(good.answer) // 2])
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def too_late(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    await asyncio.sleep(2.0)  # beyond any deadline that a test sets
    writer.write(good.answer)


async def dies_in_the_body(good: Question, reader: Reader, writer: Writer) -> None:
    await reader.readexactly(50)
    reset(writer)


async def dies_in_its_answer(good: Question, reader: Reader, writer: Writer) -> None:
    """Whatever stands before the question (a login, a negotiation) was well."""
    await good.read(reader, writer)
    writer.write(good.answer[: len(good.answer) // 2])
    await writer.drain()
    reset(writer)


async def trickles(good: Question, reader: Reader, writer: Writer) -> None:
    await good.read(reader, writer)
    for octet in good.answer:
        writer.write(bytes((octet,)))
        await writer.drain()
        await asyncio.sleep(0)


#: All that is no answer. "absent" has no server at all.
FAULTS: dict[str, Act | None] = {
    "absent": None,
    **{
        act.__name__: act
        for act in (
            refuses,
            hangs_at_once,
            hangs_behind_the_question,
            hangs_in_its_answer,
            garbage,
            another_protocol,
            half_an_answer,
            two_answers,
            hangs_up_early,
            hangs_up_behind_the_question,
            endless,
            too_late,
            dies_in_the_body,
            dies_in_its_answer,
        )
    },
}


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a process that is killed does."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Hostile:
    """Listens on 127.0.0.1; `act` may be changed at any time, None = nobody is there. `good` may be something that makes
    the Question of each connection. What is unread is kept up to twice `limit`. Use with `async with`."""

    def __init__(self, good: Question | Callable[[], Question], act: Act | None = answers, limit: int = 1 << 26) -> None:
        self.good, self.act, self.limit = good, act, limit
        self.connections = self.open = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = free_port()  # none that the system gives to whoever connects while we are absent

    async def __aenter__(self) -> "Hostile":
        await self.be(self.act)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.be(None)

    async def be(self, act: Act | None) -> None:
        """From now on."""
        self.act = act
        if act is None and self._server is not None:
            self._server.close()
            self._server = None
        if act is None:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=self.limit)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            if self.act is not None:
                await self.act(self.good() if callable(self.good) else self.good, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()
