"""One header block of a part: its Content-* fields in every reading, and what is odd about it.

Contract: linear, no recursion, nothing raises on content but Over. `odd` has words for what readers take differently; a
plain header has none. What failure means for the mail: see limits.
"""

import re
from typing import NamedTuple

from appliance.protocol.mime import parameters
from appliance.protocol.mime.limits import Limits, Over

#: Boundaries that one part may have.
MAX_BOUNDARIES = 16
_FIELD = re.compile(
    rb"^content-(type|transfer-encoding|disposition)([ \t]*):([^\n]*(?:\n[ \t][^\n]*)*)", re.MULTILINE | re.IGNORECASE
)
#: A line where a sloppy reader's header is over: no field and no folded line (mbox's From line counts as none).
_NO_FIELD = re.compile(rb"^(?:[ \t]+\r?$|(?!>?From )[^ \t:\r\n][^:\n]*$|:)", re.MULTILINE)
_BARE_CR = re.compile(rb"\r(?!\r?\n)")
_TOKEN = re.compile(rb"[!#-'*+\-.0-9A-Z^-~]+/[!#-'*+\-.0-9A-Z^-~]+\Z", re.IGNORECASE)
_JUNK = re.compile(rb"[\x00-\x20\"']+")
_ENCODING = re.compile(rb"[\x00-\x20\"'(),;:]+")
_MESSAGES = (b"message/rfc822", b"message/global", b"message/news")
#: How a body may be encoded, by every word for it; others are read as they stand.
ENCODINGS = {
    b"base64": "base64",
    b"quoted-printable": "qp",
    **dict.fromkeys((b"x-uuencode", b"uuencode", b"x-uue", b"uue", b"x-uu"), "uu"),
    **dict.fromkeys((b"x-yencode", b"yenc", b"x-yenc"), "yenc"),
    **dict.fromkeys((b"x-binhex40", b"binhex", b"mac-binhex40", b"x-mac-binhex40"), "binhex"),
}


class Fields(NamedTuple):
    """What one header block says. `types`, `encodings`: of the first to the last field, lower case. `first`, `last`:
    the boundary in the RFC reading of the first and the last Content-Type field (None: no multipart),
    `boundaries`: all that anybody could take. `message`: whether it is one in each of the ways (structure.Way).
    `ends`: where a sloppy reader's header ends, -1 = nowhere before its end."""

    types: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    disposition: str = ""
    charset: str = ""
    first: bytes | None = None
    last: bytes | None = None
    boundaries: tuple[bytes, ...] = ()
    multipart: bool = False
    message: tuple[bool, bool, bool, bool] = (False, False, False, False)
    partial: bool = False
    external: bool = False
    ends: int = -1
    odd: frozenset[str] = frozenset()


PLAIN = Fields()


def parse(block: bytes, limits: Limits) -> Fields:
    """Read a header block. Raises Over."""
    count_fields(block, limits)
    odd: set[str] = set()
    ends = -1
    if found := _NO_FIELD.search(block):
        ends = found.start()
        odd.add("header_end")
    if _BARE_CR.search(block):
        plain = [field.span(3) for field in _FIELD.finditer(block)]
        block = _BARE_CR.sub(b"\n", block)
        if plain != [field.span(3) for field in _FIELD.finditer(block)]:
            odd.add("bare_cr")
    if b"\0" in block:
        odd.add("nul")
        block = block.replace(b"\0", b"")
    values: dict[bytes, list[bytes]] = {b"type": [], b"transfer-encoding": [], b"disposition": []}
    for field in _FIELD.finditer(block):
        values[field[1].lower()].append(field[3])
        if field[2]:
            odd.add("field_name")
    if not (values[b"type"] or values[b"transfer-encoding"] or values[b"disposition"] or odd):
        return PLAIN
    return _Reading(values, limits, odd, ends).fields()


def count_fields(block: bytes, limits: Limits) -> None:
    """Raises Over if there are too many."""
    if block.count(b"\n") > limits.fields:
        count = block.count(b"\n") - block.count(b"\n ") - block.count(b"\n\t")
        if count > limits.fields:
            raise Over("fields")


