"""Whether a document brings something that runs: macros and embedded objects in OLE2, OOXML, ODF and RTF; encrypted
ones.

Contract: `ole`, `rtf`, `office_member` give flags ("macro", "encrypted", "object"), whatever the octets are; a
document that cannot be read to its end has the flag "unread". What failure means for the mail: never "no macro".
"""

import io
import re
import struct
import warnings

try:
    import olefile
except ImportError:
    olefile = None
try:
    with warnings.catch_warnings(action="ignore"):
        from oletools import olevba
except Exception:  # the extra `macro`; it warns and breaks in many ways
    olevba = None

_VBA = re.compile(r"(?:\A|/)(?:_vba_project(?:_cur)?|vba|macros)(?:/|\Z)", re.IGNORECASE)
_OOXML = re.compile(
    r"(?:\A|/)vbaproject\.bin\Z|(?:\A|/)vbadata\.xml\Z|(?:\A|/)xl/macrosheets/|(?:\A|/)activex/[^/]*\.(?:bin|xml)\Z"
    r"|(?:\A|/)basic/[^/]+/[^/]+\.xml\Z|(?:\A|/)scripts/",
    re.IGNORECASE,
)
_EXTERNAL = re.compile(
    rb"<Relationship\b(?=[^>]{0,4000}\bTargetMode\s*=\s*[\"']External)"
    rb"(?=[^>]{0,4000}/(?:attachedTemplate|oleObject|frame|subDocument)[\"'])",
    re.IGNORECASE,
)
_RTF_OBJECT = re.compile(rb"\\obj(?:data|update|autlink|emb|link|ocx)\b|\\ddeauto\b|\\\*\\template\b", re.IGNORECASE)
_XLM = 1
#: Streams of a workbook and of a document; records that are looked through.
_WORKBOOKS, _RECORDS = ("workbook", "book"), 2000


def office_member(name: str, octets: bytes) -> set[str]:
    """What a member of a zip archive says of the document that the archive is."""
    found = {"macro"} if _OOXML.search(name) else set()
    if name.lower().endswith(".rels") and _EXTERNAL.search(octets):
        found.add("macro")
    return found


def rtf(octets: bytes) -> set[str]:
    """Objects in rich text: as good as a macro."""
    return {"macro"} if _RTF_OBJECT.search(octets) else set()


def ole(octets: bytes) -> set[str]:
    """What an OLE2 file brings."""
    if olefile is None:
        return {"unread"}
    try:
        with olefile.OleFileIO(io.BytesIO(octets)) as file:
            found = _of(file)
    except Exception:  # a broken file: the library raises what it likes
        return {"unread"}
    return found | _deeper(octets, found)


def _of(file: "olefile.OleFileIO") -> set[str]:
    found: set[str] = set()
    for path in file.listdir(streams=True, storages=True):
        name = "/".join(path)
        low = path[-1].lower()
        if _VBA.search(name) or low in ("\x01ole10native", "objectpool"):
            found.add("macro")
        elif low in ("encryptedpackage", "encryptioninfo") or (
            low == "worddocument" and _word_encrypted(file.openstream(path).read(12))
        ):
            found.add("encrypted")
        elif low in _WORKBOOKS:
            found |= _workbook(file.openstream(path).read())
    return found


def _word_encrypted(head: bytes) -> bool:
    return len(head) >= 12 and bool(struct.unpack("<H", head[10:12])[0] & 0x100)


def _workbook(stream: bytes) -> set[str]:
    """Its first records: FILEPASS means encrypted, BOUNDSHEET of type 1 a macro sheet."""
    found: set[str] = set()
    at = 0
    for _ in range(_RECORDS):
        if at + 4 > len(stream):
            break
        kind, size = struct.unpack_from("<HH", stream, at)
        if kind == 0x2F:
            found.add("encrypted")
        elif kind == 0x85 and size >= 6 and at + 10 <= len(stream) and stream[at + 9] == _XLM:
            found.add("macro")
        at += 4 + size
    return found


def _deeper(octets: bytes, found: set[str]) -> set[str]:
    """oletools, where it is installed, knows more places for macros."""
    if olevba is None or "macro" in found:
        return set()
    try:
        return {"macro"} if olevba.VBA_Parser("document", data=octets).detect_macros() else set()
    except Exception:
        return set()


def is_missing() -> bool:
    """Whether olefile is not there."""
    return olefile is None


def warm() -> None:
    """Nothing is loaded late."""
    ole(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2048))
