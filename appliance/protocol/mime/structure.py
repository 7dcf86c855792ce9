"""One reading of a message's MIME structure (RFC 2046): header of a part, then on to the next delimiter that is open.

Contract: linear in the octets, without recursion; nothing is decoded. There are three ways: FIRST (the RFC, doubled
things count once, the first), LAST (the last of doubled things counts), ALL (the sloppy ones at once: any boundary
that any reader could take, lines that only begin with one, a header that ends at its first line that is no field),
BEYOND (the same, and a multipart's end is none). `odd` has words for what readers take differently; without any, all
ways are the same.
What failure means for the mail: passing a limit ends the reading with Over; nothing else raises on content.
"""

import re
from typing import Literal, NamedTuple

from appliance.protocol.mime import fields
from appliance.protocol.mime.delimiters import Delimiter, Delimiters
from appliance.protocol.mime.fields import Fields
from appliance.protocol.mime.limits import Limits, Octets, Over

Way = Literal["first", "last", "all", "beyond"]
_LINE_END = re.compile(rb"\r?\n")
_EMPTY = re.compile(rb"\n(?=(\r?\n))")
#: Octets of a header that are looked at first.
_WINDOW = 4096
#: Octets in which a boundary is looked for that no field names.
_GUESS = 65536
_GUESSED = re.compile(rb"(?:\A|\n)--([^\r\n]{1,70})\r?\n")
_CONTENT = re.compile(rb"(?:\A|\n)content-[a-z-]{4,20}[ \t]*:", re.IGNORECASE)

Kind = Literal["leaf", "message", "multipart", "before", "after"]


class Piece(NamedTuple):
    """A stretch of octets: a part with its header, or what stands before the first or behind the last part (`before`,
    `after`). `start` and `end` are those of its body, a multipart's and a message's being all that is inside."""

    kind: Kind
    path: str
    depth: int
    header: tuple[int, int]
    start: int
    end: int
    fields: Fields


class Walk(NamedTuple):
    """One reading. `parts` in it, the message itself among them; `depth` levels of nesting."""

    pieces: list[Piece]
    parts: int
    depth: int
    odd: set[str]
    over: str = ""


class _Level:
    """An open multipart: its piece without an end, its boundaries, and how many parts it had."""

    __slots__ = ("boundaries", "children", "digest", "enclosing", "piece", "seen")

    def __init__(self, piece: Piece, boundaries: tuple[bytes, ...], enclosing: list[Piece]) -> None:
        self.piece, self.boundaries, self.enclosing = piece, boundaries, enclosing
        self.children = 0
        self.seen = False
        self.digest = "multipart/digest" in piece.fields.types


def walk(
    data: Octets, start: int, end: int, limits: Limits, way: Way = "first", depth: int = 0, prefix: str = ""
) -> Walk:
    """Read the message in data[start:end], which is `depth` levels deep at `prefix` already."""
    walker = _Walker(data, end, limits, way, depth)
    over = ""
    try:
        walker.run(start, depth, prefix)
    except Over as error:
        over = str(error)
    walker.finish()
    return Walk(walker.pieces, walker.count, walker.depth, walker.odd, over)


