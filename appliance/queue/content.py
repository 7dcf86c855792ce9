"""The octets of a queued message as delivery sends them: from memory, or from the entry on disk, checked on the way.

Contract: `chunks()` may be called again for every attempt; it raises ContentDamaged before the last chunk if the
checksum of what it read does not match: a sender that drops the connection before the final dot has delivered nothing.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from appliance.queue.entry import HEADER, read_header
from appliance.queue.errors import ContentDamaged, from_oserror

CHUNK = 64 * 1024
LetGo = Callable[[int], object]


class Content:
    """Use as a context manager, or call `close`. `length` is in octets. `let_go` closes `fd`: the file may be gone by
    then, and freeing many octets takes the disk long."""

    def __init__(
        self,
        data: bytes | None,
        fd: int = -1,
        start: int = 0,
        length: int = 0,
        crc: int = 0,
        let_go: LetGo = os.close,
    ) -> None:
        self._data, self._fd, self._start, self._crc = data, fd, start, crc
        self._let_go = let_go
        self.length = len(data) if data is not None else length

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` octets from `offset` of the content, unchecked. Raises SpoolError."""
        count = max(0, min(count, self.length - offset))
        if self._data is not None:
            return self._data[offset : offset + count]
        try:
            return os.pread(self._fd, count, self._start + offset)
        except OSError as error:
            raise from_oserror(error) from error

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """The content in pieces of `size` octets. Raises ContentDamaged (before the last piece) and SpoolError."""
        if self._data is not None:
            yield from (self._data[i : i + size] for i in range(0, self.length, size))
            return
        at = crc = 0
        while at < self.length:
            chunk = self.read(at, size)
            at += len(chunk)
            crc = zlib.crc32(chunk, crc)
            if not chunk or (at >= self.length and crc != self._crc):
                raise ContentDamaged("the stored content does not match its checksum")
            yield chunk

    def whole(self) -> bytes:
        """All octets at once; for messages that are known to be small. Raises as `chunks`."""
        return self._data if self._data is not None else b"".join(self.chunks())

    def close(self) -> None:
        if self._fd >= 0:
            self._let_go(self._fd)
            self._fd = -1

    def __enter__(self) -> "Content":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_entry(path: Path, offset: int, let_go: LetGo = os.close) -> Content:
    """The content of the entry at `offset` of file `path`, which `let_go` closes. Raises ContentDamaged (no valid
    header) or SpoolError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_oserror(error) from error
    try:
        header = read_header(fd, offset)
    except OSError as error:
        os.close(fd)
        raise from_oserror(error) from error
    if header is None:
        os.close(fd)
        raise ContentDamaged(f"no valid header at octet {offset} of {path.name}")
    return Content(None, fd, offset + HEADER, header.content_length, header.content_crc, let_go)
