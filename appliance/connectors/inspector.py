"""scand as checks see it (mail.ports.Inspector): the structure of a message, read in a process of its own.

Contract: `structure` answers or raises Unavailable, within a time that grows with the size. One channel a worker,
connected when it is needed; any number of jobs at once on it. What failure means for the mail: Unavailable, "not
inspected"; a message that kills what reads it kills nothing else.
"""

import asyncio
import itertools
import os
from typing import Any

import msgspec

from appliance.mail.inspection import Finding, Job, decode_finding
from appliance.mail.ports import Content, Structure, Unavailable
from appliance.net.channel import Channel, connect
from appliance.observe import oplog
from appliance.observe.contact import Contact
from appliance.protocol.mime import Limits

log = oplog.get("inspector")
#: Seconds for any message, and octets a second beyond that.
BASE, RATE = 10.0, 2 * 1024 * 1024
#: Seconds behind that for scand to say what went wrong.
BEHIND = 2.0
#: Jobs that may be under way: more are refused at once, so that a stuck scand holds no descriptors without end.
MOST = 200


class Inspector:
    """Give it up with close()."""

    def __init__(self, path: str, *, base: float = BASE) -> None:
        self._path, self._base = path, base
        self._channel: Channel | None = None
        self._waiting: dict[int, asyncio.Future[Structure]] = {}
        self._ids = itertools.count(1)
        self._trouble = ""
        self._contact = Contact()
        self.jobs = self.failures = 0

    async def structure(self, content: Content, limits: Limits) -> Structure:
        """Raises Unavailable."""
        self.jobs += 1
        try:
            found = await self._ask(content, limits)
        except Unavailable as error:
            self.failures += 1
            self._says(str(error))
            self._contact.failed(str(error))
            raise
        self._contact.answered()
        self._says("")
        return found

    async def _ask(self, content: Content, limits: Limits) -> Structure:
        if len(self._waiting) >= MOST:
            raise Unavailable(f"scand: {MOST} messages wait already")
        seconds = self._base + content.size / RATE
        number = next(self._ids) % (1 << 32)
        future: asyncio.Future[Structure] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send(number, content, limits, seconds)
            async with asyncio.timeout(seconds + BEHIND):
                return await future
        except TimeoutError:
            raise Unavailable(f"scand: no answer within {seconds + BEHIND:.0f} s") from None
        finally:
            self._waiting.pop(number, None)

    def _send(self, number: int, content: Content, limits: Limits, seconds: float) -> None:
        channel = self._connected()
        try:
            fd = content.open_fd()
        except Exception as error:
            raise Unavailable(f"scand: the content cannot be handed over: {error}") from error
        try:
            channel.send(Job(number, os.lseek(fd, 0, os.SEEK_CUR), content.size, seconds, limits), (fd,))
        except ConnectionError as error:
            raise Unavailable("scand: the connection is gone") from error
        finally:
            os.close(fd)

    def _connected(self) -> Channel:
        if self._channel is not None and not self._channel.closed:
            return self._channel
        try:
            channel = connect(self._path)
        except OSError as error:
            raise Unavailable(f"scand: {error.strerror or error}") from error
        self._channel = channel
        channel.attach(asyncio.get_running_loop(), self._on_frame, lambda: self._gone(channel))
        return channel

    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        for fd in fds:  # scand has no reason to send any
            os.close(fd)
        try:
            finding: Finding = decode_finding(payload)
        except msgspec.DecodeError as error:
            log.error("scand answered what is no finding", why=str(error))
            if self._channel is not None:
                self._channel.close()
            return
        future = self._waiting.get(finding.id)
        if future is None or future.done():
            return
        if finding.shape is None:
            future.set_exception(Unavailable(f"scand: {finding.why}"))
        else:
            future.set_result(finding.shape.structure())

    def _gone(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("scand hung up"))

    def _says(self, trouble: str) -> None:
        """Log the beginning and the end of trouble, once each."""
        if trouble and not self._trouble:
            log.warning("messages cannot be inspected", why=trouble)
        elif self._trouble and not trouble:
            log.warning("messages are inspected again")
        self._trouble = trouble

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`."""
        degraded = [f"messages are not inspected: {self._trouble}"] if self._trouble else []
        counts = {"jobs": self.jobs, "failures": self.failures, "waiting": len(self._waiting)}
        return {**self._contact.facts(), **counts, "degraded": degraded}

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
