"""A granted file that takes one message while it comes in: the draft is on disk from the first octet, memory stays flat.

Contract: the header's place is reserved and stays zero until commit, so that a draft is never taken for an
entry. Content is written by the loop in pieces of at most PIECE octets (page cache); trailer, header and fdatasync are
the writer thread's.
What failure means for the mail: any error gives up the file; the client gets 451/452; delivery deletes the file.
"""

import asyncio
import contextlib
import os
import zlib
from collections.abc import Callable

from msgspec import Raw

from appliance.queue.entry import HEADER, Header, encode_trailer, pack_header, salt_of
from appliance.queue.envelope import Committed, Returned, Sealed, Trailer
from appliance.queue.errors import SpoolError, from_oserror
from appliance.queue.writer import Writer

PIECE = 64 * 1024
End = Callable[["LargeFile", list["Committed | Sealed | Returned"]], None]


class LargeFile:
    """One message. Exactly one of `commit` and `abort` ends it; an error of `write` or `commit` ended it already, then
    `abort` does nothing. Content stands at `content_offset` of the file; `size` is its length in octets so far."""

    content_offset = HEADER

    def __init__(self, name: str, fd: int, lane: Writer, end: End) -> None:
        self.name, self.fd = name, fd
        self.size = 0
        self._written = self._crc = 0
        self._buffer = bytearray()
        self._lane, self._end = lane, end
        self._ended = False

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append content. Raises SpoolFull or SpoolError: the file is given up."""
        if self._ended:
            raise SpoolError("the file was given up")
        self._buffer += chunk
        self.size += len(chunk)
        if len(self._buffer) >= PIECE:
            self.flush()

    def flush(self) -> None:
        """Bring what is buffered into the file, so that another descriptor of it sees all content. Raises as `write`."""
        with memoryview(self._buffer) as view:
            for start in range(0, len(view), PIECE):
                self._put(view[start : start + PIECE])
        self._buffer.clear()

    def _put(self, piece: memoryview) -> None:
        self._crc = zlib.crc32(piece, self._crc)
        while piece:
            try:
                count = os.pwrite(self.fd, piece, HEADER + self._written)
            except OSError as error:
                self._give_up()
                raise from_oserror(error) from error
            self._written += count
            piece = piece[count:]

    def reader(self) -> int:
        """A new read-only descriptor of the file (the caller closes it), for scanners; content is at `content_offset`.

        It is an open file of its own: it cannot write, and it does not keep the file's lock. Raises SpoolError, behind
        the end, too: the descriptor may be another file's by then."""
        self._check_ours()
        self.flush()
        try:
            fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise from_oserror(error) from error
        try:
            self._check_ours()  # still: a thread may be here
        except SpoolError:
            os.close(fd)
            raise
        return fd

    def _check_ours(self) -> None:
        if self._ended:
            raise SpoolError("the file is no longer ours")

    def commit(self, trailer: Trailer) -> "asyncio.Future[None]":
        """Await it: the message is on disk, or SpoolFull / SpoolError (then it is given up)."""
        future = asyncio.get_running_loop().create_future()
        try:
            self.flush()
        except SpoolError as error:
            future.set_exception(error)
            return future
        if self._ended:
            future.set_exception(SpoolError("the file was given up"))
            return future
        self._ended = True
        packed = encode_trailer(trailer)
        header = Header(salt_of(self.name), self.size, len(packed), self._crc, zlib.crc32(packed))
        self._lane.run(
            lambda: self._finish(pack_header(header), packed),
            lambda result: self._finished(packed, header.length, future, result),
        )
        return future

    def _finish(self, header: bytes, packed: bytes) -> None:
        """In the writer thread: trailer, then header, then sync; on an error the header is taken back."""
        try:
            if os.pwrite(self.fd, packed, HEADER + self.size) != len(packed):
                raise SpoolError("short write of a trailer")
            if os.pwrite(self.fd, header, 0) != len(header):
                raise SpoolError("short write of a header")
            os.fdatasync(self.fd)
        except (OSError, SpoolError):
            self._erase()
            raise

    def _erase(self) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self.fd, bytes(HEADER), 0)
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)

    def _finished(self, packed: bytes, length: int, future: "asyncio.Future[None]", result: Exception | None) -> None:
        if result is None:
            self._end(self, [Committed(self.name, 0, Raw(packed), None, length), Sealed(self.name, length)])
        else:
            self._end(self, [Returned(self.name)])
        if future.done():
            return
        if result is None:
            future.set_result(None)
        else:
            future.set_exception(from_oserror(result) if isinstance(result, OSError) else SpoolError(str(result)))

    def abort(self) -> None:
        """The message was refused or its client went away. An untouched file is used again."""
        if self._ended:
            return
        if self._written or self.size:
            self._give_up()
        else:
            self._end(self, [])

    def _give_up(self) -> None:
        if not self._ended:
            self._ended = True
            self._end(self, [Returned(self.name)])
