"""A message body as it comes in: decoded on the way, in RAM up to 64 KB, in a granted file from there on.

Contract: octets pass in chunks at C speed and are never whole in memory above `RAM`; all bodies of the worker together
hold at most `memory_messages` octets in RAM. What is over the size limit is read and thrown away. What failure means for
the mail: trouble with the file is kept in `trouble` and answered behind the end of data; nothing was promised before.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from appliance.daemons.fronts.content import HEADER, RAM, RamContent
from appliance.daemons.smtpd.limits import hit
from appliance.protocol.smtp.data import BdatDecoder, DataDecoder
from appliance.queue.errors import SpoolError
from appliance.queue.large import LargeFile

if TYPE_CHECKING:
    from appliance.daemons.smtpd.transaction import Transaction

_EMPTY_LINE = b"\r\n\r\n"


class Memory:
    """Octets of bodies in RAM in this worker."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._told = False

    @property
    def full(self) -> bool:
        """Are there more than may be? Told once each time that it begins."""
        over = self.used > self.limit
        if over and not self._told:
            hit("memory_messages", f"{self.used} octets of content in memory, what comes goes to files")
        self._told = over
        return over


class Files(Protocol):
    """Where files for large messages come from (queue.intake.IntakeLog)."""

    def large(self) -> LargeFile | None:
        """A granted file, None if there is none just now."""

    def large_soon(self) -> "asyncio.Future[LargeFile]":
        """The next one; SpoolFull if it does not come in time."""


class Body:
    """One message on its way in, our trace field on top. `feed` takes content that the decoder gave."""

    def __init__(self, top: bytes, limit: int, memory: Memory, files: Files, header: int = HEADER) -> None:
        self.size = 0
        self.limit = limit + len(top) if limit else 0
        self.too_big = False
        self.trouble: SpoolError | None = None
        self.file: LargeFile | None = None
        #: A file is being waited for; what comes meanwhile stays in RAM (the client is not read until `placed`).
        self.placing: asyncio.Future[LargeFile] | None = None
        self._memory, self._files, self._header_limit = memory, files, header or HEADER
        self._chunks: list[bytes] = []
        self._held = 0
        self._header = b""
        self._header_done = False
        self.feed(top)

    def feed(self, content: bytes) -> None:
        """The next octets."""
        self.size += len(content)
        if self.limit and self.size > self.limit:
            self.too_big = True
            self.drop()
        if self.too_big or self.trouble is not None:
            return
        if self.file is not None:
            self._write(content)
            return
        self._chunks.append(content)
        self._held += len(content)
        self._memory.used += len(content)
        if self.placing is None and (self._held > RAM or self._memory.full):
            file = self._files.large()
            if file is None:
                self.placing = self._files.large_soon()
            else:
                self._move_to(file)

    def _move_to(self, file: LargeFile) -> None:
        content = b"".join(self._chunks)
        self._forget()
        self.file = file
        self._write(content)

    async def placed(self) -> None:
        """Await the file that is being waited for, if any; without it there is `trouble`."""
        if self.placing is None:
            return
        placing = self.placing
        try:
            file = await placing
        except SpoolError as error:
            self.trouble = error
            self._forget()
            return
        except asyncio.CancelledError:
            if placing.cancelled():  # dropped meanwhile: the content is not wanted any more
                return
            raise
        finally:
            self.placing = None
        self._move_to(file)

    def _write(self, content: bytes) -> None:
        assert self.file is not None
        if not self._header_done:
            self._scan(content)
        try:
            self.file.write(content)
        except SpoolError as error:
            self.trouble = error

    def _scan(self, content: bytes) -> None:
        """Keep the header block; a chunk is 256 KB at most, so few of them are joined."""
        start = max(0, len(self._header) - 3)
        self._header += content
        end = self._header.find(_EMPTY_LINE, start)
        if end >= 0:
            self._header, self._header_done = self._header[: end + 4], True
        elif len(self._header) >= self._header_limit:
            self._header, self._header_done = self._header[: self._header_limit], True

    def end(self) -> None:
        """All is there: what is left in the buffer goes into the file, so that whoever reads it, in whatever thread and
        however long, changes nothing. There may be `trouble` then."""
        if self.file is not None and self.trouble is None:
            try:
                self.file.flush()
            except SpoolError as error:
                self.trouble = error

    def content(self) -> "RamContent | FileContent":
        """The whole message; call it behind `end`, once."""
        if self.file is not None:
            return FileContent(self.file, self.size, self._header, len(self._header) < self._header_limit)
        return RamContent(b"".join(self._chunks), self._header_limit)

    def drop(self) -> None:
        """Give up the file (if it was not committed) and the memory; safe to call twice."""
        if self.placing is not None and not self.placing.cancel():
            self.placing.add_done_callback(_release)
        if self.file is not None:
            self.file.abort()
            self.file = None
        self._forget()

    def _forget(self) -> None:
        self._memory.used -= self._held
        self._held = 0
        self._chunks = []


def _release(placing: "asyncio.Future[LargeFile]") -> None:
    """A file came although its message is gone."""
    if not placing.cancelled() and placing.exception() is None:
        placing.result().abort()


class FileContent:
    """A message in its granted file."""

    def __init__(self, file: LargeFile, size: int, header: bytes, complete: bool) -> None:
        self.file, self.size = file, size
        self.header, self.header_complete = header, complete

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        fd = self.file.reader()  # ours is for writing only
        try:
            for start in range(0, self.size, size):
                yield os.pread(fd, min(size, self.size - start), self.file.content_offset + start)
        finally:
            os.close(fd)

    def open_fd(self) -> int:
        """Positioned at the content's first octet."""
        fd = self.file.reader()
        os.lseek(fd, self.file.content_offset, os.SEEK_SET)
        return fd


class DataReceiver:
    """DATA: feeds `body` until CRLF "." CRLF."""

    def __init__(self, decoder: DataDecoder, body: Body) -> None:
        self.decoder, self.body = decoder, body
        self._tail = b""

    def feed(self, data: bytes) -> bytes | None:
        """What stands behind the end, None as long as there is none."""
        content = self.decoder.feed(data)
        if content:
            self.body.feed(content)
        if self.decoder.done:
            return self.decoder.rest
        self._tail = (self._tail + data[-5:])[-5:]
        return None

    @property
    def pseudo_end(self) -> bool:
        """Does what came last look like an end to a client that writes bare LF? Such a one waits for an answer."""
        return self._tail.endswith((b"\n.\n", b"\n.\r\n", b"\r.\r"))


class BdatReceiver:
    """One BDAT chunk of `left` octets for `transaction`; without one they are thrown away, and then `answer` is due."""

    def __init__(self, size: int, transaction: "Transaction | None", last: bool, answer: str = "") -> None:
        self.size = self.left = size
        self.transaction, self.last, self.answer = transaction, last, answer

    def feed(self, data: bytes) -> bytes | None:
        """What stands behind the chunk, None as long as it is incomplete."""
        part = data[: self.left]
        self.left -= len(part)
        if self.transaction is not None:
            self._take(self.transaction, part)
        return None if self.left else data[len(part) :]

    def _take(self, transaction: "Transaction", part: bytes) -> None:
        decoder, body = transaction.decoder, transaction.body
        if body is None or not isinstance(decoder, BdatDecoder):
            return
        content = decoder.feed(part)
        if self.last and not self.left:
            content += decoder.finish()
        if content:
            body.feed(content)
