"""What is inside an archive: names, types, contents of members, one archive at a time, by libarchive from memory.

Contract: nothing is ever written anywhere, no link is followed, no name is a path: members are data. Every octet that
is unpacked and every name is counted by `Caps`, which raise Over. Without libarchive only zip's own lists of names
are read.
What failure means for the mail: what cannot be unpacked is said in `why` ("encrypted" apart), never passed over.
"""

import ctypes
import re
import struct
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from appliance.daemons.scand import behind, filetypes
from appliance.protocol.mime import Limits, Over
from appliance.protocol.mime.parameters import readable

try:
    from libarchive import ffi
    from libarchive.exception import ArchiveError
except (ImportError, AttributeError, OSError, TypeError):  # libarchive13 is not there
    ffi = None

_RAW = "raw"
_FORMATS = ("zip", "7zip", "rar", "rar5", "tar", "iso9660", "cab", "lha", "ar", "cpio", "xar")
#: Who names a kind is read as that: a record at the end makes libarchive take others for a zip, an empty one.
_FORMATS_OF = {
    filetypes.ZIP: ("zip",),
    filetypes.SEVEN: ("7zip",),
    filetypes.RAR: ("rar", "rar5"),
    filetypes.TAR: ("tar",),
    filetypes.ISO: ("iso9660",),
    filetypes.CAB: ("cab",),
    filetypes.CPIO: ("cpio",),
    filetypes.LHA: ("lha",),
    _RAW: (),
}
_FILTERS = ("gzip", "bzip2", "xz", "lzma", "zstd", "lz4", "compress")
_BLOCK = 65536
_REGULAR, _KIND = 0o100000, 0o170000
_FOLDER = 0o040000
#: Octets that may be unpacked before their ratio counts.
_FREE = 10 * 1024 * 1024
#: Octets of every member in which archives are looked for behind what it begins with.
FAR = behind.FAR + _BLOCK
#: Others that are read to their end, whatever they begin with.
_WANTED = re.compile(r"\.(?:rels|zip)\Z", re.IGNORECASE)
#: Single files that were compressed, not archived.
_STREAMS = frozenset(
    {
        filetypes.GZIP,
        "application/x-bzip2",
        "application/x-xz",
        "application/zstd",
        "application/x-lz4",
        "application/x-lzma",
    }
)
#: Flags, method, length of the name.
_LOCAL = re.compile(rb"PK\x03\x04..(.).(..).{16}(..)..", re.DOTALL)
_CENTRAL = re.compile(rb"PK\x01\x02....(.).(..).{16}(..).{16}", re.DOTALL)


#: Zips in front of others that are looked into; octets of the last record of one, with the longest comment.
_ZIPS, _ZIP_END = 5, 22 + 65535


class Member(NamedTuple):
    """One member. `octets`: its beginning, all of it where `whole`."""

    name: str
    size: int = 0
    octets: bytes = b""
    whole: bool = False
    encrypted: bool = False
    why: str = ""


class Caps:
    """What may still be unpacked of one message, until when (CPU time of this process)."""

    def __init__(self, limits: Limits, size: int, until: float) -> None:
        self.names, self.octets = limits.archive_names, limits.archive_bytes
        self.most = max(_FREE, limits.archive_ratio * size)
        self.until = until
        self.unpacked = 0

    def name(self) -> None:
        """One more name. Raises Over."""
        self.names -= 1
        if self.names < 0:
            raise Over("archive_names")

    def take(self, octets: int) -> None:
        """So many more octets. Raises Over."""
        self.unpacked += octets
        if self.unpacked > self.octets:
            raise Over("archive_bytes")
        if self.unpacked > self.most:
            raise Over("archive_ratio")
        if time.process_time() > self.until:
            raise Over("time")


def is_missing() -> bool:
    """Whether libarchive is not there."""
    return ffi is None


