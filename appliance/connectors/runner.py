"""The runner as scanners and delivery see it: a program run over a content, a content lent as a file, a filter's command
run over a message, in another process.

Contract: `run`, `lend` and `pipe` answer, or raise NoAnswer; cancelled, or left, the other side hears that nobody waits.
One channel a worker, connected when it is needed. What failure means for the mail: NoAnswer is "not scanned", or put off.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable

import msgspec

from appliance.connectors.conversation import NoAnswer
from appliance.connectors.source import Source
from appliance.mail.piping import Facts
from appliance.mail.running import Answer, Ask, Done, Ended, Outcome, Pipe, decode_answer
from appliance.net.channel import Channel, connect
from appliance.observe import oplog

log = oplog.get("scanner")


class Runner:
    """Give it up with close()."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._channel: Channel | None = None
        #: Over which connection, and for what.
        self._waiting: dict[int, tuple[Channel, asyncio.Future[tuple[Answer, list[int]]]]] = {}
        self._ids = itertools.count(1)

    async def run(self, scanner: str, source: Source) -> Outcome:
        """What the program of this scanner says. Raises NoAnswer, Unavailable."""
        async with self._ask(scanner, source) as outcome:
            return outcome

    @contextlib.asynccontextmanager
    async def lend(self, scanner: str, source: Source) -> AsyncIterator[str]:
        """The folder with the content as a file, as long as the context lasts. Raises NoAnswer, Unavailable."""
        async with self._ask(scanner, source) as outcome:
            if outcome.kind != "lent":
                raise NoAnswer(f"the content cannot be lent: {outcome.why}")
            yield outcome.path

    @contextlib.asynccontextmanager
    async def pipe(self, name: str, fd: int, size: int, facts: Facts) -> AsyncIterator[tuple[Ended, int]]:
        """What the command of the filter `name` made of the first `size` octets of `fd`, and a descriptor of its output
        or -1, as long as the context lasts. Raises NoAnswer."""
        async with self._order(lambda number: Pipe(number, name, 0, size, facts), fd) as (answer, fds):
            if not isinstance(answer, Ended):
                raise NoAnswer("the runner answered for a scanner")
            yield answer, fds[0] if fds else -1

    @contextlib.asynccontextmanager
    async def _ask(self, scanner: str, source: Source) -> AsyncIterator[Outcome]:
        fd, offset = source.descriptor()
        try:
            order = self._order(lambda number: Ask(number, scanner, offset, source.size), fd)
            async with order as (answer, _):
                if not isinstance(answer, Outcome):
                    raise NoAnswer("the runner answered for a filter")
                yield answer
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def _order(self, make: Callable[[int], Ask | Pipe], fd: int) -> AsyncIterator[tuple[Answer, list[int]]]:
        """`fd` stays the caller's."""
        channel, number = self._connected(), next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = channel, future
        try:
            channel.send(make(number), (fd,))
            yield await future
        except ConnectionError as error:
            raise NoAnswer("the connection to the runner is gone") from error
        finally:
            self._waiting.pop(number, None)
            _release(future)
            with contextlib.suppress(ConnectionError):
                channel.send(Done(number))

    def reach(self) -> None:
        """Be connected. Raises NoAnswer."""
        self._connected()

    def _connected(self) -> Channel:
        if self._channel is not None and not self._channel.closed:
            return self._channel
        try:
            channel = connect(self.path)
        except OSError as error:
            raise NoAnswer(f"the runner is away: {error.strerror or error}") from error
        self._channel = channel
        channel.attach(asyncio.get_running_loop(), self._on_frame, lambda: self._gone(channel))
        return channel

    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        try:
            answer = decode_answer(payload)
        except msgspec.DecodeError as error:
            log.error("the runner answered what is no outcome", why=str(error))
            if self._channel is not None:
                self._channel.close()
            answer = None
        waiting = self._waiting.get(answer.id) if answer is not None else None
        if answer is not None and waiting is not None and not waiting[1].done():
            waiting[1].set_result((answer, fds))
        else:
            for fd in fds:  # nobody waits for them
                os.close(fd)

    def _gone(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
        for asked, future in self._waiting.values():
            if asked is channel and not future.done():
                future.set_exception(NoAnswer("the runner hung up"))

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()


def _release(future: "asyncio.Future[tuple[Answer, list[int]]]") -> None:
    """Close the descriptors of an answer."""
    if future.done() and not future.cancelled() and future.exception() is None:
        for fd in future.result()[1]:
            os.close(fd)
