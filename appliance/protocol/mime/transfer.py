"""Content-Transfer-Encodings as any reader may decode them, and files that stand encoded in a text (uuencode, yEnc,
BinHex).

Contract: linear, in C where it matters; nothing raises on content. The first reading is the common one; there are
more only where decoders differ, and then `odd` names why. What failure means for the mail: what is no such encoding
decodes to little or nothing; the octets as they came are offered as well.
"""

import binascii
import re
from typing import NamedTuple

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BLANKS = b" \t\r\n\x0b\x0c"
_JUNK = bytes(sorted(set(range(256)) - set(_ALPHABET) - set(_BLANKS)))
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/\s]")
_NO_BASE64_BUT_PADDING = re.compile(rb"[^A-Za-z0-9+/=\s]")
_CLEAN_LINE = re.compile(rb"^[A-Za-z0-9+/ \t]++={0,2}[ \t]*+\r?$", re.MULTILINE)
_LOOKS = re.compile(rb"\s*(?:[A-Za-z0-9+/]{40,1000}\r?\n)+[A-Za-z0-9+/]*={0,2}\s*\Z")
_ODD_QP = re.compile(rb"=(?![0-9A-Fa-f]{2}|[ \t]*\r?\n|[ \t]*\Z)")
_BEGIN = re.compile(rb"^begin(-base64)? [0-7]{3,4} ([^\r\n]{1,255})\r?$", re.MULTILINE)
_END = re.compile(rb"^(?:end|====)[ \t]*\r?$", re.MULTILINE)
_YBEGIN = re.compile(rb"^=ybegin [^\r\n]{0,200}?name=([^\r\n]{1,255})\r?\n(?:=ypart [^\r\n]*\r?\n)?", re.MULTILINE)
_YEND = re.compile(rb"^=yend ", re.MULTILINE)
_SHIFT = bytes((value - 42) & 255 for value in range(256))
_HQX = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
_TO_BASE64 = bytes.maketrans(_HQX, _ALPHABET)
_NO_HQX = bytes(sorted(set(range(256)) - set(_HQX)))
_BINHEX = re.compile(rb"^\(This file must be converted with BinHex[^\r\n]{0,40}\r?\n\s*:", re.MULTILINE)
#: Octets that a run of BinHex may grow to, and files in one text.
_MOST, MAX_EMBEDDED = 64 * 1024 * 1024, 200


class Embedded(NamedTuple):
    """A file that stands encoded in a text."""

    name: bytes
    octets: bytes


def decode(text: bytes, encoding: str) -> tuple[list[bytes], str]:
    """(what the body is, the likeliest first; why there is more than one, or "")."""
    if encoding == "base64":
        return _base64(text)
    if encoding == "qp":
        return _quoted_printable(text), ""
    if encoding in ("uu", "yenc", "binhex"):
        found = [item.octets for item in embedded(text)]
        if not found and encoding == "uu":
            found = [_uu(text)]
        return found or [text], ""
    return [text], ""


def looks_encoded(text: bytes) -> bool:
    """Whether a body that is not said to be base64 is it from end to end."""
    return len(text) >= 40 and _LOOKS.match(text) is not None


def _plain64(text: bytes) -> bytes:
    """Characters of the alphabet only; what is too short for an octet is left out."""
    text = text[: len(text) - (len(text) % 4 == 1)]
    return binascii.a2b_base64(text + b"=" * (-len(text) % 4))


def _base64(text: bytes) -> tuple[list[bytes], str]:
    clean = text.translate(None, _BLANKS)
    body = clean.rstrip(b"=")
    if not body.translate(None, _ALPHABET):
        return [_plain64(body)], ""
    padded = body.translate(None, _JUNK.replace(b"=", b""))
    readings = [
        b"".join(_plain64(run) for run in padded.split(b"=") if run),  # each run by itself: one behind the other
        _plain64(body.translate(None, _JUNK)),  # one run, without regard to what does not belong there
        _plain64(padded.partition(b"=")[0]),  # up to the first padding
        _plain64(_up_to(_NO_BASE64, text)),  # up to anything that does not belong there
        _plain64(_up_to(_NO_BASE64_BUT_PADDING, text).translate(None, b"=")),
        _plain64(b"".join(_CLEAN_LINE.findall(text)).translate(None, _JUNK + _BLANKS)),  # whole lines only
    ]
    if not body.translate(None, _ALPHABET + b"-_"):
        readings.insert(0, _plain64(body.translate(_URL_SAFE)))
    different = list(dict.fromkeys(readings))
    return different, "base64_junk" if len(different) > 1 else ""


def _up_to(stop: "re.Pattern[bytes]", text: bytes) -> bytes:
    found = stop.search(text)
    return (text[: found.start()] if found else text).translate(None, _BLANKS)


def _quoted_printable(text: bytes) -> list[bytes]:
    plain = binascii.a2b_qp(text)
    if not _ODD_QP.search(text):
        return [plain]
    other = binascii.a2b_qp(_ODD_QP.sub(b"", text))
    return [plain, other] if other != plain else [plain]


def embedded(text: bytes) -> list[Embedded]:
    """The files in a text."""
    found: list[Embedded] = []
    if b"begin" in text:
        at = 0
        while len(found) < MAX_EMBEDDED and (begin := _BEGIN.search(text, at)):
            end = _END.search(text, begin.end())
            at = end.start() if end else len(text)
            body = text[begin.end() : at]
            found.append(Embedded(begin[2].strip(), _base64(body)[0][0] if begin[1] else _uu(body)))
    if b"=ybegin" in text:
        at = 0
        while len(found) < MAX_EMBEDDED and (begin := _YBEGIN.search(text, at)):
            end = _YEND.search(text, begin.end())
            at = end.start() if end else len(text)
            found.append(Embedded(begin[1].strip(), _yenc(text[begin.end() : at])))
    if b"with BinHex" in text:
        found += [_binhex(text[begin.end() :].partition(b":")[0]) for begin in list(_BINHEX.finditer(text))[:20]]
    return found


def _uu(text: bytes) -> bytes:
    found = []
    for line in text.split(b"\n"):
        line = line.rstrip(b"\r")
        if not line or not 32 < line[0] < 96:
            continue
        try:
            found.append(binascii.a2b_uu(line))
        except binascii.Error:  # it is longer than it says: encoders pad
            octets = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                found.append(binascii.a2b_uu(line[:octets]))
            except binascii.Error:
                continue
    return b"".join(found)


def _yenc(text: bytes) -> bytes:
    plain, *escaped = text.translate(None, b"\r\n").split(b"=")
    found = [plain.translate(_SHIFT)]
    for piece in escaped:
        if piece:
            found += (bytes([(piece[0] - 106) & 255]), piece[1:].translate(_SHIFT))
    return b"".join(found)


def _binhex(text: bytes) -> Embedded:
    """BinHex 4: six bits a character, runs (0x90), a header with the name, the data fork."""
    octets = _plain64(text.translate(None, _NO_HQX).translate(_TO_BASE64))
    first, *runs = octets.split(b"\x90")
    found, size = [first], len(first)
    last = first[-1:]
    for run in runs:
        count = run[0] if run else 0
        grown = (b"\x90" if count == 0 else last * (count - 1)) + run[1:]
        size += len(grown)
        if size > _MOST:
            break
        found.append(grown)
        last = grown[-1:] or last
    whole = b"".join(found)
    length = whole[0] if whole else 0
    name, fork = whole[1 : 1 + length], int.from_bytes(whole[12 + length : 16 + length], "big")
    return Embedded(name, whole[22 + length : 22 + length + fork])
