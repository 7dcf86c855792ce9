"""cdb files (D. J. Bernstein's constant database), read with pread.

Contract: 256 tables of (hash, position) slots stand behind the records; a look-up costs a few reads. Every position is
checked against the file. Raises ValueError for a damaged file. What failure means for the mail: put off.
"""

import os
import struct
from collections.abc import Iterator

_PAIR = struct.Struct("<II")
_HEADER = 2048
#: A longer value is damage: no table's value comes near it.
LONGEST = 1 << 20


class Cdb:
    """One open file; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._header = os.pread(fd, _HEADER, 0)
        if len(self._header) != _HEADER:
            raise ValueError("is no cdb file: too short")

    def get(self, key: bytes) -> bytes | None:
        """The first value of `key`."""
        number = hashed(key)
        start, slots = _PAIR.unpack_from(self._header, (number & 255) * 8)
        if start < _HEADER:  # a table without slots has its place, too
            raise ValueError("a table stands within the header: damaged")
        for step in range(slots):
            slot = ((number >> 8) + step) % slots
            found, position = _PAIR.unpack(self._read(start + slot * 8, 8))
            if position == 0:
                return None
            if found == number and (value := self._record(position, key)) is not None:
                return value
        return None

    def keys(self) -> Iterator[bytes]:
        """All, in the order of the file: the records end where the first table begins."""
        tables = list(_PAIR.iter_unpack(self._header))
        end = min(start for start, _ in tables)
        if end < _HEADER or os.fstat(self._fd).st_size < max(start + slots * 8 for start, slots in tables):
            raise ValueError("tables stand outside of the file: damaged")
        position = _HEADER
        while position < end:
            key_length, value_length = _PAIR.unpack(self._read(position, 8))
            if position + 8 + key_length + value_length > end:
                raise ValueError(f"a record at {position} is longer than the records: damaged")
            yield self._read(position + 8, key_length)
            position += 8 + key_length + value_length

    def _record(self, position: int, key: bytes) -> bytes | None:
        key_length, value_length = _PAIR.unpack(self._read(position, 8))
        if key_length != len(key) or self._read(position + 8, key_length) != key:
            return None
        if value_length > LONGEST:
            raise ValueError(f"a value of {value_length} octets at {position}: damaged")
        return self._read(position + 8 + key_length, value_length)

    def _read(self, start: int, length: int) -> bytes:
        data = os.pread(self._fd, length, start)
        if len(data) != length:
            raise ValueError(f"ends before octet {start + length}: damaged")
        return data

    def close(self) -> None:
        """Nothing of its own is open."""


def hashed(key: bytes) -> int:
    """The hash that the format prescribes."""
    number = 5381
    for octet in key:
        number = ((number << 5) + number & 0xFFFFFFFF) ^ octet
    return number


def opened(fd: int, path: str) -> Cdb:
    """The file behind `fd`. Raises ValueError."""
    return Cdb(fd)