class _Reading:
    """The values of one block on their way to Fields."""

    def __init__(self, values: dict[bytes, list[bytes]], limits: Limits, odd: set[str], ends: int) -> None:
        self.odd, self.ends = odd, ends
        self.encodings = self._encodings(values[b"transfer-encoding"])
        self.types = [_type(value) for value in values[b"type"]]
        self.whole = [value.partition(b";")[0].lower() for value in values[b"type"]]
        self.parameters = [parameters.parse(value, limits.parameters) for value in values[b"type"]]
        self.disposed = [parameters.parse(value, limits.parameters) for value in values[b"disposition"]]
        self.dispositions = [_type(value) for value in values[b"disposition"]]
        if len(set(values[b"type"])) > 1:
            odd.add("type_doubled")
        if len(set(self.types)) > 1:
            odd.add("types_differ")
        for kind in self.types:
            if not _TOKEN.match(kind):
                odd.add("type_odd")

    def _encodings(self, values: list[bytes]) -> tuple[str, ...]:
        found = []
        for value in values:
            word = value.strip().lower()
            known = ENCODINGS.get(word)
            if known is None and (sloppy := [text for text in _ENCODING.split(word) if text in ENCODINGS]):
                known = ENCODINGS[sloppy[0]]
                self.odd.add("encoding_odd")
            if known is None and (joined := _ENCODING.sub(b"", word)) in ENCODINGS:
                known = ENCODINGS[joined]
                self.odd.add("encoding_odd")
            found.append(known or "")
        if len(set(found)) > 1:
            self.odd.add("encoding_doubled")
        return tuple(dict.fromkeys(found))

    def fields(self) -> Fields:
        types = self.types
        names = dict.fromkeys(name for read in (*self.disposed, *self.parameters) for name in parameters.names(read))
        multipart = any(b"multipart" in whole for whole in self.whole)
        first, last, boundaries = self._boundaries() if multipart else (None, None, ())
        message = [kind.startswith(_MESSAGES) for kind in types] or [False]
        nested = any(message) or any(b"message/rfc822" in whole for whole in self.whole)
        charsets = [read.first[b"charset"] for read in self.parameters if b"charset" in read.first]
        if len({_extension(name) for name in names} - {""}) > 1:
            self.odd.add("names_differ")
        return Fields(
            tuple(dict.fromkeys(kind.decode("latin-1")[:200] for kind in types)),
            self.encodings,
            tuple(names),
            self.dispositions[0].decode("latin-1")[:40] if self.dispositions else "",
            parameters.codec(charsets[0]) if charsets else "",
            first,
            last,
            boundaries,
            multipart,
            (message[0], message[-1], nested, nested),
            any(b"message/partial" in whole for whole in self.whole),
            any(b"message/external-body" in whole for whole in self.whole),
            self.ends,
            frozenset(self.odd),
        )

    def _boundaries(self) -> tuple[bytes | None, bytes | None, tuple[bytes, ...]]:
        """(of the first field, of the last, of all in every form)."""
        every: dict[bytes, None] = {}
        for read in self.parameters:
            for form in read.forms.get(b"boundary", ()):
                every.setdefault(form.rstrip(b" \t"))
                if b"=?" in form:
                    every.setdefault(parameters.words_decoded(form))
        plain = [
            (read.first[b"boundary"].rstrip(b" \t"), read.last[b"boundary"].rstrip(b" \t"))
            for kind, read in zip(self.types, self.parameters, strict=True)
            if kind.startswith(b"multipart/") and b"boundary" in read.first
        ]
        if b"" in every or not every:
            self.odd.add("boundary_missing")
        elif len(every) > 1:
            self.odd.add("boundary_odd")
        first = plain[0][0] if plain and self.types[0].startswith(b"multipart/") else None
        last = plain[-1][1] if plain and self.types[-1].startswith(b"multipart/") else None
        if (first is None or last is None) and not self.odd:
            self.odd.add("type_odd")
        return first or None, last or None, tuple(filter(None, every))[:MAX_BOUNDARIES]


def _type(value: bytes) -> bytes:
    """The type of a field's value: without comments, blanks and quotes, lower case."""
    kind = value.partition(b";")[0].strip().lower()
    if _TOKEN.match(kind):
        return kind
    return _JUNK.sub(b"", parameters.uncommented(kind))


def _extension(name: str) -> str:
    return name.rstrip(" .\0").lower().rpartition(".")[2] if "." in name else ""
