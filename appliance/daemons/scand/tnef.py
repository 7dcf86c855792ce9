"""Attachments in Outlook's winmail.dat (TNEF): attributes of a level, an id, a length, octets and a checksum.

Contract: `attachments` gives each one's names and octets, from the attribute for data and from the MAPI properties of an
attachment, of which readers take the one or the other. What failure means for the mail: what cannot be followed to its
end is given with `why`, never passed over.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from appliance.protocol.mime.parameters import readable

_TITLE, _DATA, _PROPERTIES, _BEGINS = 0x18010, 0x6800F, 0x69005, 0x69002
#: MAPI: the octets of an attachment, an object or octets; names, short and long.
_CONTENT, _OBJECT = 0x3701, 0x0D
_NAMES = frozenset({0x3001, 0x3704, 0x3707})
#: Octets of the identifier of an interface, in front of an object.
_INTERFACE = 16
_TEXT8, _TEXT16 = 0x1E, 0x1F
_MANY, _NAMED = 0x1000, 0x8000
#: Octets of values that have always as many (in units of four), and kinds whose length is written.
_FIXED = {0x02: 4, 0x03: 4, 0x04: 4, 0x05: 8, 0x06: 8, 0x07: 8, 0x0A: 4, 0x0B: 4, 0x14: 8, 0x40: 8, 0x48: 16}
_COUNTED = frozenset({_OBJECT, _TEXT8, _TEXT16, 0x102})
#: Values of one attribute.
_MOST = 10000


class Attachment(NamedTuple):
    """One, or (with `why`) that there may be more which nobody saw."""

    names: tuple[str, ...]
    octets: bytes = b""
    why: str = ""


def attachments(octets: bytes) -> Iterator[Attachment]:
    """All of a file."""
    at, names = 6, list[str]()
    while at + 9 <= len(octets):
        kind, size = struct.unpack_from("<II", octets, at + 1)
        body = octets[at + 9 : at + 9 + size]
        if len(body) < size:
            yield Attachment((), why="cut off")
        if kind == _BEGINS:
            names = []
        elif kind == _TITLE:
            names = [readable(body.rstrip(b"\0"))]
        elif kind == _DATA:
            yield Attachment(tuple(names), body)
        elif kind == _PROPERTIES:
            yield from _properties(body, names)
        at += 11 + size


def _properties(octets: bytes, names: list[str]) -> Iterator[Attachment]:
    """Those of one attachment: the names first, wherever they stand."""
    contents = list[bytes]()
    try:
        for kind, tag, value in _values(octets):
            if tag in _NAMES and kind in (_TEXT8, _TEXT16):
                text = (
                    value.decode("utf-16-le", "replace").rstrip("\0")
                    if kind == _TEXT16
                    else readable(value.rstrip(b"\0"))
                )
                names.extend([text] if text and text not in names else ())
            elif tag == _CONTENT:
                contents += [value[_INTERFACE:]] if kind == _OBJECT else [value]
    except (struct.error, KeyError, ValueError):
        yield Attachment(tuple(names), why="MAPI properties that cannot be read")
    for content in contents or ([b""] if names else []):
        yield Attachment(tuple(names), content)


def _values(octets: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, id, value) of each property. Raises struct.error, KeyError, ValueError where it is none."""
    (count,), at = struct.unpack_from("<I", octets), 4
    for _ in range(count):
        kind, tag = struct.unpack_from("<HH", octets, at)
        at = _behind_name(octets, at + 4) if tag >= _NAMED else at + 4
        many, base, values = bool(kind & _MANY), kind & ~_MANY, 1
        if many or base in _COUNTED:
            (values,), at = struct.unpack_from("<I", octets, at), at + 4
        if values > _MOST:
            raise ValueError(values)
        for _ in range(values):
            size = _FIXED[base] if base not in _COUNTED else struct.unpack_from("<I", octets, at)[0]
            at += 4 if base in _COUNTED else 0
            if at + size > len(octets):
                raise ValueError(size)
            yield base, tag, octets[at : at + size]
            at += size + -size % 4


def _behind_name(octets: bytes, at: int) -> int:
    """A named property: the set it is of, then a number or a text."""
    (by_text,), at = struct.unpack_from("<I", octets, at + 16), at + 20
    (size,) = struct.unpack_from("<I", octets, at)
    return at + 4 + (size + -size % 4 if by_text else 0)
