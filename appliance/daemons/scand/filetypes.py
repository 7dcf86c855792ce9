"""What octets are, whatever they are called: a table of our own for what is dangerous, libmagic for the rest.

Contract: `detect` gives a media type or ""; without libmagic only the table speaks (`MISSING` says so). It looks at
the beginning (and one place of an ISO image), so it is bounded. What failure means for the mail: "" is unknown, not
harmless.
"""

import re
from typing import Any

try:
    import magic
except (ImportError, AttributeError, OSError):  # the library behind it is not there
    magic = None  # type: ignore[assignment]

EXE, ELF, MACHO = "application/x-dosexec", "application/x-elf", "application/x-mach-binary"
OLE, ZIP, RTF, HTA = "application/x-ole-storage", "application/zip", "text/rtf", "application/hta"
TNEF = "application/ms-tnef"
CAB, RAR, SEVEN = "application/vnd.ms-cab-compressed", "application/x-rar", "application/x-7z-compressed"
BZIP2, XZ, ZSTD = "application/x-bzip2", "application/x-xz", "application/zstd"
CPIO, LHA, ARJ, WIM = "application/x-cpio", "application/x-lha", "application/x-arj", "application/x-ms-wim"
#: What libmagic says of octets it does not know; and what we say where it guesses a program without a header (COM) from a
#: first octet or two: that fits one random file in a hundred.
_UNKNOWN = "application/octet-stream"
GZIP, TAR, ISO = "application/gzip", "application/x-tar", "application/x-iso9660-image"
#: (offset, octets, type)
_TABLE: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", ZIP),
    (0, b"PK\x05\x06", ZIP),
    (0, b"PK00PK\x03\x04", ZIP),
    (0, b"MZ", EXE),
    (0, b"ZM", EXE),
    (0, b"\x7fELF", ELF),
    (0, b"\xfe\xed\xfa\xce", MACHO),
    (0, b"\xfe\xed\xfa\xcf", MACHO),
    (0, b"\xce\xfa\xed\xfe", MACHO),
    (0, b"\xcf\xfa\xed\xfe", MACHO),
    (0, b"\xca\xfe\xba\xbe", "application/x-java-class"),
    (0, b"L\0\0\0\x01\x14\x02\0", "application/x-ms-shortcut"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OLE),
    (0, bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3"), "application/onenote"),
    (0, b"MSCF", CAB),
    (0, b"Rar!\x1a\x07", RAR),
    (0, b"7z\xbc\xaf\x27\x1c", SEVEN),
    (0, b"\x1f\x8b", GZIP),
    (0, b"BZh", BZIP2),
    (0, b"\xfd7zXZ\0", XZ),
    (0, b"\x28\xb5\x2f\xfd", ZSTD),
    (0, b"\x04\x22\x4d\x18", "application/x-lz4"),
    (0, b"\x1f\x9d", "application/x-compress"),
    (0, b"!<arch>\n", "application/x-archive"),
    (0, b"070701", CPIO),
    (0, b"xar!", "application/x-xar"),
    (0, b"ITSF", "application/vnd.ms-htmlhelp"),
    (0, b"conectix", "application/x-vhd"),
    (0, b"vhdxfile", "application/x-vhd"),
    (0, b"\x60\xea", ARJ),
    (0, b"MSWIM\0\0\0", WIM),
    (7, b"**ACE**", "application/x-ace"),
    (2, b"-lh", LHA),
    (257, b"ustar", TAR),
    (32769, b"CD001", ISO),
    (32769, b"BEA01", ISO),
    (0, b"%PDF-", "application/pdf"),
    (0, b"{\\rt", RTF),
    (0, b"x\x9f\x3e\x22", TNEF),
    (0, b"dex\n03", "application/x-dex"),
    (0, b"#!", "text/x-script"),
    (0, b"<?php", "text/x-script"),
    (0, b"\x89PNG\r\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
)
#: What can be unpacked.
ARCHIVES = frozenset(
    {
        ZIP,
        GZIP,
        TAR,
        ISO,
        RAR,
        SEVEN,
        CAB,
        BZIP2,
        XZ,
        ZSTD,
        "application/x-lz4",
        "application/x-lzma",
        "application/x-compress",
        "application/x-archive",
        CPIO,
        "application/x-xar",
        LHA,
    }
)
#: Archives that nobody here can unpack.
CLOSED = frozenset({"application/x-ace", ARJ, WIM, "application/x-vhd"})
#: What something may be inside of.
HOLDS = ARCHIVES | CLOSED | {OLE, RTF, TNEF}
#: Octets of the last record of a zip, with the longest comment.
_ZIP_END = 22 + 65535
_HTA = re.compile(rb"<hta:application|<script[^>]{0,200}\bvbscript", re.IGNORECASE)
_BATCH = re.compile(rb"\s*@echo\s+off\b", re.IGNORECASE)
_LOOKED_AT = 65536
_by_first: dict[int, list[tuple[int, bytes, str]]] = {}
for _entry in _TABLE:
    if _entry[0] == 0:
        _by_first.setdefault(_entry[1][0], []).append(_entry)
_DEEPER = tuple(entry for entry in _TABLE if entry[0])
_cookie: list[Any] = []


def warm() -> None:
    """Load libmagic's data, while files can still be opened."""
    if magic is not None and not _cookie:
        _cookie.append(magic.Magic(mime=True))
        _cookie[0].from_buffer(b"%PDF-1.4")


def detect(octets: bytes, *, deep: bool = True) -> str:
    """The type; `deep` asks libmagic for what the table does not know."""
    if not octets:
        return ""
    for _, sign, kind in _by_first.get(octets[0], ()):
        if octets.startswith(sign) and not (kind == EXE and _is_text(octets)):
            return kind
    for offset, sign, kind in _DEEPER:
        if octets.startswith(sign, offset):
            return kind
    head = octets[:_LOOKED_AT]
    if _HTA.search(head):
        return HTA
    if _BATCH.match(head):
        return "text/x-script"
    if not deep or not _cookie:
        return ""
    try:
        found = str(_cookie[0].from_buffer(head))[:100]
    except magic.MagicException:
        return ""
    return _UNKNOWN if found == EXE else found


def ends_as_zip(octets: bytes) -> bool:
    """Whether a zip's directory stands at the end, whatever the octets begin with: readers of zip look there."""
    at = octets.rfind(b"PK\x05\x06", max(0, len(octets) - _ZIP_END))
    return at >= 0 and octets.rfind(b"PK\x01\x02", 0, at) >= 0


def _is_text(octets: bytes) -> bool:
    """Two letters are no program: a text may begin with MZ."""
    return len(octets) < 64 or (octets[:64].isascii() and octets[:64].decode().isprintable())


def is_missing() -> bool:
    """Whether libmagic is not there."""
    return magic is None
