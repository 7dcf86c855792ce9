"""The mark file of an intake file: which entries are finished, which recipients are done, where valid entries end.

Contract: records of 16 octets are appended without a sync (`seal` alone syncs): a process that dies loses none, a power
cut may lose the last ones, and then a finished message is sent once more, never lost. A damaged record is skipped.
What failure means for the mail: for a mark that cannot be written (disk full) `put` says False; delivery goes on.
"""

import os
import struct
import zlib
from pathlib import Path

_FIELDS = struct.Struct(">QI")
_RECORD = struct.Struct(">QII")
ALL = 0xFFFFFFFF
_SEAL = 0xFFFFFFFE
SUFFIX = ".done"


class Marks:
    """What the file said when it was read. `end` is None or where valid entries end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: set[int] = set()
        self.recipients: dict[int, set[int]] = {}
        self.end: int | None = None
        self._fd = -1

    def read(self) -> "Marks":
        """Take over what is on disk; no file is no marks. Raises OSError if the disk cannot be read."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return self
        for start in range(0, len(data) - _RECORD.size + 1, _RECORD.size):
            offset, index, crc = _RECORD.unpack_from(data, start)
            if crc == zlib.crc32(data[start : start + _FIELDS.size]):
                self._take(offset, index)
        return self

    def _take(self, offset: int, index: int) -> None:
        if index == ALL:
            self.finished.add(offset)
        elif index == _SEAL:
            self.end = offset
        else:
            self.recipients.setdefault(offset, set()).add(index)

    def put(self, offset: int, indexes: list[int]) -> bool:
        """Append marks for the entry at `offset`; [ALL] means that it is finished. False: could not be written."""
        try:
            self._append(b"".join(_record(offset, index) for index in indexes))
        except OSError:
            return False
        return True

    def seal(self, end: int) -> None:
        """Valid entries end at `end`, durably: what stands behind was refused. Raises OSError."""
        self.end = end
        self._append(_record(end, _SEAL))
        os.fsync(self._fd)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _append(self, data: bytes) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            torn = os.fstat(self._fd).st_size % _RECORD.size
            if torn:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - torn)
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError("short write of a mark")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """The intake file is gone (unlink that one first): forget the marks."""
        self.close()
        self.path.unlink(missing_ok=True)


def _record(offset: int, index: int) -> bytes:
    return _RECORD.pack(offset, index, zlib.crc32(_FIELDS.pack(offset, index)))