class _Walker:
    """Goes through the octets once."""

    def __init__(self, data: Octets, end: int, limits: Limits, way: Way, depth: int) -> None:
        self.data, self.end, self.limits, self.way = data, end, limits, way
        self.sloppy = way in ("all", "beyond")
        self.count, self.depth = 0, depth
        self.pieces: list[Piece] = []
        self.odd: set[str] = set()
        self.open: list[_Level] = []
        self.delimiters = Delimiters(data, end, self.sloppy, self.odd)
        #: The stretch under way, and messages around it inside the innermost level.
        self.under: Piece | None = None
        self.around: list[Piece] = []

    def run(self, start: int, depth: int, prefix: str) -> None:
        position: int | None = start
        digest = False
        number = 0
        while position is not None:
            self._count(depth)
            stop, behind, inner = self._header_end(position)
            block = bytes(self.data[position:stop])
            found = fields.parse(block, self.limits)
            self.odd |= found.odd
            if self.sloppy and found.ends >= 0:
                behind, inner = position + found.ends, None
                found = fields.parse(block[: found.ends], self.limits)
            path = f"{prefix}.{number}".lstrip(".") if number else prefix
            piece = Piece("leaf", path, depth, (position, stop), behind, self.end, found)
            if inner is not None:
                self.under = piece
                following = self._at_delimiter(inner) or self._next(inner.end)
            elif self._is_multipart(piece):
                following = self._next(behind)
            elif self._is_message(found, digest):
                self.around.append(piece._replace(kind="message"))
                position, depth, prefix, number, digest = behind, depth + 1, path, 0, False
                continue
            else:
                self.under = piece if number else piece._replace(path=f"{path}.1".lstrip("."))
                following = self._next(behind)
            if following is None:
                return
            position, level = following
            depth, prefix, number, digest = level.piece.depth + 1, level.piece.path, level.children, level.digest

    def _count(self, depth: int) -> None:
        if depth > self.limits.depth:
            raise Over("depth")
        if self.count >= self.limits.parts:
            raise Over("parts")
        self.count += 1
        self.depth = max(self.depth, depth)

    def _is_message(self, found: Fields, digest: bool) -> bool:
        if digest and not found.types:
            return True
        return found.message[("first", "last", "all", "beyond").index(self.way)]

    def _is_multipart(self, piece: Piece) -> bool:
        """Open it if it is one."""
        found = piece.fields
        if not found.multipart:
            return False
        named: tuple[bytes, ...]
        if self.sloppy:
            named = found.boundaries or self._guess(piece.start)
        else:
            one = found.first if self.way == "first" else found.last
            named = (one,) if one is not None else ()
        if not named:
            return False
        level = _Level(piece._replace(kind="multipart"), named, self.around)
        self.around = []
        self.delimiters.open(named, len(self.open))
        self.open.append(level)
        self.under = piece._replace(kind="before")
        return True

    def _guess(self, start: int) -> tuple[bytes, ...]:
        found = _GUESSED.search(self.data[start : min(self.end, start + _GUESS)])
        return (found[1].rstrip(b" \t"),) if found else ()

    def _header_end(self, position: int) -> tuple[int, int, Delimiter | None]:
        """(where the header ends, where the body begins, the delimiter that cut it short)."""
        data, most = self.data, position + self.limits.header
        if found := _LINE_END.match(data, position, self.end):
            return position, found.end(), None
        window = position + _WINDOW
        while True:  # what is near is found without looking at what is far
            stop = min(self.end, most + 3, window)
            empty = _EMPTY.search(data, position, stop)
            if (inner := self.delimiters.find(position, empty.end() if empty else stop)) is not None:
                return inner.at, inner.end, inner
            if empty is not None:
                return empty.end(), empty.end(1), None
            if stop == self.end and self.end <= most:
                return self.end, self.end, None
            if stop < window:
                raise Over("header")
            window = position + 4 * (window - position)

    def _next(self, position: int) -> tuple[int, _Level] | None:
        """Where the next part begins, and its level; None at the end."""
        while (found := self.delimiters.find(position, self.end)) is not None:
            if following := self._at_delimiter(found):
                return following
            line_end = _LINE_END.match(self.data, found.end, self.end)
            position = line_end.end() if line_end else found.end
        return None

    def _at_delimiter(self, found: Delimiter) -> tuple[int, _Level] | None:
        """At a delimiter: where the part behind it begins, and its level; None if it is the last one."""
        self._end_piece(found.at)
        while len(self.open) > found.level + 1:
            self._close(found.at)
        level = self.open[found.level]
        level.seen = True
        self._end_messages(found.at)
        line_end = _LINE_END.match(self.data, found.end, self.end)
        behind = line_end.end() if line_end else self.end
        if found.last:
            self.delimiters.ended(level.boundaries)
            if self.way != "beyond":
                self._close(behind)
                path, depth = level.piece.path, level.piece.depth
                self.under = Piece("after", path, depth, (behind, behind), behind, self.end, fields.PLAIN)
                return None
        level.children += 1
        return behind, level

    def _end_piece(self, at: int) -> None:
        """What is under way ends before the line that begins at `at`."""
        piece, self.under = self.under, None
        if piece is None:
            return
        end = max(self._before(at), piece.start)
        if piece.kind == "leaf":
            self.pieces.append(piece._replace(end=end))
        elif self.data[piece.start : min(end, piece.start + 65536)].strip():
            if _CONTENT.search(self.data[piece.start : end]):
                self.odd.add("outside_parts")
            self.pieces.append(piece._replace(end=end))

    def _before(self, at: int) -> int:
        """Where the line before ends: its line break belongs to the delimiter."""
        if 0 < at < self.end and self.data[at - 1 : at] == b"\n":
            at -= 1
            if at and self.data[at - 1 : at] == b"\r":
                at -= 1
        return at

    def _end_messages(self, at: int) -> None:
        for piece in self.around:
            self.pieces.append(piece._replace(end=max(self._before(at), piece.start)))
        self.around = []

    def _close(self, at: int) -> None:
        """The innermost multipart ends."""
        self._end_messages(at)
        level = self.open.pop()
        self.around = level.enclosing
        if not level.seen:
            self.odd.add("no_parts")
        self.pieces.append(level.piece._replace(end=max(self._before(at), level.piece.start)))
        self.delimiters.close(level.boundaries)

    def finish(self) -> None:
        """All that is still open ends with the octets."""
        self._end_piece(self.end)
        while self.open:
            self._close(self.end)
        self._end_messages(self.end)
