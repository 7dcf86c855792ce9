"""Values to octets of the milter protocol: length (4 octets, letter and data), letter, data.

Contract: what is encoded is decoded to the same value (`decoding`). Raises ValueError for a text with NUL in it.
"""

import struct
from collections.abc import Callable

from appliance.protocol.milter.packets import (
    Abort,
    AddHeader,
    AddRecipient,
    Body,
    ChangeHeader,
    ChangeSender,
    Connect,
    Data,
    DeleteRecipient,
    EndOfHeader,
    EndOfMessage,
    FromFilter,
    FromMta,
    Header,
    Helo,
    InsertHeader,
    Macros,
    Mail,
    Negotiate,
    Progress,
    Quarantine,
    Quit,
    QuitNc,
    Rcpt,
    ReplaceBody,
    Reply,
    Unknown,
)
from appliance.protocol.milter.words import Word

_LENGTH = struct.Struct(">I")
_OFFER = struct.Struct(">III")
_PORT = struct.Struct(">H")


def packet(letter: bytes, data: bytes = b"") -> bytes:
    """One packet."""
    return _LENGTH.pack(1 + len(data)) + letter + data


def text(part: bytes) -> bytes:
    """A text with its NUL. Raises ValueError for one that has a NUL in it: it would end early."""
    if b"\0" in part:
        raise ValueError(f"a text of the milter protocol has no NUL: {part[:80]!r}")
    return part + b"\0"


def _negotiate(value: Negotiate) -> bytes:
    lists = b"".join(
        _LENGTH.pack(stage) + text(" ".join(map(_braced, names)).encode()) for stage, names in value.macros.items()
    )
    return packet(b"O", _OFFER.pack(value.version, value.actions, value.steps) + lists)


def _braced(name: str) -> str:
    """As macros are written on the wire: one letter bare, a longer name in braces."""
    return name if len(name) == 1 else f"{{{name}}}"


def _macros(value: Macros) -> bytes:
    parts = (text(_octets(part)) for name, given in value.values.items() for part in (_braced(name), given))
    return packet(b"D", value.of.encode("ascii") + b"".join(parts))


def _octets(given: str) -> bytes:
    return given.encode("utf-8", "surrogateescape")


def _connect(value: Connect) -> bytes:
    family = value.family.encode("ascii")
    if value.family == "U":
        return packet(b"C", text(value.hostname) + family)
    return packet(b"C", text(value.hostname) + family + _PORT.pack(value.port) + text(value.address))


def _envelope(letter: bytes) -> Callable[[Mail | Rcpt], bytes]:
    return lambda value: packet(letter, b"".join(map(text, (value.address, *value.parameters))))


def _with_arguments(address: bytes, arguments: bytes | None) -> bytes:
    return text(address) + (b"" if arguments is None else text(arguments))


def _add_recipient(value: AddRecipient) -> bytes:
    letter = b"+" if value.arguments is None else b"2"
    return packet(letter, _with_arguments(value.address, value.arguments or None))


def _reply(value: Reply) -> bytes:
    letter = value.word.encode("ascii")
    return packet(letter, text(value.text)) if value.word == Word.REPLY_CODE else packet(letter)


_ENCODERS: dict[type, Callable[..., bytes]] = {
    Negotiate: _negotiate,
    Macros: _macros,
    Connect: _connect,
    Helo: lambda value: packet(b"H", text(value.name)),
    Mail: _envelope(b"M"),
    Rcpt: _envelope(b"R"),
    Data: lambda value: packet(b"T"),
    Header: lambda value: packet(b"L", text(value.name) + text(value.value)),
    EndOfHeader: lambda value: packet(b"N"),
    Body: lambda value: packet(b"B", value.chunk),
    EndOfMessage: lambda value: packet(b"E", value.chunk),
    Abort: lambda value: packet(b"A"),
    Quit: lambda value: packet(b"Q"),
    QuitNc: lambda value: packet(b"K"),
    Unknown: lambda value: packet(b"U", text(value.line)),
    Reply: _reply,
    Progress: lambda value: packet(b"p"),
    AddHeader: lambda value: packet(b"h", text(value.name) + text(value.value)),
    InsertHeader: lambda value: packet(b"i", _LENGTH.pack(value.position) + text(value.name) + text(value.value)),
    ChangeHeader: lambda value: packet(b"m", _LENGTH.pack(value.position) + text(value.name) + text(value.value)),
    ReplaceBody: lambda value: packet(b"b", value.chunk),
    AddRecipient: _add_recipient,
    DeleteRecipient: lambda value: packet(b"-", text(value.address)),
    ChangeSender: lambda value: packet(b"e", _with_arguments(value.address, value.arguments)),
    Quarantine: lambda value: packet(b"q", text(value.reason)),
}


def encode(value: FromMta | FromFilter) -> bytes:
    """The octets of a packet. Raises ValueError for a text with NUL in it."""
    return _ENCODERS[type(value)](value)
