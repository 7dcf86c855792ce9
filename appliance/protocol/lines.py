"""A message as Postfix's cleanup(8) reads it for header_checks(5): logical header fields, MIME fields, lines of bodies.

Contract: linear in the octets, without recursion; nothing is decoded. A logical field is its lines joined by LF, without
blanks before its colon, at most FIELD_LIMIT octets of it. Lines of bodies come in pieces of at most LINE_LIMIT octets.
A part's header ends where a line is no field. Only message/rfc822 (and the parts of multipart/digest) has a header of
its own; a multipart is read with every boundary that its Content-Type names. What failure means for the mail: nothing
here raises on content; boundaries that are nested deeper than DEPTH are text.
"""

import codecs
import re
from collections.abc import Iterator
from mmap import mmap
from typing import Literal, NamedTuple

Kind = Literal["header", "mime", "nested", "body", "decoded"]
Octets = bytes | mmap

FIELD_LIMIT, LINE_LIMIT, BOUNDARY_LIMIT, DEPTH = 102400, 2048, 2048, 100
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_LINE = re.compile(rb"[^\n]*+(?:\n|\Z)")
_LINES = re.compile(rb"[^\n]*+(?:\n|\Z)(?>(?:[ \t][^\n]*+(?:\n|\Z))*)")
#: Charsets in which mail is written; others have decoders that are slow, or mean something else.
_CHARSET = re.compile(r"utf-(?:8|16|32)|iso8859|cp\d|koi8|gb|big5|shift_jis|euc|iso2022|mac|tis")
_TEXT = re.compile(rb"[^\n]++")
_BREAK = re.compile(rb"\r*\n")
_MIME = frozenset(
    (
        b"content-description",
        b"content-disposition",
        b"content-id",
        b"content-transfer-encoding",
        b"content-type",
        b"mime-version",
    )
)
_TOKEN = re.compile(
    rb'[ \t\r\n]+|"(?P<quoted>(?:[^"\\]|\\[\x00-\xff])*)"?|(?P<special>[()<>@,;:\\/\[\]?=])'
    rb'|(?P<word>[^ \t\r\n"()<>@,;:\\/\[\]?=\x00-\x1f\x7f]+)|[\x00-\xff]'
)
_ESCAPE = re.compile(rb"\\([\x00-\xff])")
_PAREN = re.compile(rb"\\[\x00-\xff]|[()]")


class Line(NamedTuple):
    """`text` is what rules are asked about; the octets [start, end) are where it stands, its line end among them, but for
    a piece that another one of the same line follows: that is not `whole`."""

    kind: Kind
    text: bytes
    start: int
    end: int
    whole: bool = True


class _Open(NamedTuple):
    boundary: bytes
    digest: bool


def walk(data: Octets, start: int, end: int, *, bodies: bool = True, body_limit: int = 51200) -> Iterator[Line]:
    """Every line of the message in data[start:end], in order. `bodies`: lines of bodies too, as far as `body_limit`
    octets of each part (0 = all)."""
    return _Walker(data, end, body_limit if bodies else -1).walk(start)


def lines_of(text: bytes, charset: str) -> Iterator[Line]:
    """The lines of a text that somebody decoded, as UTF-8, in pieces like those of bodies. What cannot be read in its
    charset stays as it is."""
    for found in _TEXT.finditer(_utf8(text, charset)):
        bare = found[0].rstrip(b"\r")
        for begin in range(0, len(bare), LINE_LIMIT):
            yield Line("decoded", bare[begin : begin + LINE_LIMIT], 0, 0)


def _utf8(text: bytes, charset: str) -> bytes:
    try:
        known = codecs.lookup(charset).name
        return text.decode(known, "replace").encode() if _CHARSET.match(known) else text
    except (LookupError, ValueError):
        return text


