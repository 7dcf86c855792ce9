"""The MIME structure of a message (RFC 2045, 2046): how many parts, how deep, which names. Reads hostile content.

Contract: linear in the octets, without recursion; nothing is decoded and nothing is kept but what is counted. Limits are
looked at before anything deeper is read, and passing one ends the reading: `over` names it. A boundary counts as soon as
any Content-Type field of the part names it, so a part with two of them is read with the boundaries of both. What failure
means for the mail: content over a limit is "too complex", neither good nor bad; nothing here raises on content.
"""

import re
from mmap import mmap
from typing import NamedTuple

#: Names that are reported, and octets of each.
MAX_NAMES, MAX_NAME = 100, 255
#: Boundaries that one part may name.
_BOUNDARIES = 16
_DELIMITER = re.compile(rb"(?:\A|\n)--(?P<line>[^\r\n]*)")
#: In a header: its empty line, or a line that may be a delimiter.
_MARK = re.compile(rb"\n(?:(?=(?P<empty>\r?\n))|--(?P<line>[^\r\n]*))")
_LINE_END = re.compile(rb"\r?\n")
_FIELD = re.compile(rb"^content-(type|disposition)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.MULTILINE | re.IGNORECASE)
_PARAMETER = re.compile(
    rb';[ \t\r\n]*([^\s=;"()]{1,64})[ \t\r\n]*=[ \t\r\n]*(?:"((?:[^"\\]++|\\[\x00-\xff])*+)"?|([^\s;"]*))'
)
#: Types whose body is a header and a body.
_MESSAGES = (b"message/rfc822", b"message/global", b"message/news", b"message/external-body")
_ESCAPE = re.compile(rb"\\([\x00-\xff])")
_SECTION = re.compile(rb"([^*]+)(?:\*(\d{1,3}))?\*?\Z")

Octets = bytes | mmap


class Limits(NamedTuple):
    """How far a structure is read. Octets and fields are those of one header block."""

    depth: int = 50
    parts: int = 2000
    header: int = 524288
    fields: int = 10000
    parameters: int = 200


LIMITS = Limits()


class Shape(NamedTuple):
    """`parts` counts every part, the message itself among them; a message without parts has depth 0. `over`: "", "depth",
    "parts", "header", "fields", "parameters". `names` are what the message calls its attachments: data, never a path."""

    parts: int
    depth: int
    over: str = ""
    names: tuple[str, ...] = ()


class _Over(Exception):
    """A limit is passed; its name."""


class _Level(NamedTuple):
    """An open multipart: its boundaries and the depth of its parts."""

    boundaries: tuple[bytes, ...]
    depth: int


def read(data: Octets, start: int = 0, end: int | None = None, limits: Limits = LIMITS) -> Shape:
    """The structure of the message in data[start:end]."""
    reader = _Reader(data, len(data) if end is None else end, limits)
    over = ""
    try:
        reader.run(start)
    except _Over as error:
        over = str(error)
    return Shape(reader.parts, reader.depth, over, tuple(reader.names))


class _Reader:
    """Goes through the octets once: header of a part, then on to the next delimiter that is open."""

    def __init__(self, data: Octets, end: int, limits: Limits) -> None:
        self.data, self.end, self.limits = data, end, limits
        self.parts = self.depth = 0
        self.names: list[str] = []
        self.open: list[_Level] = []
        #: For each boundary the levels that have it, the innermost last.
        self.known: dict[bytes, list[int]] = {}

    def run(self, start: int) -> None:
        position: int | None = start
        depth = 0
        while position is not None:
            self._count(depth)
            stop, behind, inner = self._header_end(position)
            kind = self._look(bytes(self.data[position:stop]), depth)
            if inner is not None:  # a delimiter came before the header's end
                following = self._at_delimiter(inner)
            elif kind == "message":
                position, depth = behind, depth + 1
                continue
            else:
                following = None
            position, depth = following or self._next(behind)

    def _count(self, depth: int) -> None:
        if depth > self.limits.depth:
            raise _Over("depth")
        if self.parts >= self.limits.parts:
            raise _Over("parts")
        self.parts += 1
        self.depth = max(self.depth, depth)

    def _header_end(self, position: int) -> tuple[int, int, "re.Match[bytes] | None"]:
        """(where the header ends, where the body begins, the delimiter that cut it short)."""
        data, most = self.data, position + self.limits.header
        if found := _LINE_END.match(data, position, self.end):
            return position, found.end(), None
        at = position - 1 if position and data[position - 1 : position] == b"\n" else position
        while True:
            mark = _MARK.search(data, at, min(self.end, most + 3))
            if mark is None:
                if self.end > most:
                    raise _Over("header")
                return self.end, self.end, None
            line = mark["line"]
            if line is None:
                return mark.end(), mark.end("empty"), None
            if self._level(line) is not None:
                return mark.start() + 1, mark.end(), mark
            at = mark.end()

    def _next(self, position: int) -> tuple[int | None, int]:
        """Where the next part begins and how deep it is; None at the end."""
        if not self.open:
            return None, 0
        at = position - 1 if position and self.data[position - 1 : position] == b"\n" else position
        for delimiter in _DELIMITER.finditer(self.data, at, self.end):
            if following := self._at_delimiter(delimiter):
                return following
            if not self.open:
                break
        return None, 0

    def _level(self, line: bytes) -> tuple[int, bool] | None:
        """(the open multipart whose delimiter this line is, whether it is its last one)."""
        line = line.rstrip(b" \t")
        if levels := self.known.get(line):
            return levels[-1], False
        if line.endswith(b"--") and (levels := self.known.get(line[:-2])):
            return levels[-1], True
        return None

    def _at_delimiter(self, delimiter: "re.Match[bytes]") -> tuple[int, int] | None:
        """Where the part behind it begins and how deep it is; None if it is none or ends its multipart."""
        found = self._level(delimiter["line"])
        if found is None:
            return None
        index, last = found
        while len(self.open) > index + (0 if last else 1):
            self._close()
        if last:
            return None
        line_end = _LINE_END.match(self.data, delimiter.end(), self.end)
        return (line_end.end() if line_end else self.end), self.open[index].depth

    def _close(self) -> None:
        level = self.open.pop()
        for boundary in level.boundaries:
            levels = self.known[boundary]
            levels.pop()
            if not levels:
                del self.known[boundary]

    def _look(self, header: bytes, depth: int) -> str:
        """Read one header block: "message" if the part is a message itself, else "". Opens a multipart."""
        if header.count(b"\n") > self.limits.fields:
            fields = header.count(b"\n") - header.count(b"\n ") - header.count(b"\n\t")
            if fields > self.limits.fields:
                raise _Over("fields")
        kind, boundaries = "", []
        for field in _FIELD.finditer(header):
            parameters = self._parameters(field[2])
            self._name(parameters)
            if field[1].lower() == b"type":
                value = field[2].partition(b";")[0].strip().lower()
                if value.startswith(_MESSAGES):
                    kind = "message"
                if b"multipart" in value and (boundary := parameters.get(b"boundary")):
                    boundaries.append(boundary.rstrip(b" \t"))
        if boundaries:
            self._open(tuple(dict.fromkeys(boundaries[:_BOUNDARIES])), depth + 1)
            return ""
        return kind

    def _open(self, boundaries: tuple[bytes, ...], depth: int) -> None:
        for boundary in boundaries:
            self.known.setdefault(boundary, []).append(len(self.open))
        self.open.append(_Level(boundaries, depth))

    def _parameters(self, value: bytes) -> dict[bytes, bytes]:
        """The parameters of a field by lower-case name; pieces (RFC 2231) are joined, percent codes stay."""
        found: dict[bytes, bytes] = {}
        pieces: dict[bytes, dict[int, bytes]] = {}
        for count, item in enumerate(_PARAMETER.finditer(value)):
            if count >= self.limits.parameters:
                raise _Over("parameters")
            name = item[1].lower()
            text = _ESCAPE.sub(rb"\1", item[2]) if item[2] is not None else item[3]
            section = _SECTION.match(name)
            if section is not None and section[2] is not None:
                pieces.setdefault(section[1], {})[int(section[2])] = text
            else:
                found.setdefault(section[1] if section is not None else name, text)
        for name, parts in pieces.items():
            found.setdefault(name, b"".join(parts[number] for number in sorted(parts)))
        return found

    def _name(self, parameters: dict[bytes, bytes]) -> None:
        for key in (b"name", b"filename"):
            if (name := parameters.get(key)) and len(self.names) < MAX_NAMES:
                text = name[:MAX_NAME].decode("utf-8", "replace")
                if text not in self.names:
                    self.names.append(text)
