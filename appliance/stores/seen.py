"""What may be in tables: filters that spare reads for what is not there.

Contract: a filter is never wrong about what is there, once sweeps have come by all of it (`seen`); while one is under way
it gathers the next (`seeing`), and whatever is put is noted in both. It may serve several tables whose keys are about
the same: then one look tells that none of them has it, and it is of use when all were swept. What failure means for the
mail: none; without a filter the tables are read.
"""

#: Slots (octets) for a kind of record: a power of two.
SLOTS = 1 << 20


class Seen:
    """Hardly ever wrong about a key that was not added (a Bloom filter of two slots a key, an octet each: quicker than
    bits; of no use beyond as many keys as there are slots)."""

    __slots__ = ("_mask", "_slots")

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots, self._mask = bytearray(slots), slots - 1

    def add(self, key: str) -> None:
        mark, mask, slots = hash(key), self._mask, self._slots
        slots[mark & mask] = slots[mark >> 32 & mask] = 1

    def __contains__(self, key: str) -> bool:
        mark, mask = hash(key), self._mask
        return self._slots[mark & mask] == 1 == self._slots[mark >> 32 & mask]


class Filter:
    """See the module's head."""

    def __init__(self, *tables: str, slots: int = SLOTS) -> None:
        self.seen: Seen | None = None
        self.seeing: Seen | None = None
        self._tables = frozenset(tables)
        self._slots = slots
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

    def meet(self, about: str) -> None:
        """A sweep came by it."""
        if self.seeing is not None:
            self.seeing.add(about)

    def begin(self, table: str) -> None:
        """A sweep of a table begins: the first of a round, or the next one."""
        if self.seeing is None or table in self._begun:
            self.seeing, self._begun, self._done, self._whole = Seen(self._slots), set(), set(), True
        self._begun.add(table)

    def end(self, table: str, whole: bool) -> None:
        """It is over; `whole`: it met every row. One that began before this round is no part of it."""
        if table not in self._begun:
            return
        self._done.add(table)
        self._whole = self._whole and whole
        if self._done == self._tables:
            self.seen, self.seeing = (self.seeing if self._whole else None), None
            self._begun = set()