class _Walker:
    """`kind` is the header that is read, "body" outside of headers; `offset` counts the octets of this body."""

    def __init__(self, data: Octets, end: int, limit: int) -> None:
        self.data, self.end, self.limit = data, end, limit
        self.kind: Kind = "header"
        self.open: list[_Open] = []
        self.message = self.multipart = False
        self.offset = 0
        self._skip: re.Pattern[bytes] | None = None

    def walk(self, at: int) -> Iterator[Line]:
        while at < self.end:
            if self.kind != "body":
                found = _FIELD.match(self.data, at, self.end)
                if found:
                    stop, line = self._field(at, found)
                    yield line
                    at = stop
                    continue
                self._end_of_header(at)
            elif self._is_past():
                at = self._next_delimiter(at)
                if at >= self.end:
                    return
            stop = self._line_end(at)
            yield from self._line(at, stop)
            at = stop

    def _is_past(self) -> bool:
        return self.limit < 0 or 0 < self.limit <= self.offset

    def _line_end(self, at: int) -> int:
        found = _LINE.match(self.data, at, self.end)
        return found.end() if found else self.end

    def _field(self, at: int, found: "re.Match[bytes]") -> tuple[int, Line]:
        """The logical field at `at`, and where the next line begins."""
        name, colon = found[1], found.end()
        lines = _LINES.match(self.data, at, self.end)
        stop = lines.end() if lines else self.end
        text = name + b":" + self.data[colon : min(stop, colon + FIELD_LIMIT - len(name) - 1)]
        text = _BREAK.sub(b"\n", text).rstrip(b"\r\n")
        lower = name.lower()
        if lower == b"content-type":
            self._content_type(text[len(name) + 1 :])
        return stop, Line("mime" if lower in _MIME else self.kind, text, at, stop)

    def _end_of_header(self, at: int) -> None:
        """The line at `at` is no field; what follows is a body, or the header of the message in this part."""
        kind: Kind = "body"
        if _BREAK.match(self.data, at, self.end):
            self.offset = 0
            if self.message and not self.multipart:
                kind = "nested"
        self.kind, self.message, self.multipart = kind, False, False

    def _line(self, at: int, stop: int) -> Iterator[Line]:
        """A line that is no field, in pieces; a delimiter begins or ends a part."""
        if self.open and self.data[at : at + 2] == b"--":
            self._delimiter(bytes(self.data[at + 2 : min(stop, at + 2 + BOUNDARY_LIMIT + 2)]))
        if self._is_past():
            self.offset += stop - at
            return
        text = bytes(self.data[at : min(stop, at + max(self.limit, 1) + LINE_LIMIT) if self.limit else stop])
        whole = len(text) == stop - at
        bare = text.rstrip(b"\r\n") if whole else text
        for begin in range(0, len(bare), LINE_LIMIT):
            if 0 < self.limit <= self.offset:
                return
            piece = bare[begin : begin + LINE_LIMIT]
            last = whole and begin + LINE_LIMIT >= len(bare)
            yield Line("body", piece, at + begin, stop if last else at + begin + len(piece), last)
            self.offset += len(piece)
        self.offset += 1

    def _delimiter(self, rest: bytes) -> None:
        """What a line `--rest` does, if it names an open boundary: the innermost that fits."""
        for index in range(len(self.open) - 1, -1, -1):
            boundary, digest = self.open[index]
            if rest.startswith(boundary):
                last = rest[len(boundary) : len(boundary) + 2] == b"--"
                del self.open[index + (0 if last else 1) :]
                self._skip = None
                self.kind = "body" if last else "mime"
                self.message, self.multipart = digest and not last, False
                return

    def _next_delimiter(self, at: int) -> int:
        """Where the next line that may be a delimiter begins, at `at` or behind."""
        if not self.open:
            return self.end
        if self._skip is None:
            names = b"|".join(re.escape(item.boundary) for item in self.open)
            self._skip = re.compile(rb"\n--(?:" + names + rb")")
        if self.data[at : at + 2] == b"--":
            return at
        found = self._skip.search(self.data, max(at - 1, 0), self.end)
        skipped = (found.start() + 1 if found else self.end) - at
        self.offset += max(skipped, 0)
        return at + skipped

    def _content_type(self, value: bytes) -> None:
        items = _items(value)
        head = next(items, [])
        kind = head[0].lower() if head else b""
        sub = head[2].lower() if len(head) > 2 and head[1] == b"/" else b""
        if kind == b"multipart":
            self.multipart, self.message = True, False
            for item in items:
                if len(item) > 2 and item[0].lower() == b"boundary" and item[1] == b"=" and len(self.open) <= DEPTH:
                    self.open.append(_Open(item[2][:BOUNDARY_LIMIT], sub == b"digest"))
                    self._skip = None
        elif kind in (b"message", b"text", b""):  # a type of another kind leaves the one before it in force
            self.message, self.multipart = (kind, sub) == (b"message", b"rfc822"), False


def _items(value: bytes) -> Iterator[list[bytes]]:
    """The items of a structured value between its semicolons, of each the first three tokens; comments left out."""
    item: list[bytes] = []
    at = 0
    while at < len(value):
        found = _TOKEN.match(value, at)
        if found is None:
            break
        at = found.end()
        if found["special"] == b"(":
            at = _comment_end(value, at)
        elif found["special"] == b";":
            yield item
            item = []
        elif found.lastgroup and len(item) < 3:
            quoted = found["quoted"]
            item.append(found[0] if quoted is None else _ESCAPE.sub(rb"\1", quoted))
    yield item


def _comment_end(value: bytes, at: int) -> int:
    depth = 1
    for found in _PAREN.finditer(value, at):
        depth += (found[0] == b"(") - (found[0] == b")")
        if depth == 0:
            return found.end()
    return len(value)
