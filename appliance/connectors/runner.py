"""The runner as scanners see it: a program run over a content, or a content lent as a file, in another process.

Contract: `run` and `lend` answer, or raise NoAnswer; cancelled, or left, the other side is told that nobody waits. One
channel a worker, connected when it is needed. What failure means for the mail: NoAnswer is "not scanned".
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator

import msgspec

from appliance.connectors.conversation import NoAnswer
from appliance.connectors.source import Source
from appliance.mail.running import Ask, Done, Outcome, decode_outcome
from appliance.net.channel import Channel, connect
from appliance.observe import oplog

log = oplog.get("scanner")


class Runner:
    """Give it up with close()."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._channel: Channel | None = None
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
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
    async def _ask(self, scanner: str, source: Source) -> AsyncIterator[Outcome]:
        channel, number = self._connected(), next(self._ids)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            fd, offset = source.descriptor()
            try:
                channel.send(Ask(number, scanner, offset, source.size), (fd,))
            finally:
                os.close(fd)
            yield await future
        except ConnectionError as error:
            raise NoAnswer("the connection to the runner is gone") from error
        finally:
            self._waiting.pop(number, None)
            with contextlib.suppress(ConnectionError):
                channel.send(Done(number))

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
        for fd in fds:  # it has no reason to send any
            os.close(fd)
        try:
            outcome = decode_outcome(payload)
        except msgspec.DecodeError as error:
            log.error("the runner answered what is no outcome", why=str(error))
            if self._channel is not None:
                self._channel.close()
            return
        future = self._waiting.get(outcome.id)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _gone(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NoAnswer("the runner hung up"))

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