def members(octets: bytes, kind: str, caps: Caps) -> Iterator[Member]:
    """The members of an archive of that type, folders left out. The last one may say why there are no more. Raises
    Over."""
    listed: set[str] = set()
    if ffi is not None:
        for member in chain(_unpacked(octets, kind, caps), _in_front(octets, kind, caps)):
            listed.add(member.name)
            yield member if kind not in _STREAMS or member.octets != octets else Member("", why="broken archive")
        if kind in _STREAMS and not listed:  # what looks like an empty archive may be a file of zeros
            yield from _unpacked(octets, _RAW, caps)
    if kind == filetypes.ZIP:
        yield from _zip_names(octets, caps, listed)


def _in_front(octets: bytes, kind: str, caps: Caps) -> Iterator[Member]:
    """Zips one behind the other: most readers begin at the end and see the last, some the first."""
    if kind == filetypes.ZIP and not octets.startswith(b"PK\x03\x04"):
        octets = octets[behind.first_zip(octets) :]
    for _ in range(_ZIPS):
        at = _second_zip(octets) if kind == filetypes.ZIP else 0
        if not at:
            return
        octets = octets[:at]
        yield from _unpacked(octets, kind, caps)
    yield Member("", why=f"more than {_ZIPS} zips, one behind the other")


def _second_zip(octets: bytes) -> int:
    """Where the zip that `octets` end with begins, if there is another one in front of it; else 0."""
    end = octets.rfind(b"PK\x05\x06", -_ZIP_END)
    if end < 0 or end + 22 > len(octets) or not octets.startswith(b"PK\x03\x04"):
        return 0
    size, offset = struct.unpack_from("<II", octets, end + 12)
    at: int = end - size - offset
    return at if at > 0 and octets.startswith(b"PK\x03\x04", at) else 0


def _zip_names(octets: bytes, caps: Caps, listed: set[str]) -> Iterator[Member]:
    """Names in the headers of members and in the directory: readers believe the one or the other. Entries of the
    directory that stand for the same octets once more count as what they would unpack to."""
    known, methods = set(listed), dict[bytes, set[bytes]]()
    for pattern, size in ((_LOCAL, 30), (_CENTRAL, 46)):
        seen: set[bytes] = set()
        for found in pattern.finditer(octets):
            start = found.start() + size
            raw = octets[start : start + struct.unpack("<H", found[3])[0]]
            name = readable(raw)
            if pattern is _LOCAL:
                methods.setdefault(raw, set()).add(found[2])
            elif raw in methods and found[2] not in methods[raw]:
                yield Member("", why=f"{name[:100]!r} is compressed in two ways")
            if pattern is _CENTRAL and (raw in seen or name not in listed):
                caps.take(struct.unpack_from("<I", octets, found.start() + 24)[0])
            seen.add(raw)
            if name and name not in known and not name.endswith("/"):
                known.add(name)
                caps.name()
                yield Member(name, encrypted=bool(found[1][0] & 1))


def _unpacked(octets: bytes, kind: str, caps: Caps) -> Iterator[Member]:
    reader = _Reader(octets, kind)
    try:
        yield from reader.members(caps)
    except ArchiveError as error:
        why = _why(error)
        yield Member("", encrypted="ncrypt" in why, why=why)
    finally:
        reader.close()


