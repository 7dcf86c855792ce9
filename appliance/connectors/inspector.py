"""scand as checks see it (mail.ports.Inspector): a message taken apart in a process of its own.

Contract: `inspect` answers or raises Unavailable, within a time that grows with the size; who asks again about the same
content gets the same answer, or joins the job under way. One channel a worker, connected when it is needed; any number of
jobs at once on it. Parts come in a memory file whose size is sealed before scand gets it. What failure means for the
mail: Unavailable, "not inspected"; a message that kills what reads it kills nothing else.
"""

import asyncio
import fcntl
import itertools
import mmap
import os
import weakref
from typing import Any

import msgspec

from appliance.mail.inspection import Finding, Inspection, Job, Report, decode_finding
from appliance.mail.ports import Content, Unavailable
from appliance.net.channel import Channel, connect
from appliance.observe import oplog
from appliance.observe.contact import Contact
from appliance.protocol.mime import LIMITS, Limits

log = oplog.get("inspector")
#: Seconds for any message, and octets a second beyond that.
BASE, RATE = 10.0, 2 * 1024 * 1024
#: Seconds behind that for scand to say what went wrong.
BEHIND = 2.0
#: Octets of parts at most, and at least.
ROOM, PAGE = 128 * 1024 * 1024, 65536
#: Jobs that may be under way: more are refused at once, so that a stuck scand holds no descriptors without end.
MOST = 200


class Inspector:
    """Give it up with close()."""

    def __init__(self, path: str, *, base: float = BASE) -> None:
        self._path, self._base = path, base
        self._channel: Channel | None = None
        #: Over which connection, and for what.
        self._waiting: dict[int, tuple[Channel, asyncio.Future[Report]]] = {}
        self._ids = itertools.count(1)
        self._trouble = ""
        #: Libraries that scand lacks.
        self._missing: tuple[str, ...] = ()
        self._contact = Contact()
        self._known: weakref.WeakKeyDictionary[Content, dict[Limits, asyncio.Task[Inspection]]] = (
            weakref.WeakKeyDictionary()
        )
        self.jobs = self.failures = 0

    def bound(self, limits: Limits) -> "Bound":
        """The port for one set of policies."""
        return Bound(self, limits)

    async def inspect(self, content: Content, limits: Limits | None = None) -> Inspection:
        """Raises Unavailable. Who asks and is cancelled does not end the job for others."""
        known = self._known.setdefault(content, {})
        limits = LIMITS if limits is None else limits
        task = known.get(limits)
        if task is None:
            task = known[limits] = asyncio.get_running_loop().create_task(self._inspect(content, limits))
            task.add_done_callback(_heard)
        return await asyncio.shield(task)

    async def _inspect(self, content: Content, limits: Limits) -> Inspection:
        self.jobs += 1
        try:
            found = await self._ask(content, limits)
        except Unavailable as error:
            self.failures += 1
            self._says(str(error))
            self._contact.failed(str(error))
            raise
        self._missing = found.report.missing
        self._contact.answered()
        self._says("")
        return found

    async def _ask(self, content: Content, limits: Limits) -> Inspection:
        if len(self._waiting) >= MOST:
            raise Unavailable(f"scand: {MOST} messages wait already")
        seconds = self._base + content.size / RATE
        number, channel = next(self._ids) % (1 << 32), self._connected()
        room = min(ROOM, 2 * content.size + PAGE)
        parts = _memory(room)
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._waiting[number] = channel, future
        try:
            self._send(channel, Job(number, 0, content.size, seconds, limits, room), content, parts)
            patience = 2 * seconds + BEHIND  # scand lets it wait, and then take, so long
            async with asyncio.timeout(patience):
                report = await future
            return Inspection(report, _mapped(parts, min(report.used, room)))
        except TimeoutError:
            raise Unavailable(f"scand: no answer within {patience:.0f} s") from None
        finally:
            self._waiting.pop(number, None)
            os.close(parts)

    def _send(self, channel: Channel, job: Job, content: Content, parts: int) -> None:
        try:
            fd = content.open_fd()
        except Exception as error:
            raise Unavailable(f"scand: the content cannot be handed over: {error}") from error
        try:
            channel.send(msgspec.structs.replace(job, offset=os.lseek(fd, 0, os.SEEK_CUR)), (fd, parts))
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
        _, future = self._waiting.get(finding.id, (None, None))
        if future is None or future.done():
            return
        if finding.report is None:
            future.set_exception(Unavailable(f"scand: {finding.why}"))
        else:
            future.set_result(finding.report)

    def _gone(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
        for asked, future in self._waiting.values():
            if asked is channel and not future.done():
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
        degraded += [f"attachments are not looked into: {name} is not installed" for name in self._missing]
        connected = self._channel is not None and not self._channel.closed
        counts = {"jobs": self.jobs, "failures": self.failures, "waiting": len(self._waiting), "connected": connected}
        return {**self._contact.facts(), **counts, "degraded": degraded}

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()


class Bound:
    """An Inspector with the limits of the policies in force (mail.ports.Inspector)."""

    def __init__(self, inspector: Inspector, limits: Limits) -> None:
        self._inspector, self._limits = inspector, limits

    async def inspect(self, content: Content, limits: Limits | None = None) -> Inspection:
        """See Inspector."""
        return await self._inspector.inspect(content, limits or self._limits)


def _memory(size: int) -> int:
    """A memory file that scand can fill, but neither shrink nor grow. Raises Unavailable."""
    try:
        fd = os.memfd_create("parts", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise Unavailable(f"scand: no memory for parts: {error.strerror}") from error
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def _mapped(fd: int, size: int) -> bytes | mmap.mmap:
    return mmap.mmap(fd, size, prot=mmap.PROT_READ) if size else b""


def _heard(task: asyncio.Task[Inspection]) -> None:
    """Nobody need wait for it: its exception is no news."""
    if not task.cancelled():
        task.exception()
