"""Octets of milter packets to values, each direction by its own table .

Contract: `event` reads what an MTA sends, `answer` what a filter sends; a letter that the direction does not have, or
data that do not fit the letter, is ProtocolError. Two liberties, because peers take them: the line of an unknown
command and the text of a reply code may lack their NUL.
"""

import struct
from collections.abc import Callable
from functools import lru_cache

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import packets
from appliance.protocol.milter.packets import FromFilter, FromMta
from appliance.protocol.milter.words import Word

#: Macros of one packet, and names in all macro lists of an answer: nobody has so many.
MOST_MACROS = 1000
_NUMBER = struct.Struct(">I")
_OFFER = struct.Struct(">III")
_PORT = struct.Struct(">H")


def _texts(data: bytes, least: int, most: int | None = None) -> list[bytes]:
    """All of `data` as texts with NUL, `least` to `most` of them."""
    parts = data.split(b"\0")
    if parts.pop() or not least <= len(parts) <= (len(parts) if most is None else most):
        raise ProtocolError(f"texts that do not fit: {data[:80]!r}")
    return parts


def _nothing(data: bytes) -> None:
    if data:
        raise ProtocolError(f"a packet with {len(data)} octets too many")


def name(written: str) -> str:
    """A macro's name without braces."""
    return written[1:-1] if written[:1] == "{" and written[-1:] == "}" else written


def _decoded(part: bytes) -> str:
    return part.decode("utf-8", "surrogateescape")


# ---------------------------------------------------------------------- from the MTA


def _negotiate(data: bytes) -> packets.Negotiate:
    """An offer; what may stand behind the three numbers is not for us."""
    if len(data) < _OFFER.size:
        raise ProtocolError(f"an offer of {len(data)} octets")
    return packets.Negotiate(*_OFFER.unpack_from(data))


def _macros(data: bytes) -> packets.Macros:
    return _short_macros(data) if len(data) < 128 else _read_macros(data)


def _read_macros(data: bytes) -> packets.Macros:
    if not data:
        raise ProtocolError("macros of nothing")
    parts = _texts(data[1:], 0, 2 * MOST_MACROS)
    if len(parts) % 2:
        raise ProtocolError("a macro without its value")
    values = {name(_decoded(key)): _decoded(value) for key, value in zip(parts[::2], parts[1::2], strict=True)}
    return packets.Macros(chr(data[0]), values)


#: Postfix sends the same ones before each field of a header.
_short_macros = lru_cache(maxsize=256)(_read_macros)


def _connect(data: bytes) -> packets.Connect:
    hostname, nul, rest = data.partition(b"\0")
    family = rest[:1].decode("latin-1")
    if not nul or family not in ("U", "L", "4", "6"):
        raise ProtocolError(f"a connection of no known family: {data[:80]!r}")
    if family == "U":
        return packets.Connect(hostname)
    if len(rest) < 3:
        raise ProtocolError("a connection without its port")
    (address,) = _texts(rest[3:], 1, 1)
    return packets.Connect(hostname, family, _PORT.unpack_from(rest, 1)[0], address)


def _mail(data: bytes) -> packets.Mail:
    address, *parameters = _texts(data, 1)
    return packets.Mail(address, tuple(parameters))


def _rcpt(data: bytes) -> packets.Rcpt:
    address, *parameters = _texts(data, 1)
    return packets.Rcpt(address, tuple(parameters))


def _bare(value: FromMta | FromFilter) -> Callable[[bytes], FromMta | FromFilter]:
    def decode(data: bytes) -> FromMta | FromFilter:
        _nothing(data)
        return value

    return decode


