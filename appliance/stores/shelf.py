"""A shelf: records of one kind by key, hot ones in RAM, all of them in one table of the embedded database.

Contract: `get` answers from RAM where it can; it reads the database (one point read, some microseconds) only while the
RAM is not known to hold everything. `put` and `delete` change RAM at once and the database with the next batch. What
the database could not take yet is answered from `dirty` and `flushing`, so nothing is forgotten while a write waits.
What failure means for the mail: none; a shelf whose database fails goes on from RAM (embedded.py says so).
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")
#: (key, record as msgpack or None = delete, expiry in steady seconds): one row of a batch.
Row = tuple[str, bytes | None, float]
#: Reads one record of a table: (table, key) -> msgpack or None.
Read = Callable[[str, str], bytes | None]

_encode = msgspec.msgpack.Encoder().encode


class Shelf(Generic[T]):
    """See the module's head. `hot_cap` bounds the records in RAM, `dirty_cap` those that wait to be written."""

    def __init__(
        self, table: str, kind: type[T], read: Read, *, hot_cap: int = 250_000, dirty_cap: int = 500_000
    ) -> None:
        self.table = table
        self.hot: dict[str, T] = {}
        self.dirty: dict[str, tuple[T | None, float]] = {}
        self.flushing: dict[str, tuple[T | None, float]] = {}
        #: True: what is not in RAM does not exist.
        self.complete = False
        self.dropped = self.evicted = 0
        self._read, self._hot_cap, self._dirty_cap = read, hot_cap, dirty_cap
        self._decoder = msgspec.msgpack.Decoder(kind)

    def get(self, key: str) -> T | None:
        """The record, expired or not (who asks judges that), or None."""
        found = self.hot.pop(key, None)
        if found is not None:
            self.hot[key] = found  # most recently used: last
            return found
        waiting = self.dirty.get(key) or self.flushing.get(key)
        if waiting is not None:
            return waiting[0]
        if self.complete or (raw := self._read(self.table, key)) is None:
            return None
        found = self.decode(raw)
        if found is not None:
            self._heat(key, found)
        return found

    def decode(self, raw: bytes) -> T | None:
        """A stored record; None if another version wrote what we cannot read (it counts as unknown)."""
        try:
            return self._decoder.decode(raw)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None

    def put(self, key: str, record: T, expires: float) -> None:
        """Store `record`; the sweep removes it some time after `expires` (steady seconds)."""
        self._heat(key, record)
        self._soil(key, record, expires)

    def delete(self, key: str) -> None:
        self.hot.pop(key, None)
        self._soil(key, None, 0.0)

    def _soil(self, key: str, record: T | None, expires: float) -> None:
        if len(self.dirty) >= self._dirty_cap and key not in self.dirty:
            del self.dirty[next(iter(self.dirty))]
            self.dropped += 1
        self.dirty[key] = (record, expires)

    def _heat(self, key: str, record: T) -> None:
        self.hot.pop(key, None)
        if len(self.hot) >= self._hot_cap:
            del self.hot[next(iter(self.hot))]
            self.complete = False
            self.evicted += 1
        self.hot[key] = record

    def warm(self, key: str, raw: bytes) -> bool:
        """Take a record that the sweep met into RAM if it is not there and there is room; False = no room."""
        if key in self.hot or self.waits(key):
            return True
        if len(self.hot) >= self._hot_cap:
            return False
        found = self.decode(raw)
        if found is not None:
            self.hot[key] = found
        return True

    def waits(self, key: str) -> bool:
        """Is there a newer state of `key` than the database's?"""
        return key in self.dirty or key in self.flushing

    def forget(self, keys: list[str]) -> None:
        """The database no longer has these (expired): RAM need not either."""
        for key in keys:
            if not self.waits(key):
                self.hot.pop(key, None)

    def take_batch(self) -> dict[str, tuple[T | None, float]]:
        """What is to be written now. A batch that failed is given again before anything newer."""
        if not self.flushing:
            self.flushing, self.dirty = self.dirty, {}
        return self.flushing

    def written(self) -> None:
        """The batch that was taken is on disk."""
        self.flushing = {}

    def soil_all(self, expires: Callable[[T], float]) -> None:
        """The database was lost: everything in RAM is to be written again."""
        for key, record in self.hot.items():
            if not self.waits(key):
                self.dirty[key] = (record, expires(record))

    @property
    def lag(self) -> int:
        """Changes that are not on disk."""
        return len(self.dirty) + len(self.flushing)

    def recent(self, count: int) -> Iterator[tuple[str, T]]:
        """The most recently used records in RAM, newest first."""
        return ((key, self.hot[key]) for key in islice(reversed(self.hot), count))


def rows(batch: dict[str, tuple[T | None, float]]) -> Iterator[Row]:
    """A batch as rows of its table."""
    for key, (record, expires) in batch.items():
        yield key, None if record is None else _encode(record), expires