class _Reader:
    """libarchive on one piece of memory."""

    def __init__(self, octets: bytes, kind: str) -> None:
        self.octets, self.kind = octets, kind
        self.archive = ffi.read_new()
        self.entry = ffi.entry_new()
        self.block = ctypes.create_string_buffer(_BLOCK)
        #: The member under way did not come as it was promised (a checksum, a size).
        self.broken = False
        for name in _FORMATS_OF.get(kind, _FORMATS):
            _support(f"read_support_format_{name}", self.archive)
        for name in _FILTERS:
            _support(f"read_support_filter_{name}", self.archive)
        if kind in _STREAMS or kind == _RAW:
            _support("read_support_format_raw", self.archive)

    def members(self, caps: Caps) -> Iterator[Member]:
        ffi.read_open_memory(self.archive, ctypes.cast(ctypes.c_char_p(self.octets), ctypes.c_void_p), len(self.octets))
        while ffi.read_next_header2(self.archive, self.entry) != ffi.ARCHIVE_EOF:
            member = self._member(caps)
            if member is not None:
                yield member

    def _member(self, caps: Caps) -> Member | None:
        mode = ffi.entry_filetype(self.entry)
        if mode & _KIND == _FOLDER:
            return None
        caps.name()
        name = _name_of(self.entry)
        if ffi.libarchive.archive_entry_is_encrypted(ctypes.c_void_p(self.entry)):
            return Member(name, encrypted=True)
        if mode & _KIND != _REGULAR:
            return Member(name, whole=True)
        self.broken = False
        try:
            member = self._read(name, caps)
            return member._replace(why="wrong checksum or size") if self.broken else member
        except ArchiveError as error:
            if error.retcode == ffi.ARCHIVE_FATAL:
                raise
            why = _why(error)
            return Member(name, encrypted="ncrypt" in why or "assphrase" in why, why=why)

    def _read(self, name: str, caps: Caps) -> Member:
        """The beginning, and all if it is small or may hold something. What is not kept is unpacked and counted all the
        same, but where its size stands in the directory and can be passed over."""
        declared = max(0, ffi.entry_size(self.entry)) if ffi.entry_size_is_set(self.entry) else 0
        head = self._block(caps)
        octets = head + b"".join(self._blocks(caps, FAR - len(head)))
        if len(octets) < FAR or self._may_hold(octets, name):
            octets += b"".join(self._blocks(caps, caps.octets))
            return Member(name, len(octets), octets, True)
        if self.kind == filetypes.ZIP and declared > len(octets):
            caps.take(declared - len(octets))
            return Member(name, declared, head)
        return Member(name, len(octets) + sum(map(len, self._blocks(caps, caps.octets))), head)

    def _may_hold(self, octets: bytes, name: str) -> bool:
        detected = filetypes.detect(octets, deep=False)
        return (
            detected in filetypes.HOLDS or _WANTED.search(name) is not None or behind.first(octets, detected) is not None
        )

    def _blocks(self, caps: Caps, most: int) -> Iterator[bytes]:
        """So many octets, or more by less than a block, or all that there are."""
        while most > 0 and (block := self._block(caps)):
            most -= len(block)
            yield block

    def _block(self, caps: Caps) -> bytes:
        got = ffi.read_data(self.archive, self.block, _BLOCK)
        if got <= 0:
            self.broken = self.broken or got < 0
            return b""
        caps.take(got)
        return self.block.raw[:got]

    def close(self) -> None:
        ffi.entry_free(self.entry)
        ffi.read_free(self.archive)


def _why(error: Exception) -> str:
    return str(getattr(error, "msg", "") or "broken archive")[:200]


def _support(name: str, archive: Any) -> None:
    """A libarchive that was built without a format does without."""
    try:
        getattr(ffi, name)(archive)
    except (AttributeError, ArchiveError):
        return


def _name_of(entry: Any) -> str:
    for read in (ffi.entry_pathname_w, ffi.entry_pathname):
        name = read(entry)
        if name:
            return readable(name) if isinstance(name, bytes) else readable(name.encode("utf-8", "replace"))
    return ""


def warm() -> None:
    """Use it once, while files can still be opened."""
    if ffi is not None:
        import libarchive  # noqa: F401

        ffi.libarchive.archive_entry_is_encrypted.restype = ctypes.c_int
        ffi.logger.disabled = True
        for _ in members(_EMPTY_TAR, filetypes.TAR, Caps(Limits(), 1 << 20, time.process_time() + 5)):
            pass


_EMPTY_TAR = bytes(10240)
