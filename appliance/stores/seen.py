"""What may be in tables: filters that spare reads for what is not there.

Contract: a filter is never wrong about what is there, once sweeps have come by all of it (`seen`); while one is under way
it gathers the next (`seeing`), and whatever is put is noted in both. It may serve several tables whose keys are about
the same: then one look tells that none of them has it, and it is of use when all were swept. In `memory` that others may
read (`room` octets, all 0), they look as well (`absent`): that is right at the moment of the look. What failure means for
the mail: none; without a filter the tables are read.
"""

from collections.abc import Iterable, Sequence
from zlib import crc32

#: Slots (octets) for a kind of record: a power of two.
SLOTS = 1 << 20
#: Memory that is written here and read elsewhere.
Memory = bytearray | memoryview


def room(slots: int) -> int:
    """Octets of memory for a filter: two times its slots (`seen` and `seeing`), and behind them which of both counts: 1
    the first, 2 the second, 0 none."""
    return 2 * slots + 1


def mark_of(key: str) -> int:
    """Which slots a key has: the same in all processes. Who makes keys with the same slots makes us read more."""
    return crc32(key.encode("utf-8", "surrogatepass"))


class Seen:
    """Hardly ever wrong about a key that was not added (a Bloom filter of two slots a key, an octet each: quicker than
    bits; of no use beyond as many keys as there are slots)."""

    __slots__ = ("_mask", "_slots")

    def __init__(self, slots: Memory) -> None:
        self._slots, self._mask = slots, len(slots) - 1

    def add(self, key: str) -> None:
        mark, mask, slots = mark_of(key), self._mask, self._slots
        slots[mark & mask] = slots[mark >> 10 & mask] = 1

    def take(self, keys: Iterable[str]) -> tuple[list[str], list[str]]:
        """Those that were not there, which are added, and those that were."""
        mask, slots = self._mask, self._slots
        new: list[str] = []
        old: list[str] = []
        for key in keys:
            mark = crc32(key.encode("utf-8", "surrogatepass"))
            one, other = mark & mask, mark >> 10 & mask
            if slots[one] == 1 == slots[other]:
                old.append(key)
            else:
                slots[one] = slots[other] = 1
                new.append(key)
        return new, old

    def __contains__(self, key: str) -> bool:
        mark, mask = mark_of(key), self._mask
        return self._slots[mark & mask] == 1 == self._slots[mark >> 10 & mask]


def absent(memory: Memory, slots: int, key: str) -> bool:
    """Whether a filter in that memory vouches that the key is not there."""
    which = memory[2 * slots]
    if not which:
        return False
    mark, mask, begin = mark_of(key), slots - 1, (which - 1) * slots
    return not (memory[begin + (mark & mask)] and memory[begin + (mark >> 10 & mask)])


class Filter:
    """See the module's head."""

    def __init__(self, *tables: str, slots: int = SLOTS, memory: Memory | None = None) -> None:
        self.seen: Seen | None = None
        self.seeing: Seen | None = None
        self._tables = frozenset(tables)
        self._slots, self._memory = slots, memory
        #: The half in which the next one is gathered, and those that are not all 0.
        self._half, self._used = 0, set[int]()
        #: Tables whose sweep began in this round, and those it is over for; whether every row was met so far.
        self._begun: set[str] = set()
        self._done: set[str] = set()
        self._whole = True

    def note(self, about: str) -> None:
        """What is about this may be there from now on."""
        if self.seen is not None:
            self.seen.add(about)
        if self.seeing is not None:
            self.seeing.add(about)

    def note_new(self, about: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """Note what is not there by the filter's word: this, and what may be there, in their order."""
        if self.seen is None:
            return (), about
        new, old = self.seen.take(about)
        if self.seeing is not None:
            self.seeing.take(new)
        return new, old

    def meet(self, about: str) -> None:
        """A sweep came by it."""
        if self.seeing is not None:
            self.seeing.add(about)

    def begin(self, table: str) -> None:
        """A sweep of a table begins: the first of a round, or the next one."""
        if self.seeing is None or table in self._begun:
            self.seeing, self._begun, self._done, self._whole = self._empty(), set(), set(), True
        self._begun.add(table)

    def _empty(self) -> Seen:
        if self._memory is None:
            return Seen(bytearray(self._slots))
        self._half = half = 1 if self._memory[2 * self._slots] == 1 else 0
        slots = memoryview(self._memory)[half * self._slots : (half + 1) * self._slots]
        if half in self._used:
            slots[:] = bytes(self._slots)
        self._used.add(half)
        return Seen(slots)

    def end(self, table: str, whole: bool) -> None:
        """It is over; `whole`: it met every row. One that began before this round is no part of it."""
        if table not in self._begun:
            return
        self._done.add(table)
        self._whole = self._whole and whole
        if self._done == self._tables:
            self.seen, self.seeing = (self.seeing if self._whole else None), None
            self._begun = set()
            if self._memory is not None:
                self._memory[2 * self._slots] = self._half + 1 if self._whole else 0
