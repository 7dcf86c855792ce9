"""Berkeley DB files, hash and btree, as Postfix's postmap(1) writes them (`.db`), read with pread.

Our own reader: libdb is frozen, and its one kept binding for Python has to be compiled at every installation; looking
one key up takes the small part of the format that has not changed since version 4 (hash 8-9, btree 8-9), either byte
order.
Contract: no database environment, no duplicates (Postfix has none: the first value counts), no encryption, no page
checksums. Every page number and offset is checked. Raises ValueError for a damaged file. What failure means for the
mail: put off.
"""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

HASH, BTREE = 0x061561, 0x053162
_PAGE = 26
_HASH_META, _BTREE_META = 8, 9
_BTREE_INTERNAL, _BTREE_LEAF, _OVERFLOW = 3, 5, 7
_UNUSED, _HASH_PAGES = 0, (2, 13)
#: Items of hash pages, and of btree leaves.
_KEYDATA, _OFFPAGE = 1, 3
_B_KEYDATA, _B_OVERFLOW, _B_DELETED = 1, 3, 0x80
#: No table's key or value is longer; no file of ours is deeper.
LONGEST, DEEPEST, MOST_PAGES = 1 << 20, 32, 100_000


class Page(NamedTuple):
    """A page with its offsets of items. `end`: where the first (highest) item ends."""

    data: bytes
    number: int
    next: int
    kind: int
    offsets: tuple[int, ...]


