"""Fixed-string tables: texthash, aliases, synced, inline, static. Keys are folded when read and when looked up.

Contract: the first entry of a key stays (inline: the last), others are warnings. A look-up is one dictionary access, well
below 1 µs. What failure means for the mail: a look-up cannot fail (but in a synced list that was never fetched); a
flawed file never gets into force.
"""

import re
from collections.abc import Iterator
from typing import TypeVar

from appliance.mail.ports import Unavailable
from appliance.tables.text import BLANKS, Source, TableError, braced, items

#: A key ends at the first blank outside "..."; a backslash protects what follows; both stay part of the key.
_KEY = re.compile(r'(?:[^" \t\r\v\f\\]|\\.|\\\Z|"(?:[^"\\]|\\.|\\\Z)*(?:"|\Z))+')
#: What str.split() cuts otherwise than Postfix: quotes, backslashes, blanks that are none of BLANKS.
_ODD = re.compile(r'["\\\x1c-\x1f\x80-\U0010ffff]')
#: The name of an alias, in quotes or not, and its colon.
_ALIAS = re.compile(r'(?:"((?:[^"\\]|\\.)+)"|([^ \t\r\v\f:"]+))[ \t]*:')
_PAIR = re.compile(r"\\(.)")


class Fixed:
    """A table of fixed strings in memory."""

    pattern = False
    at_once = True

    def __init__(self, source: Source) -> None:
        self.source = source
        self._values: dict[str, tuple[str, int]] = {}
        self._same: dict[str, str] = {}

    def get(self, key: str) -> tuple[str, str] | None:
        """(value, "file:line"), or None."""
        found = self._values.get(key.lower())
        return None if found is None else (found[0], f"{self.source.path or 'inline'}:{found[1]}")

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """(key, value, line) of all entries, for whoever must check the values."""
        return ((key, value, line) for key, (value, line) in self._values.items())

    def __len__(self) -> int:
        return len(self._values)

    def add(self, line: int, key: str, value: str) -> None:
        folded = key.lower()
        self.source.literal(line, 1, key)
        known = self._values.setdefault(folded, (self._same.setdefault(value, value), line))
        if known[1] != line:
            self.source.flaw(line, 1, f'"{key}" stands in line {known[1]} already, which holds', fatal=False)

    def seal(self) -> None:
        """Reading is over: give back what only reading needed."""
        self._same.clear()


_Fixed = TypeVar("_Fixed", bound=Fixed)


class Synced(Fixed):
    """A list of recipients that is fetched (tables/known). `absent`: why it is not there yet, "" once it is: then nobody
    can say who is not in it."""

    absent = ""

    def get(self, key: str) -> tuple[str, str] | None:
        """Raises Unavailable while there is no list."""
        if self.absent:
            raise Unavailable(self.absent)
        return super().get(key)


class Static:
    """`static:text`: every key has this value."""

    pattern = False
    at_once = True

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self._found = (text, "static:1")

    def get(self, key: str) -> tuple[str, str] | None:
        return self._found

    def entries(self) -> Iterator[tuple[str, str, int]]:
        return iter([("*", self._found[0], 1)])


def synced(data: bytes, source: Source) -> Synced:
    """What `postgate recipients sync` wrote; nothing at all (it always writes a head) if it never did."""
    table = Synced(source)
    if not data:
        table.absent = f"{source.path} was never fetched (postgate recipients sync)"
    return _filled(table, data, source)


def texthash(data: bytes, source: Source) -> Fixed:
    """A file of `key blanks value` lines, as postmap(1) reads it."""
    return _filled(Fixed(source), data, source)


def _filled(table: _Fixed, data: bytes, source: Source) -> _Fixed:
    for number, line in source.lines(data):
        if not _ODD.search(line):
            parts = line.split(None, 1)
            key, value = parts[0], parts[1].rstrip(BLANKS) if len(parts) == 2 else ""
        else:
            key, value = _split(line)
        if not value:
            source.flaw(number, 1, f'"{key}" has no value: write key, white space, value')
            continue
        if key[-1] == ":":
            source.flaw(number, len(key), f'the key "{key}" ends in a colon: is this an aliases file?', fatal=False)
        table.add(number, key, value)
    table.seal()
    return table


def aliases(data: bytes, source: Source) -> Fixed:
    """A text of aliases(5): `name: address, address`."""
    table = Fixed(source)
    for number, line in source.lines(data):
        found = _ALIAS.match(line)
        if not found:
            source.flaw(number, 1, "is no alias: write name: address, address")
        elif not (value := line[found.end() :].strip(BLANKS)):
            source.flaw(number, 1, f'"{found[0]}" leads to nobody')
        else:
            name = found[2] if found[1] is None else _PAIR.sub(r"\1", found[1])
            table.add(number, name, value)
    table.seal()
    return table


def _split(line: str) -> tuple[str, str]:
    found = _KEY.match(line)
    end = found.end() if found else 0
    return line[:end], line[end:].strip(BLANKS)


def inline(text: str, source: Source) -> Fixed:
    """`inline:{ key=value, { key = value with blanks } }`. Raises TableError for anything else in the place of a list."""
    body = braced(text)
    parts = None if body is None else items(body)
    if parts is None:
        raise TableError("an inline table is written inline:{ key=value, { key = value with blanks } }")
    table = Fixed(source)
    for number, part in reversed([*enumerate(parts, 1)]):  # of several for a key the last one counts, as in Postfix
        key, equals, value = (braced(part) or part).partition("=")
        if not (equals and key.strip() and value.strip()):
            source.flaw(number, 1, f'"{part}" is not key=value')
            continue
        table.add(number, key.strip(), value.strip())
    table.seal()
    return table


def static(text: str, source: Source) -> Static:
    """`static:text` or `static:{ text with blanks }`."""
    body = braced(text)
    return Static(text if body is None else body, source)
