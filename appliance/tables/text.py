"""Text as lookup tables are written: logical lines, brace lists, flaws with their places.

Contract: nothing here raises for bad content; each flaw is noted with its line, the line is left out, the rest holds.
A fatal flaw (a rule that would be missing) keeps the configuration that names the table out of force.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: What Postfix's ISSPACE() knows; Unicode's blanks are data.
BLANKS = " \t\r\v\f"
BLOCK = 1 << 18
MOST_FLAWS = 50


class Flaw(NamedTuple):
    """One mistake in a table. `path` is "" for a table that stands in its specification (inline): `line` counts items."""

    path: str
    line: int
    column: int
    text: str
    fatal: bool = True


#: What looks like a network with its length (or, as some write it, its mask), also in brackets.
_NETWORK = re.compile(r"(?:(?:\d{1,3}\.){0,3}\d{1,3}|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?)/(?:\d{1,3}|\d+\.\d+\.\d+\.\d+)\Z")


class TableError(Exception):
    """The specification is no table at all: unknown type, no name. The text says what to write instead."""


class Source:
    """One table's text while it is read, with the flaws found so far (at most MOST_FLAWS, then a count)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._flaws: list[Flaw] = []
        self._more = 0
        #: Of lines that go on: how long they are up to each further physical line, and which that is.
        self._folds: dict[int, list[tuple[int, int]]] = {}

    def flaw(self, line: int, column: int, text: str, *, fatal: bool = True) -> None:
        if len(self._flaws) < MOST_FLAWS or (fatal and not any(flaw.fatal for flaw in self._flaws)):
            self._flaws.append(Flaw(self.path, line, column, text, fatal))
        else:
            self._more += 1

    def literal(self, line: int, column: int, key: str) -> None:
        """`key` is looked up as it stands: a network with its length, which no client's address is, will never match."""
        if "/" in key and _NETWORK.match(key):
            text = f'"{key}" never matches here: keys are compared as they are; networks are matched by a cidr: table'
            self.flaw(line, column, text, fatal=False)

    def adopt(self, flaws: Iterable[Flaw]) -> None:
        """Those of a table that this one is made of."""
        self._flaws += flaws

    def place(self, line: int, column: int) -> tuple[int, int]:
        """The physical line and column of a column in the logical line that begins in `line`."""
        for length, number in reversed(self._folds.get(line, ())):
            if column > length:
                return number, column - length
        return line, column

    @property
    def flaws(self) -> tuple[Flaw, ...]:
        """In the order of the lines."""
        ordered = sorted(self._flaws, key=lambda flaw: (flaw.line, flaw.column))
        if not self._more:
            return tuple(ordered)
        last = ordered[-1]
        return (*ordered, Flaw(self.path, last.line, 1, f"and {self._more} more of these", False))

    def lines(self, data: bytes) -> Iterator[tuple[int, str]]:
        """Logical lines with the number of their first physical line (Postfix readlline(3)): a line that starts with a
        blank continues the one before; comment and empty lines vanish and do not end a logical line."""
        first, whole = 0, ""
        for number, line in self.physical(data):
            bare = line.lstrip(BLANKS)
            if not bare or bare[0] == "#":
                continue
            if line[0] not in BLANKS:
                if whole:
                    yield first, whole
                first, whole = number, line
            elif whole:
                self._folds.setdefault(first, []).append((len(whole), number))
                whole += line
            else:
                self.flaw(number, 1, "begins with white space, but there is no line before it to continue")
        if whole:
            yield first, whole

    def physical(self, data: bytes) -> Iterator[tuple[int, str]]:
        """Physical lines without CR and LF; lines that are no text are flaws, but for comments in another charset. In
        blocks: a big file never holds the interpreter lock for long."""
        text, sound = self._decode(data)
        number = start = 0
        while start < len(text):
            end = text.find("\n", start + BLOCK)
            end = len(text) if end < 0 else end + 1
            for line in text[start:end].removesuffix("\n").split("\n"):
                number += 1
                if sound or self._is_text(number, line):
                    yield number, line[:-1] if line.endswith("\r") else line
            start = end

    def _decode(self, data: bytes) -> tuple[str, bool]:
        if data.startswith(b"\xef\xbb\xbf"):
            self.flaw(1, 1, "begins with a byte order mark; save it as UTF-8 without one", fatal=False)
            data = data[3:]
        try:
            return data.decode(), b"\0" not in data
        except UnicodeDecodeError:
            return data.decode(errors="surrogateescape"), False

    def _is_text(self, number: int, line: str) -> bool:
        comment = line.lstrip(BLANKS).startswith("#")
        for column, letter in enumerate(line, 1):
            if letter == "\0":
                self.flaw(number, column, "a NUL byte: this is not a text file")
                return False
            if "\ud800" <= letter <= "\udfff" and not comment:
                self.flaw(number, column, f"byte 0x{ord(letter) & 0xFF:02x} is not UTF-8")
                return False
        return True


def braced(text: str) -> str | None:
    """What stands within `{ ... }` when the braces enclose all of `text`, else None."""
    text = text.strip()
    return text[1:-1].strip(BLANKS + "\n") if len(text) > 1 and text[0] == "{" and text[-1] == "}" else None


def items(text: str) -> list[str] | None:
    """Items of a list separated by comma or white space; braces protect both and stay. None if braces do not pair."""
    found, depth, item = [], 0, ""
    for letter in text:
        if letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
        if depth < 0:
            return None
        if depth == 0 and letter in ", \t\r\n\v\f":
            found.append(item)
            item = ""
        else:
            item += letter
    return [part for part in [*found, item] if part] if depth == 0 else None