class Berkeley:
    """One open file; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        head = os.pread(fd, 512, 0)
        if len(head) < 512:
            raise ValueError("is no Berkeley DB file: too short")
        self._order = next((o for o in "<>" if struct.unpack_from(f"{o}I", head, 12)[0] in (HASH, BTREE)), "")
        if not self._order:
            raise ValueError("is no Berkeley DB file of type hash or btree")
        self._magic, version, self._size = self._unpack("III", head, 12)
        encrypted, kind, flags = head[24], head[25], head[26]
        if encrypted or flags & 1:
            raise ValueError("encrypted files and page checksums are not read")
        if version not in (8, 9, 10) or self._size not in [512 << n for n in range(8)]:
            raise ValueError(f"version {version} with pages of {self._size} octets is not read")
        if kind != (_HASH_META if self._magic == HASH else _BTREE_META):
            raise ValueError(f"a first page of type {kind}: damaged")
        self._max_bucket, self._high, self._low = self._unpack("III", head, 72)
        self._spares = self._unpack("32I", head, 96)
        self._root = self._unpack("I", head, 88)[0]
        self._last = self._unpack("I", head, 32)[0]

    def get(self, key: bytes) -> bytes | None:
        """The first value of `key`."""
        return self._in_hash(key) if self._magic == HASH else self._in_btree(key)

    def keys(self) -> Iterator[bytes]:
        """All, in the order of the pages; pages that were given back are of no type."""
        hashed = self._magic == HASH
        holding = _HASH_PAGES if hashed else (_BTREE_LEAF,)
        if os.fstat(self._fd).st_size < (self._last + 1) * self._size:
            raise ValueError(f"ends before its last page {self._last}: damaged")
        for number in range(1, self._last + 1):
            page = self._page(number)
            if page.kind not in holding:
                if page.kind not in (_UNUSED, _OVERFLOW, *(() if hashed else (_BTREE_INTERNAL,))):
                    raise ValueError(f"page {number} is of type {page.kind}: damaged")
                continue
            for index in range(0, len(page.offsets) - 1, 2):
                if hashed:
                    key = self._hash_item(page, index)
                else:
                    key, deleted = self._leaf_item(page, index)
                    key = None if deleted or self._leaf_item(page, index + 1)[1] else key
                if key is not None:
                    yield key

    def close(self) -> None:
        """Nothing of its own is open."""

    # -- pages

    def _unpack(self, layout: str, data: bytes, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, data, at)

    def _page(self, number: int) -> Page:
        data = os.pread(self._fd, self._size, number * self._size)
        if len(data) != self._size:
            raise ValueError(f"page {number} is missing: damaged")
        _, _, following, entries = self._unpack("IIIH", data, 8)
        kind = data[25]
        if kind == _OVERFLOW:
            return Page(data, number, following, kind, ())
        if _PAGE + 2 * entries > self._size:
            raise ValueError(f"page {number} has {entries} entries: damaged")
        offsets = self._unpack(f"{entries}H", data, _PAGE)
        if any(not _PAGE <= offset < self._size for offset in offsets):
            raise ValueError(f"page {number} has items outside of itself: damaged")
        return Page(data, number, following, kind, offsets)

    def _overflow(self, number: int, length: int) -> bytes:
        """An item that has pages of its own."""
        if length > LONGEST:
            raise ValueError(f"an item of {length} octets: damaged")
        parts: list[bytes] = []
        left = length
        while left > 0:
            page = self._page(number)
            if page.kind != _OVERFLOW:
                raise ValueError(f"page {number} should continue an item: damaged")
            here = min(self._unpack("H", page.data, 22)[0], left)
            if not here:
                raise ValueError(f"page {number} is empty: damaged")
            parts.append(page.data[_PAGE : _PAGE + here])
            left -= here
            number = page.next
        return b"".join(parts)

    # -- hash

    def _in_hash(self, key: bytes) -> bytes | None:
        bucket = _fowler(key) & self._high
        if bucket > self._max_bucket:
            bucket &= self._low
        level = bucket.bit_length()  # spares[ceil(log2(bucket + 1))]
        if not (before := self._spares[min(level, 31)]):  # the first page is the meta page's
            raise ValueError("buckets without a place: damaged")
        number = bucket + before
        for _ in range(MOST_PAGES):
            page = self._page(number)
            if page.kind == _UNUSED:  # a bucket that nothing was ever put into
                return None
            if page.kind not in _HASH_PAGES:
                raise ValueError(f"page {number} is no part of a bucket: damaged")
            for index in range(0, len(page.offsets) - 1, 2):
                if self._hash_item(page, index) == key:
                    return self._hash_item(page, index + 1)
            if not page.next:
                return None
            number = page.next
        raise ValueError("a bucket without end: damaged")

    def _hash_item(self, page: Page, index: int) -> bytes | None:
        """An item ends where the one before it begins. None: a kind that no key of ours is."""
        start = page.offsets[index]
        end = page.offsets[index - 1] if index else self._size
        kind = page.data[start]
        if kind == _KEYDATA:
            return page.data[start + 1 : end]
        if kind == _OFFPAGE:
            number, length = self._unpack("II", page.data, start + 4)
            return self._overflow(number, length)
        return None

    # -- btree

    def _in_btree(self, key: bytes) -> bytes | None:
        number = self._root
        for _ in range(DEEPEST):
            page = self._page(number)
            if page.kind == _BTREE_LEAF:
                return self._in_leaf(page, key)
            if page.kind != _BTREE_INTERNAL or not page.offsets:
                raise ValueError(f"page {number} is no part of a tree: damaged")
            number = self._child(page, key)
        raise ValueError("a tree without end: damaged")

    def _child(self, page: Page, key: bytes) -> int:
        """The page below: of the last item that is not greater. The first item has no key: it is below all."""
        low, high = 0, len(page.offsets)
        while high - low > 1:
            middle = (low + high) // 2
            if self._internal_key(page, middle) <= key:
                low = middle
            else:
                high = middle
        return self._unpack("I", page.data, page.offsets[low] + 4)[0]

    def _internal_key(self, page: Page, index: int) -> bytes:
        start = page.offsets[index]
        length, kind = self._unpack("HB", page.data, start)
        if kind & ~_B_DELETED == _B_OVERFLOW:
            number, whole = self._unpack("II", page.data, start + 12 + 4)
            return self._overflow(number, whole)
        return page.data[start + 12 : start + 12 + length]

    def _in_leaf(self, page: Page, key: bytes) -> bytes | None:
        low, high = 0, len(page.offsets) // 2
        while low < high:
            middle = (low + high) // 2
            here, _ = self._leaf_item(page, 2 * middle)
            if here == key:
                value, deleted = self._leaf_item(page, 2 * middle + 1)
                return None if deleted else value
            low, high = (middle + 1, high) if here < key else (low, middle)
        return None

    def _leaf_item(self, page: Page, index: int) -> tuple[bytes, bool]:
        """(octets, deleted?)."""
        start = page.offsets[index]
        length, kind = self._unpack("HB", page.data, start)
        deleted = bool(kind & _B_DELETED)
        if kind & ~_B_DELETED == _B_KEYDATA:
            return page.data[start + 3 : start + 3 + length], deleted
        if kind & ~_B_DELETED == _B_OVERFLOW:
            number, whole = self._unpack("II", page.data, start + 4)
            return self._overflow(number, whole), deleted
        raise ValueError(f"an item of type {kind} on page {page.number}: not read")


def _fowler(key: bytes) -> int:
    """Fowler, Noll and Vo's hash, as Berkeley DB has it since version 3."""
    number = 0
    for octet in key:
        number = (number * 16777619 & 0xFFFFFFFF) ^ octet
    return number


def opened(fd: int, path: str) -> Berkeley:
    """The file behind `fd`. Raises ValueError."""
    return Berkeley(fd)
