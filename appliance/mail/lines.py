"""Rules over the lines of a message (Postfix header_checks(5)) as values: what is asked, and what was hit.

Contract: frozen values; whoever looks the lines up (tables.lines) knows no action but those that end the search, and
whoever judges them (checks.content) reads no content.
"""

from typing import Literal

import msgspec

#: What a line is: a field of the message's own header, a MIME field (Content-..., or any of a part's header), a field of
#: an attached message, a line of anything else, a line of a text that somebody decoded.
Kind = Literal["header", "mime", "nested", "body", "decoded"]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Tables for each kind, searched one after the other for each line. Of each part the first `body_limit` octets
    are looked at (0 = all). `decoded` are texts (with charsets) whose lines are asked about like those of bodies, behind
    all others. A value that begins with one of `ends` (lower case) ends the search."""

    header: tuple[str, ...] = ()
    mime: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    body_limit: int = 51200
    ends: frozenset[str] = frozenset()
    decoded: tuple[tuple[bytes, str], ...] = ()

    def tables(self, kind: Kind) -> tuple[str, ...]:
        if kind == "header":
            return self.header
        return self.mime if kind == "mime" else self.nested if kind == "nested" else self.body


class Hit(msgspec.Struct, frozen=True):
    """The first rule that matched one line. `value` is its result, `place` "file:line"; `text` begins as the line does.
    The line has the octets [start, end) of the content (a decoded one has none), its line end among them, but for a piece
    of a long line that is not `whole`."""

    kind: Kind
    value: str
    place: str
    text: str
    start: int
    end: int
    whole: bool = True


class Found(msgspec.Struct, frozen=True):
    """`trouble`: why the search ended before its end, "" if it did not; what was hit before holds."""

    hits: tuple[Hit, ...] = ()
    trouble: str = ""
