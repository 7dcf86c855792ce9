"""A shelf: records of one kind by key, hot ones in RAM, all of them in one table of the embedded database.

Contract: `get` answers from RAM where it can; it reads the database (one point read, some microseconds) only while the
RAM is not known to hold everything, and hardly ever for a key that is not there (`filter`). `put` and `delete` change RAM
at once and the database with the next batch. What the database could not take yet is answered from `dirty` and
`flushing`, so nothing is forgotten while a write waits.
What failure means for the mail: none; a shelf whose database fails goes on from RAM (embedded.py says so).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Generic, TypeVar

import msgspec

from appliance.stores.seen import Filter

T = TypeVar("T")
#: Records of a shelf in RAM, and changes that may wait for the disk. Growing a dictionary copies it in one go: beyond
#: these sizes that takes more of the loop's time than a call may (20 ms; several shelves may grow in one call).
HOT_CAP, DIRTY_CAP = 50_000, 87_000
#: (key, record as msgpack or None = delete, expiry in steady seconds): one row of a batch.
Row = tuple[str, bytes | None, float]
#: Reads one record of a table: (table, key) -> msgpack or None.
Read = Callable[[str, str], bytes | None]

_encode = msgspec.msgpack.Encoder().encode


def itself(key: str) -> str:
    """What most keys are about."""
    return key


class Shelf(Generic[T]):
    """See the module's head. `hot_cap` bounds the records in RAM, `dirty_cap` those that wait to be written. The
    `filter` is about what `about` makes of a key, and so tells of many keys at once that none is there."""

    def __init__(
        self,
        table: str,
        kind: type[T],
        read: Read,
        *,
        hot_cap: int = HOT_CAP,
        dirty_cap: int = DIRTY_CAP,
        about: Callable[[str], str] = itself,
        filter: Filter | None = None,
    ) -> None:
        self.table = table
        # An OrderedDict: taking the oldest out of a plain dict costs time in proportion to those taken before.
        self.hot: OrderedDict[str, T] = OrderedDict()
        self.dirty: dict[str, tuple[T | None, float]] = {}
        self.flushing: dict[str, tuple[T | None, float]] = {}
        #: True: what is not in RAM does not exist.
        self.complete = False
        #: What may be in the table.
        self.filter = filter or Filter(table)
        self.dropped = self.evicted = 0
        self._read, self._hot_cap, self._dirty_cap = read, hot_cap, dirty_cap
        self._about = about
        self._decoder = msgspec.msgpack.Decoder(kind)

    def get(self, key: str) -> T | None:
        """The record, expired or not (who asks judges that), or None."""
        found = self.hot.get(key)
        if found is not None:
            self.hot.move_to_end(key)
            return found
        waiting = self.dirty.get(key) or self.flushing.get(key)
        if waiting is not None:
            return waiting[0]
        if self.complete or ((seen := self.filter.seen) is not None and self._about(key) not in seen):
            return None
        if (raw := self._read(self.table, key)) is None:
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

    def put_new(self, key: str, row: tuple[T, float]) -> None:
        """As `put`, for a key that is not there and was noted: (record, expires). It drives nothing out of the
        RAM: who is new may never come again."""
        dirty, hot = self.dirty, self.hot
        if len(dirty) < self._dirty_cap:
            dirty[key] = row
            if len(hot) < self._hot_cap:
                hot[key] = row[0]
            else:
                self.complete = False
                self.evicted += 1
        else:
            self.dropped += 1
            self._heat(key, row[0])

    def put_all_new(self, keys: Sequence[str], row: tuple[T, float]) -> None:
        """As `put_new`, of many keys that have the same record."""
        hot, count = self.hot, len(keys)
        if not count:
            return
        if len(self.dirty) + count > self._dirty_cap or len(hot) < self._hot_cap < len(hot) + count:
            for key in keys:
                self.put_new(key, row)
            return
        self.dirty.update(dict.fromkeys(keys, row))
        if len(hot) < self._hot_cap:
            hot.update(dict.fromkeys(keys, row[0]))
        else:
            self.complete = False
            self.evicted += count

    def touch(self, key: str, record: T, expires: float) -> None:
        """As `put`, for a change that is not worth a write of its own: a restart may show the record before it."""
        self._heat(key, record)
        if key in self.dirty:
            self.dirty[key] = (record, expires)

    def delete(self, key: str) -> None:
        """Forget a record."""
        self.hot.pop(key, None)
        self._soil(key, None, 0.0)

    def _soil(self, key: str, record: T | None, expires: float) -> None:
        self.filter.note(self._about(key))
        if len(self.dirty) >= self._dirty_cap and key not in self.dirty:
            self.dropped += 1  # the disk has taken nothing for long: this change lives in RAM only
            return
        self.dirty[key] = (record, expires)

    def look_through(self) -> None:
        """A sweep of the whole table begins."""
        self.filter.begin(self.table)
        for key in (*self.dirty, *self.flushing):
            self.met(key)
        if self.dropped:  # some records are in RAM alone
            for key in self.hot:
                self.met(key)

    def met(self, key: str) -> None:
        """The sweep under way came by this key."""
        self.filter.meet(self._about(key))

    def looked_through(self, whole: bool) -> None:
        """The sweep is over; `whole`: it met every row."""
        self.filter.end(self.table, whole)

    def _heat(self, key: str, record: T) -> None:
        self.hot[key] = record
        self.hot.move_to_end(key)
        if len(self.hot) > self._hot_cap:
            self._evict()

    def _evict(self) -> None:
        self.hot.popitem(last=False)
        self.complete = False
        self.evicted += 1

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
                self._soil(key, record, expires(record))

    @property
    def lag(self) -> int:
        """Changes that are not on disk."""
        return len(self.dirty) + len(self.flushing)


_by_key = itemgetter(0)


def rows(batch: dict[str, tuple[T | None, float]]) -> Iterator[Row]:
    """A batch as rows of its table, in key order: neighbours share pages."""
    for key, (record, expires) in sorted(batch.items(), key=_by_key):
        yield key, None if record is None else _encode(record), expires
