"""A channel to another of our processes that is dialled for ever: who asks it learns at once when it is away.

Contract: the other side greets first; `ready` from then on. Behind a failure it is dialled again after a pause with
jitter, which grows until it greets. Who waits for an answer when the connection is given up is failed by the class
that knows what was asked (`_abandon`). What failure means for the mail: that class's business.
"""

import asyncio
import random
from abc import ABC, abstractmethod

from appliance.net.channel import Channel, connect
from appliance.observe.contact import Contact

#: Pause before the next attempt to connect: from, growing to (seconds), each with half of it as jitter.
BACKOFF_MIN, BACKOFF_MAX = 0.05, 2.0


class Lifeline(ABC):
    """One a process and peer. start() once the loop runs; close() at the end. `why`: what is wrong, "" when ready."""

    #: Descriptors may come with what the other side says.
    takes_fds = False

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.path = path
        self.ready = False
        self.failures = 0
        self.contact = Contact()
        self.why = "not connected yet"
        self._loop = loop or asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._stopped = False
        #: When the oldest that waits is late.
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = BACKOFF_MIN
        self._retry: asyncio.TimerHandle | None = None
        self._up = asyncio.Event()

    @abstractmethod
    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        """The other side said something."""

    @abstractmethod
    def _abandon(self, why: str) -> None:
        """The connection is given up: fail whoever waits."""

    def start(self) -> None:
        """Begin to connect (and to reconnect for ever)."""
        self._dial()

    async def wait_ready(self, timeout: float) -> bool:
        """Wait until the other side has greeted, at most `timeout` seconds."""
        try:
            await asyncio.wait_for(self._up.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Give everything up."""
        self._stopped = True
        for handle in (self._timer, self._retry):
            if handle is not None:
                handle.cancel()
        self._lose("closed")

    def _welcome(self) -> None:
        """It greeted as it should."""
        self.ready, self._backoff, self.why = True, BACKOFF_MIN, ""
        self._up.set()

    def _dial(self) -> None:
        self._retry = None
        if self._stopped or self._channel is not None:
            return
        try:
            channel = connect(self.path, takes_fds=self.takes_fds)
        except OSError as error:
            self.why = f"{self.path}: {error.strerror or error}"
            self.contact.failed(self.why)
            self._dial_later()
            return
        self._channel = channel
        channel.attach(self._loop, self._on_frame, lambda: self._lost(channel))

    def _dial_later(self) -> None:
        if not self._stopped and self._retry is None:
            pause = self._backoff * random.uniform(0.5, 1.0)
            self._backoff = min(BACKOFF_MAX, self._backoff * 2)
            self._retry = self._loop.call_later(pause, self._dial)

    def _lost(self, channel: Channel) -> None:
        if channel is self._channel:
            self._lose("it closed the connection")

    def _lose(self, why: str) -> None:
        """No connection any more: whoever waits hears so at once."""
        channel, self._channel, self.ready = self._channel, None, False
        self._up.clear()
        self.why = why
        self.contact.failed(why)
        self._abandon(why)
        if channel is not None:
            channel.close()
        self._dial_later()
