"""Values of Content-* fields: type, parameters, names, in every form in which a reader may take them (RFC 2045,
2231).

Contract: linear, without recursion, nothing raises on content but Over("parameters"). A value has one or more
*forms*: the first is what the RFC says or what most readers do, the others are what sloppy readers make of it.
What failure means for the mail: what cannot be decoded is kept as it stands.
"""

import base64
import binascii
import codecs
import re
from typing import NamedTuple

from appliance.protocol.mime.limits import Over

#: Octets of a name, and forms of one value.
MAX_NAME, MAX_FORMS = 255, 8
_SEGMENT = re.compile(rb'(?>(?:[^";]|"(?>(?:[^"\\]++|\\[\x00-\xff])*)"?)+)')
_QUOTED = re.compile(rb'"((?>(?:[^"\\]++|\\[\x00-\xff])*))("?)')
_ESCAPE = re.compile(rb"\\([\x00-\xff])")
_FOLD = re.compile(rb"\r?\n[ \t]*")
_SECTION = re.compile(rb"([^*]+)\*(?:(\d{1,4})(\*?))?\Z")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_WORD = re.compile(rb"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=")
_BETWEEN = re.compile(rb"(\?=)[ \t\r\n]+(=\?)")
_MARK = re.compile(rb'["\\()]')
_ODD_TOKEN = re.compile(rb"[\s(]")


class Piece(NamedTuple):
    """One piece of a value (RFC 2231), percent-coded or not."""

    number: int
    coded: bool
    text: bytes


class Parameters(NamedTuple):
    """`forms[name]`: all forms of all occurrences, the likeliest first; `first` and `last`: the RFC form of the first
    and the last occurrence."""

    forms: dict[bytes, tuple[bytes, ...]]
    first: dict[bytes, bytes]
    last: dict[bytes, bytes]


def uncommented(value: bytes) -> bytes:
    """Without comments; quoted strings stay."""
    if b"(" not in value:
        return value
    kept, depth, quoted, at = [], 0, False, 0
    marks = _MARK.finditer(value)
    for mark in marks:
        sign, start = mark[0], mark.start()
        if sign == b"\\":
            if value[start + 1 : start + 2] in (b'"', b"\\", b"(", b")"):
                next(marks, None)  # it is quoted
        elif sign == b'"' and not depth:
            quoted = not quoted
        elif not quoted and sign == b"(":
            if not depth:
                kept.append(value[at:start])
            depth += 1
        elif not quoted and sign == b")" and depth:
            depth -= 1
            if not depth:
                at = start + 1
    if not depth:
        kept.append(value[at:])
    return b" ".join(kept)


def _forms(raw: bytes) -> list[bytes]:
    """The forms of one value as it stands behind the `=`."""
    if raw.startswith(b'"') and (found := _QUOTED.match(raw)):
        plain = _ESCAPE.sub(rb"\1", found[1])
        forms = [plain]
        if plain != found[1]:
            forms.append(found[1])
        if rest := uncommented(raw[found.end() :]).strip():
            forms.append(plain + rest.replace(b'"', b""))
        return forms
    if odd := _ODD_TOKEN.search(raw):
        plain = raw[: odd.start()]
        return [plain, uncommented(raw).strip(), raw.replace(b'"', b"")]
    if raw[:1] == b"'" and raw[-1:] == b"'" and len(raw) > 2:
        return [raw, raw[1:-1]]
    return [raw, raw.replace(b'"', b"")] if b'"' in raw else [raw]


