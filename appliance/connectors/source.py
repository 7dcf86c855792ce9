"""The content of a message as a scan holds it: independent of the session that brought it, and known by its hash.

Contract: up to SMALL octets are copied, larger content is read from a descriptor of our own, so a scan that others joined
goes on when the first session is gone. The hash leaves out our own trace field on top: a message that is sent again
hashes the same. What failure means for the mail: content that cannot be read (any more) is "not scanned".
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator

from appliance.mail.own_trace import own_trace
from appliance.mail.ports import Content, Unavailable

#: The topmost field of messages of our own.
TRACE = (
    b"Received: from localhost (localhost [127.0.0.1])\r\n"
    b"\tby localhost (Postgate) with SMTP id trial;\r\n\tThu, 1 Jan 2026 00:00:00 +0000\r\n"
)
#: Octets that are held in memory.
SMALL = 65536
_PIECE = 65536
#: Octets that are hashed before others on the loop get their turn (a few milliseconds).
_BURST = 1024 * 1024


class Source:
    """Give it up with close(). `mail`: it is a whole message, our trace field on top."""

    mail = True

    def __init__(self, size: int, octets: bytes, fd: int = -1) -> None:
        self.size, self.octets = size, octets
        self.digest = b""
        self._fd = fd
        self._offset = os.lseek(fd, 0, os.SEEK_CUR) if fd >= 0 else 0

    @classmethod
    async def of(cls, content: Content) -> "Source":
        """Hold `content`, hashed. Raises Unavailable."""
        source: Source | None = None
        try:
            if content.size <= SMALL:
                source = cls(content.size, b"".join(content.chunks()))
            else:
                source = cls(content.size, b"", content.open_fd())
            await source.know()
        except BaseException as error:
            if source is not None:
                source.close()
            if isinstance(error, Exception) and not isinstance(error, Unavailable):
                raise Unavailable(f"the content cannot be read: {error}") from error
            raise
        return source

    def pieces(self) -> Iterator[bytes]:
        """The whole content from its start. Raises Unavailable."""
        if self._fd < 0:
            if len(self.octets) != self.size:
                raise Unavailable(f"the content has {len(self.octets)} octets instead of {self.size}")
            yield self.octets
            return
        done = 0
        while done < self.size:
            try:
                piece = os.pread(self._fd, min(_PIECE, self.size - done), self._offset + done)
            except OSError as error:
                raise Unavailable(f"the content cannot be read: {error.strerror}") from error
            if not piece:
                raise Unavailable(f"the content ends after {done} octets instead of {self.size}")
            done += len(piece)
            yield piece

    def descriptor(self) -> tuple[int, int]:
        """A descriptor for somebody else (the caller closes it), and where the content begins. Raises Unavailable."""
        if self._fd >= 0:
            return os.dup(self._fd), self._offset
        fd = os.memfd_create("content", os.MFD_CLOEXEC)
        try:
            for piece in self.pieces():
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
        except OSError as error:
            os.close(fd)
            raise Unavailable(f"no memory for the content: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
        return fd, 0

    async def know(self) -> None:
        """Fill in `digest`. Raises Unavailable."""
        digest, since, first = hashlib.blake2b(digest_size=20), 0, True
        for piece in self.pieces():
            digest.update(piece[own_trace(piece) :] if first and self.mail else piece)
            first = False
            since += len(piece)
            if since >= _BURST:
                since = 0
                await asyncio.sleep(0)
        self.digest = digest.digest()

    def close(self) -> None:
        """Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Octets:
    """A message of our own as mail.ports.Content: what we send to see whether a scanner scans."""

    header_complete = True

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def header(self) -> bytes:
        return self.octets[: self.octets.find(b"\r\n\r\n") + 4]

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        for start in range(0, len(self.octets), size):
            yield self.octets[start : start + size]

    def open_fd(self) -> int:
        """A memory file, at its start."""
        fd = os.memfd_create("message", os.MFD_CLOEXEC)
        os.write(fd, self.octets)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
