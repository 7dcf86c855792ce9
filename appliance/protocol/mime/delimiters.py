"""Finds the delimiter lines of the multiparts that are open (RFC 2046 5.1.1).

A line that only begins with an open boundary is a delimiter in sloppy readings; of two boundaries the one that fits
exactly counts, whatever the other is the beginning of. Contract: linear: a few lines that begin with two dashes are
looked at one by one, many by one pattern in C. `odd` is told of lines that only begin with a boundary, and of those
whose multipart has ended. What failure means for the mail: none.
"""

import re
from typing import NamedTuple

from appliance.protocol.mime.limits import Octets

_LINE = re.compile(rb"[^\r\n]*")
#: Lines that are looked at one by one; boundaries that a pattern names; ended boundaries that are remembered.
_FEW, _MANY, _ENDED = 300, 40, 64


class Delimiter(NamedTuple):
    """A delimiter line: where it begins and ends (without its line break), its level, whether it is the last one."""

    at: int
    end: int
    level: int
    last: bool


class Delimiters:
    """Of one reading; `sloppy`: a line that only begins with a boundary counts."""

    def __init__(self, data: Octets, end: int, sloppy: bool, odd: set[str]) -> None:
        self._data, self._end, self._sloppy, self._odd = data, end, sloppy, odd
        #: For each boundary the levels that have it, the innermost last; boundaries of multiparts that have ended.
        self._known: dict[bytes, list[int]] = {}
        self._ended: set[bytes] = set()
        self._looked = 0
        self._pattern: re.Pattern[bytes] | None = None

    def open(self, boundaries: tuple[bytes, ...], level: int) -> None:
        """A multipart begins."""
        for boundary in boundaries:
            levels = self._known.setdefault(boundary, [])
            if levels:
                self._odd.add("boundary_twice")
            levels.append(level)
            self._ended.discard(boundary)
        self._pattern = None

    def close(self, boundaries: tuple[bytes, ...]) -> None:
        """The innermost multipart is over."""
        for boundary in boundaries:
            levels = self._known[boundary]
            levels.pop()
            if not levels:
                del self._known[boundary]
        self._pattern = None

    def ended(self, boundaries: tuple[bytes, ...]) -> None:
        """Its last delimiter was seen: another one would be odd."""
        if len(self._ended) < _ENDED:
            self._ended.update(boundaries)
        else:  # nobody looks for so many: read it in both ways
            self._odd.add("after_end")
        self._pattern = None

    def find(self, at: int, before: int) -> Delimiter | None:
        """The first delimiter line that begins in data[at:before]; `at` is where a line begins."""
        if not self._known and (not self._ended or "after_end" in self._odd):
            return None
        start = at if self._data[at : at + 2] == b"--" else self._search(at, before)
        while 0 <= start < before:
            found = _LINE.match(self._data, start + 2, self._end)
            line = found[0] if found else b""
            if (level := self._level(line.rstrip(b" \t"))) is not None:
                return Delimiter(start, start + 2 + len(line), *level)
            start = self._search(start + 2, before)
        return None

    def _search(self, at: int, before: int) -> int:
        """Where the next line begins that may be one, -1 if there is none."""
        self._looked += 1
        end = min(self._end, before + 1024)
        if self._looked < _FEW:
            found = self._data.find(b"\n--", at, end)
            return found + 1 if found >= 0 else -1
        mark = (self._pattern or self._compiled()).search(self._data, at, end)
        return mark.start() + 1 if mark else -1

    def _compiled(self) -> "re.Pattern[bytes]":
        names = [*self._known, *(() if "after_end" in self._odd else self._ended)]
        if len(names) > _MANY:
            text = b"\\n--[%b]" % b"".join(re.escape(bytes([first])) for first in sorted({name[0] for name in names}))
        else:
            text = b"\\n--(?:%b)" % b"|".join(map(re.escape, sorted(names, key=len, reverse=True)))
            if "boundary_prefix" in self._odd and not self._sloppy:
                text += rb"(?:--)?[ \t]*(?=[\r\n]|\Z)"
        self._pattern = re.compile(text)
        return self._pattern

    def _level(self, line: bytes) -> tuple[int, bool] | None:
        """(the open multipart whose delimiter this line is, whether it is its last one)."""
        if levels := self._known.get(line):
            return levels[-1], False
        if line.endswith(b"--") and (levels := self._known.get(line[:-2])):
            return levels[-1], True
        if line in self._ended and "after_end" not in self._odd:
            self._odd.add("after_end")
            self._pattern = None
        return self._prefixed(line) if line.startswith(tuple(self._known)) else None

    def _prefixed(self, line: bytes) -> tuple[int, bool] | None:
        """A line that only begins with a boundary: RFC 2046 has such readers, most do not read so."""
        if "boundary_prefix" not in self._odd:
            self._odd.add("boundary_prefix")
            self._pattern = None
        if not self._sloppy:
            return None
        return next((levels[-1], False) for name, levels in reversed(self._known.items()) if line.startswith(name))
