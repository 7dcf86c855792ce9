"""The header of a message cut into its fields, once for all who read it: signatures, and who looks for the author.

Contract: pure, total, linear; what comes out is shared, so nobody changes it. Only CRLF ends a line here, and only a
blank or a tab goes on with a field; who must read as other readers do (mailauth.author) goes by this cut only where all
of them cut alike. What failure means for the mail: none.
"""

import re
from functools import lru_cache
from typing import NamedTuple

CRLF = b"\r\n"
#: Octets of a header whose fields are remembered, and of how many headers: those of messages that are being judged.
SMALL, KEPT = 65536, 16
#: What the name of a field is made of (RFC 5322 3.6.8).
_OF_NAMES = bytes(octet for octet in range(0x21, 0x7F) if octet != 0x3A)
_BETWEEN = re.compile(rb"\r\n(?![ \t])")


class Fields(NamedTuple):
    """The fields in their order, and the places of each name: any case, blanks before the colon allowed (RFC 5322 4); b""
    for what is no field. `regular`: each is one, and its name is made of what names are made of."""

    fields: list[bytes]
    places: dict[bytes, list[int]]
    regular: bool


def cut(header: bytes) -> Fields:
    """The fields of a header block with its empty line, or without."""
    return _kept(header) if len(header) <= SMALL else _cut(header)


def _cut(header: bytes) -> Fields:
    if not header or header.startswith(CRLF):  # an empty line in front: all is body
        return Fields([], {}, True)
    fields = _BETWEEN.split(header.removesuffix(CRLF).removesuffix(CRLF))
    places: dict[bytes, list[int]] = {}
    for place, field in enumerate(fields):
        name, colon, _ = field.partition(b":")
        name = name.rstrip(b" \t").lower() if colon else b""
        if name in places:
            places[name].append(place)
        else:
            places[name] = [place]
    return Fields(fields, places, b"" not in places and not b"".join(places).translate(None, _OF_NAMES))


_kept = lru_cache(maxsize=KEPT)(_cut)