def parse(value: bytes, limit: int) -> Parameters:
    """The parameters of a field's value (what stands before the first `;` is left out). Raises Over."""
    forms: dict[bytes, list[bytes]] = {}
    first: dict[bytes, bytes] = {}
    last: dict[bytes, bytes] = {}
    pieces: dict[bytes, list[Piece]] = {}
    _, _, rest = value.partition(b";")
    if rest.count(b"=") > limit:
        raise Over("parameters")
    for segment in _SEGMENT.finditer(_FOLD.sub(b" ", rest) if b"\n" in rest else rest):
        name, equals, raw = segment[0].partition(b"=")
        name = uncommented(name).strip().strip(b'"').lower()
        if not equals or not name:
            continue
        read = _forms(raw.strip())
        if section := _SECTION.match(name):
            extended = section[2] is None or bool(section[3])
            pieces.setdefault(section[1], []).append(Piece(int(section[2] or 0), extended, read[0]))
            continue
        forms.setdefault(name, []).extend(read)
        first.setdefault(name, read[0])
        last[name] = read[0]
    for name, parts in pieces.items():
        joined = _joined(parts)
        forms.setdefault(name, []).extend(joined)
        first.setdefault(name, joined[0])
        last[name] = joined[0]
    return Parameters({name: tuple(dict.fromkeys(all_))[:MAX_FORMS] for name, all_ in forms.items()}, first, last)


def _joined(pieces: list[Piece]) -> list[bytes]:
    """RFC 2231 pieces in every way: in order, up to a gap, the last of doubled ones, as they stand; decoded and not."""
    ordered = sorted({piece.number: piece for piece in reversed(pieces)}.values())
    whole = [piece for index, piece in enumerate(ordered) if piece.number == index]
    orders = (ordered, whole, sorted({piece.number: piece for piece in pieces}.values()), pieces)
    found = [_text(order) for order in orders if order]
    found += [b"".join(piece.text for piece in order) for order in (ordered, pieces)]
    return list(dict.fromkeys(found))


def _text(pieces: list[Piece]) -> bytes:
    """Joined and decoded; UTF-8 where the charset of the first piece is known."""
    head, charset = pieces[0], ""
    if head.coded and head.text.count(b"'") >= 2:
        name, _, text = head.text.split(b"'", 2)
        charset, pieces = codec(name), [head._replace(text=text), *pieces[1:]]
    joined = b"".join(unpercent(piece.text) if piece.coded else piece.text for piece in pieces)
    return joined if charset in ("", "utf-8", "ascii") else joined.decode(charset, "replace").encode("utf-8", "replace")


def unpercent(text: bytes) -> bytes:
    """Percent codes decoded, others left."""
    return _PERCENT.sub(lambda found: binascii.unhexlify(found[1]), text)


def codec(charset: bytes) -> str:
    """Python's name of a charset for text, "" if there is none."""
    try:
        name = codecs.lookup(charset.decode("ascii").strip().strip("\"'")).name
        b"".decode(name)  # a text encoding, not zlib or hex
        return name
    except (LookupError, ValueError, OSError):
        return ""


def words_decoded(text: bytes) -> bytes:
    """RFC 2047 encoded words replaced by what they say, in UTF-8."""
    return _WORD.sub(_word, _BETWEEN.sub(rb"\1\2", text))


def _word(found: "re.Match[bytes]") -> bytes:
    charset, kind, text = found[1].partition(b"*")[0], found[2].lower(), found[3]
    if kind == b"b":
        try:
            octets = base64.b64decode(text + b"=" * (-len(text) % 4))
        except ValueError:
            return found[0]
    else:
        octets = binascii.a2b_qp(text, header=True)
    return octets.decode(codec(charset) or "latin-1", "replace").encode("utf-8", "replace")


def names(parameters: Parameters) -> tuple[str, ...]:
    """What an attachment may be called: `filename` before `name`, every form of both, decoded."""
    found: list[bytes] = []
    for key in (b"filename", b"name"):
        for form in parameters.forms.get(key, ()):
            found.append(words_decoded(form) if b"=?" in form else form)
    return tuple(dict.fromkeys(filter(None, map(readable, found))))[:MAX_FORMS]


def readable(octets: bytes) -> str:
    """A name as text: UTF-8, or one octet a character; at most MAX_NAME octets, its end kept (there is the
    extension)."""
    if len(octets) > MAX_NAME:
        octets = octets[: MAX_NAME - 64] + octets[-64:]
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")