_EVENTS: dict[bytes, Callable[[bytes], object]] = {
    b"O": _negotiate,
    b"D": _macros,
    b"C": _connect,
    b"H": lambda data: packets.Helo(*_texts(data, 1, 1)),
    b"M": _mail,
    b"R": _rcpt,
    b"T": _bare(packets.Data()),
    b"L": lambda data: packets.Header(*_texts(data, 2, 2)),
    b"N": _bare(packets.EndOfHeader()),
    b"B": packets.Body,
    b"E": packets.EndOfMessage,
    b"A": _bare(packets.Abort()),
    b"Q": _bare(packets.Quit()),
    b"K": _bare(packets.QuitNc()),
    b"U": lambda data: packets.Unknown(data.removesuffix(b"\0")),
}


def event(letter: bytes, data: bytes) -> FromMta:
    """What an MTA says. Raises ProtocolError."""
    decode = _EVENTS.get(letter)
    if decode is None:
        raise ProtocolError(f"no event has the letter {letter!r}")
    return decode(data)  # type: ignore[return-value]


# ---------------------------------------------------------------------- from the filter


def _choice(data: bytes) -> packets.Negotiate:
    if len(data) < _OFFER.size:
        raise ProtocolError(f"an answer to an offer of {len(data)} octets")
    version, actions, steps = _OFFER.unpack_from(data)
    return packets.Negotiate(version, actions, steps, _lists(data[_OFFER.size :]))


def _lists(data: bytes) -> dict[int, tuple[str, ...]]:
    """Macro lists, each a stage and its names; names stand between blanks or commas."""
    found: dict[int, tuple[str, ...]] = {}
    count = 0
    while data:
        names, nul, rest = data[4:].partition(b"\0")
        if len(data) < 5 or not nul:
            raise ProtocolError("a macro list that is cut short")
        listed = tuple(name(word) for word in _decoded(names).replace(",", " ").split())
        count += len(listed) + 1
        if count > MOST_MACROS:
            raise ProtocolError(f"more than {MOST_MACROS} names in macro lists")
        found[_NUMBER.unpack_from(data)[0]] = listed
        data = rest
    return found


def _numbered(kind: type[packets.InsertHeader] | type[packets.ChangeHeader]) -> Callable[[bytes], FromFilter]:
    def decode(data: bytes) -> FromFilter:
        if len(data) < 4:
            raise ProtocolError("a header edit without its index")
        return kind(_NUMBER.unpack_from(data)[0], *_texts(data[4:], 2, 2))

    return decode


def _add_recipient(data: bytes) -> packets.AddRecipient:
    address, *arguments = _texts(data, 1, 2)
    return packets.AddRecipient(address, arguments[0] if arguments else b"")


_ANSWERS: dict[bytes, Callable[[bytes], object]] = {
    **{word.encode("ascii"): _bare(packets.Reply(word)) for word in Word},
    b"O": _choice,
    b"y": lambda data: packets.Reply(Word.REPLY_CODE, _one(data.removesuffix(b"\0"))),
    b"p": _bare(packets.Progress()),
    b"h": lambda data: packets.AddHeader(*_texts(data, 2, 2)),
    b"i": _numbered(packets.InsertHeader),
    b"m": _numbered(packets.ChangeHeader),
    b"b": packets.ReplaceBody,
    b"+": lambda data: packets.AddRecipient(*_texts(data, 1, 1)),
    b"2": _add_recipient,
    b"-": lambda data: packets.DeleteRecipient(*_texts(data, 1, 1)),
    b"e": lambda data: packets.ChangeSender(*_texts(data, 1, 2)),
    b"q": lambda data: packets.Quarantine(*_texts(data, 1, 1)),
}


def _one(part: bytes) -> bytes:
    if b"\0" in part:
        raise ProtocolError(f"a reply text with NUL in it: {part[:80]!r}")
    return part


def answer(letter: bytes, data: bytes) -> FromFilter:
    """What a filter says. Raises ProtocolError."""
    decode = _ANSWERS.get(letter)
    if decode is None:
        raise ProtocolError(f"no answer has the letter {letter!r}")
    return decode(data)  # type: ignore[return-value]
