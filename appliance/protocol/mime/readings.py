"""All readings of a message's structure at once: the union of what any reader could see, and in which ways they
differ.

Contract: linear: one reading where nothing is odd, three where something is. `ambiguous` has words only for what
readers really take differently: oddities that change nothing are not named. What failure means for the mail: see
structure.
"""

import re
from typing import NamedTuple

from appliance.protocol.mime import fields
from appliance.protocol.mime.limits import LIMITS, Limits, Octets, Over
from appliance.protocol.mime.structure import Piece, Way, walk

#: Oddities that make a difference by themselves; the others count if the readings have not the same parts.
_OWN = frozenset(
    {"encoding_odd", "encoding_doubled", "names_differ", "types_differ", "nul", "bare_cr", "field_name", "boundary_twice"}
)
_WAYS: tuple[Way, ...] = ("last", "all", "beyond")
_CONTENT = re.compile(rb"^content-[a-z-]{4,20}[ \t]*:", re.MULTILINE | re.IGNORECASE)
#: Octets of the header of a stray part.
_HEADER = 65536
_BLANK = re.compile(rb"\n\r?\n")


class Readings(NamedTuple):
    """`pieces` in order; those from `common` on stand in other readings than the first only. `parts` and `depth` are the
    largest of any reading."""

    pieces: list[Piece]
    common: int
    parts: int
    depth: int
    over: str = ""
    ambiguous: frozenset[str] = frozenset()


def read(
    data: Octets, start: int = 0, end: int | None = None, limits: Limits = LIMITS, depth: int = 0, prefix: str = ""
) -> Readings:
    """Read the message in data[start:end], which is `depth` levels deep at `prefix` already."""
    end = len(data) if end is None else end
    plain = walk(data, start, end, limits, "first", depth, prefix)
    pieces = sorted(plain.pieces, key=_place)
    if plain.over or not plain.odd:
        return Readings(pieces, len(pieces), plain.parts, plain.depth, plain.over)
    known = {_key(piece) for piece in pieces}
    more: dict[tuple[str, int, int], Piece] = {}
    odd, over, differ, parts = set(plain.odd), "", False, _parts(pieces)
    count, deepest = plain.parts, plain.depth
    for way in _WAYS:
        if way == "beyond" and "after_end" not in odd:
            continue
        other = walk(data, start, end, limits, way, depth, prefix)
        odd |= other.odd
        count, deepest = max(count, other.parts), max(deepest, other.depth)
        over = over or other.over
        differ = differ or _parts(other.pieces) != parts
        for piece in other.pieces:
            if _key(piece) not in known:
                more.setdefault(_key(piece), piece)
    for piece in [piece for piece in pieces if piece.kind in ("before", "after")]:
        for found in _strays(data, piece, limits):
            more.setdefault(_key(found), found)
    ambiguous = odd if differ else odd & (_OWN | {"no_parts", "outside_parts"})
    extra = sorted(more.values(), key=_place)
    return Readings([*pieces, *extra], len(pieces), count, deepest, over, frozenset(ambiguous))


def _place(piece: Piece) -> tuple[int, int]:
    return piece.header[0], -piece.end


def _key(piece: Piece) -> tuple[str, int, int]:
    return piece.kind, piece.start, piece.end


def _parts(pieces: list[Piece]) -> set[tuple[str, int, int]]:
    """What tells one reading from another."""
    return {_key(piece) for piece in pieces if piece.kind in ("leaf", "message")}


def _strays(data: Octets, piece: Piece, limits: Limits) -> list[Piece]:
    """What looks like parts in a stretch that belongs to none."""
    found: list[Piece] = []
    at = piece.start
    while len(found) < limits.parts and (field := _CONTENT.search(data, at, piece.end)):
        blank = _BLANK.search(data, field.start(), min(piece.end, field.start() + _HEADER))
        begin = blank.end() if blank else piece.end
        at = data.find(b"\n--", begin - 1, piece.end)
        at = piece.end if at < 0 else at
        span = field.start(), blank.start() if blank else piece.end
        try:
            read_fields = fields.parse(bytes(data[span[0] : span[1]]), limits)
        except Over:
            break
        found.append(Piece("leaf", piece.path, piece.depth + 1, span, begin, max(begin, at), read_fields))
        at = max(at, begin)
    return found
