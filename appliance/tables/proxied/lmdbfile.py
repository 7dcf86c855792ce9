"""lmdb files as Postfix writes them (one unnamed database, no subfolder), read with pread.

Our own reader: the library maps the file into memory, and a file that is cut or damaged would end the whole process
(SIGBUS), every other table's look-ups with it. The format is that of LMDB 0.9 on a machine with 64 bits.
Contract: readers and postmap(1) keep apart by a lock on the file itself (files.py), as Postfix does. Every page number
and offset is checked. Raises ValueError for a damaged file. What failure means for the mail: put off.
"""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = 0xBEEFC0DE
_META = struct.Struct("=IIQQ48s48sQQ")
_DATABASE = struct.Struct("=IHHQQQQQ")
_NODE = struct.Struct("=HHHH")
_HEADER = 16
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG = 0x01
_EMPTY = 0xFFFF_FFFF_FFFF_FFFF
#: No table's value is longer; no tree of ours is deeper.
LONGEST, DEEPEST = 1 << 20, 32


class Node(NamedTuple):
    """One entry of a page: the first three fields of its head, its key, where what follows the key begins."""

    low: int
    high: int
    flags: int
    key: bytes
    end: int


class Lmdb:
    """One open file; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        first = self._meta(os.pread(fd, 512, 0))
        self._size = _DATABASE.unpack(first[4])[0]
        if self._size not in [512 << n for n in range(8)]:
            raise ValueError(f"pages of {self._size} octets: damaged")
        second = self._meta(os.pread(fd, 512, self._size))
        newest = max(first, second, key=lambda meta: meta[7])
        self._root: int = _DATABASE.unpack(newest[5])[7]

    @staticmethod
    def _meta(data: bytes) -> tuple[int, int, int, int, bytes, bytes, int, int]:
        if len(data) < _HEADER + _META.size:
            raise ValueError("is no lmdb file: too short")
        found = _META.unpack_from(data, _HEADER)
        if found[0] != MAGIC or found[1] != 1:
            raise ValueError("is no lmdb file, or of a version that is not read")
        return found

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`."""
        if self._root == _EMPTY:
            return None
        number = self._root
        for _ in range(DEEPEST):
            data, offsets = self._page(number)
            flags = int.from_bytes(data[10:12], "little")
            if flags & _LEAF:
                return self._in_leaf(data, offsets, key)
            if not flags & _BRANCH or not offsets:
                raise ValueError(f"page {number} is no part of a tree: damaged")
            below = self._node(data, offsets[self._last(data, offsets, key)])
            number = below.low | below.high << 16 | below.flags << 32
        raise ValueError("a tree without end: damaged")

    def keys(self) -> Iterator[bytes]:
        """All, in order. No page is visited twice: a damaged tree ends."""
        work, seen = ([] if self._root == _EMPTY else [self._root]), set[int]()
        while work:
            number = work.pop()
            if number in seen:
                raise ValueError(f"page {number} stands in the tree twice: damaged")
            seen.add(number)
            data, offsets = self._page(number)
            nodes = [self._node(data, offset) for offset in offsets]
            if int.from_bytes(data[10:12], "little") & _LEAF:
                yield from (node.key for node in nodes)
            else:
                work += [node.low | node.high << 16 | node.flags << 32 for node in reversed(nodes)]

    def close(self) -> None:
        """Nothing of its own is open."""

    def _page(self, number: int) -> tuple[bytes, tuple[int, ...]]:
        data = self._read(number * self._size, self._size)
        lower = int.from_bytes(data[12:14], "little")
        if not _HEADER <= lower <= self._size:
            raise ValueError(f"page {number}: damaged")
        offsets = struct.unpack_from(f"={(lower - _HEADER) // 2}H", data, _HEADER)
        if any(not _HEADER <= offset <= self._size - _NODE.size for offset in offsets):
            raise ValueError(f"page {number} has entries outside of itself: damaged")
        return data, offsets

    def _read(self, start: int, length: int) -> bytes:
        data = os.pread(self._fd, length, start) if start < 1 << 62 else b""
        if len(data) != length:
            raise ValueError(f"ends before octet {start + length}: damaged")
        return data

    def _node(self, data: bytes, offset: int) -> Node:
        low, high, flags, length = _NODE.unpack_from(data, offset)
        start = offset + _NODE.size
        return Node(low, high, flags, data[start : start + length], start + length)

    def _last(self, data: bytes, offsets: tuple[int, ...], key: bytes) -> int:
        """The last entry that is not greater. The first one of a branch has no key: it is below all."""
        low, high = 0, len(offsets)
        while high - low > 1:
            middle = (low + high) // 2
            if self._node(data, offsets[middle]).key <= key:
                low = middle
            else:
                high = middle
        return low

    def _in_leaf(self, data: bytes, offsets: tuple[int, ...], key: bytes) -> bytes | None:
        if not offsets:
            return None
        node = self._node(data, offsets[self._last(data, offsets, key)])
        if node.key != key:
            return None
        length = node.low | node.high << 16
        if length > LONGEST or node.end + (8 if node.flags & _BIG else length) > self._size:
            raise ValueError(f"a value of {length} octets: damaged")
        if not node.flags & _BIG:
            return data[node.end : node.end + length]
        number = int.from_bytes(data[node.end : node.end + 8], "little")
        if not int.from_bytes(self._read(number * self._size, _HEADER)[10:12], "little") & _OVERFLOW:
            raise ValueError(f"page {number} should hold a value: damaged")
        return self._read(number * self._size + _HEADER, length)


def opened(fd: int, path: str) -> Lmdb:
    """The file behind `fd`. Raises ValueError."""
    return Lmdb(fd)
