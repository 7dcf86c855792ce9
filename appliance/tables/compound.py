"""Tables made of others: pipemap (what the first has is the key of the next), unionmap (all that any has), and randmap
(one of its values), as in Postfix (DATABASE_README).

Contract: answered at once while the members are (mail/later.py). What failure means for the mail: a member that cannot
answer is a table that cannot answer.
"""

import random
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from typing import Protocol

from appliance.mail.later import answered, waits
from appliance.mail.ports import Hit, TableUnavailable
from appliance.tables.text import Source, TableError, braced, items


class Member(Protocol):
    """Any table."""

    pattern: bool
    at_once: bool

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None: ...


class _Compound:
    """What pipemap and unionmap share: full keys only if one of the members sees nothing else."""

    def __init__(self, tables: Sequence[Member], source: Source) -> None:
        self.source, self.tables = source, tables
        self.pattern = any(table.pattern for table in tables)
        self.at_once = all(table.at_once for table in tables)

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """Its values are known when it is asked."""
        return iter(())


class Pipe(_Compound):
    """The first miss ends it."""

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None:
        return self._from(0, (key, ""))

    def _from(self, start: int, hit: Hit | None) -> Hit | Awaitable[Hit | None] | None:
        for index in range(start, len(self.tables)):
            if hit is None:
                return None
            found = self.tables[index].get(hit[0])
            if waits(found):
                return self._later(index, found)
            hit = found  # type: ignore[assignment]
        return hit

    async def _later(self, index: int, asked: Awaitable[Hit | None]) -> Hit | None:
        return await answered(self._from(index + 1, await asked))


class Union(_Compound):
    """Values in the order of the tables, joined by commas."""

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None:
        found: list[Hit | Awaitable[Hit | None] | None] = []
        try:
            found += (table.get(key) for table in self.tables)
        except BaseException:
            _given_up(found)
            raise
        if any(waits(answer) for answer in found):
            return self._later(found)
        return _joined([hit for hit in found if hit])  # type: ignore[misc]

    async def _later(self, asked: Sequence[Hit | Awaitable[Hit | None] | None]) -> Hit | None:
        try:
            hits = [await answered(answer) for answer in asked]
        except BaseException:
            _given_up(asked)
            raise
        return _joined([hit for hit in hits if hit])


def _given_up(asked: Sequence[Hit | Awaitable[Hit | None] | None]) -> None:
    """Nobody waits for these any more."""
    for answer in asked:
        if isinstance(answer, Coroutine):
            answer.close()


def _joined(hits: Sequence[Hit]) -> Hit | None:
    if not hits:
        return None
    return ",".join(value for value, _ in hits), ", ".join(place for _, place in hits)


class Random:
    """`randmap:{value, value}`: any key has one of the values."""

    pattern = True
    at_once = True

    def __init__(self, values: Sequence[str], source: Source) -> None:
        self.source, self._values = source, values

    def get(self, key: str) -> Hit | None:
        return random.choice(self._values), "randmap"

    def entries(self) -> Iterator[tuple[str, str, int]]:
        return ((("", value, number)) for number, value in enumerate(self._values, 1))


class Fail:
    """`fail:why` cannot answer (Postfix has it for trying out what happens then)."""

    pattern = True
    at_once = True

    def __init__(self, text: str, source: Source) -> None:
        self.source, self._text = source, text

    def get(self, key: str) -> Hit | None:
        raise TableUnavailable("fail:", f"fail:{self._text}")

    def entries(self) -> Iterator[tuple[str, str, int]]:
        return iter(())


def randmap(text: str, source: Source) -> Random:
    """The values in braces, by commas or blanks. Raises TableError."""
    body = braced(text)
    values = items(body) if body is not None else None
    if not values:
        raise TableError("random values are written randmap:{value, value}")
    return Random([braced(value) or value for value in values], source)
