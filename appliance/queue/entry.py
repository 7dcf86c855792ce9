"""One entry on disk: header, content, trailer; and the scan that finds entries again after anything happened.

Contract: a header is HEADER octets (big-endian): magic, version, flags, two zero octets, salt (8), content length u64,
trailer length u32, CRC-32 of content, of trailer, and of the header before it. The content follows untouched, then
the trailer (msgpack Trailer). The salt is the number in the intake file's random name: octets of a message that look like
an entry can therefore never be taken for one when the scan looks for the next header behind a damaged entry.
What failure means for the mail: an entry whose checksums do not match is reported with its limits and never delivered;
entries behind it are found all the same.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from appliance.queue.envelope import Trailer, decode_trailer
from appliance.queue.errors import ContentDamaged

MAGIC = b"\x93PGE"
VERSION = 1
_FIELDS = struct.Struct(">4sBBH8sQIII")
_CRC = struct.Struct(">I")
HEADER = _FIELDS.size + _CRC.size
#: A trailer that claims to be larger is a broken header.
MAX_TRAILER = 64 * 1024 * 1024
#: Content up to this size is read whole by the scan and handed on with the entry.
INLINE = 64 * 1024
_CHUNK = 1 << 20
NO_SALT = bytes(8)

encode_trailer = msgspec.msgpack.Encoder().encode


class Header(NamedTuple):
    """The checked facts of a header; lengths in octets."""

    salt: bytes
    content_length: int
    trailer_length: int
    content_crc: int
    trailer_crc: int
    flags: int = 0

    @property
    def length(self) -> int:
        """Octets of the whole entry."""
        return HEADER + self.content_length + self.trailer_length


class Found(NamedTuple):
    """A whole entry [offset, end). `content` is there when it is at most INLINE octets."""

    offset: int
    end: int
    trailer: Trailer
    content: bytes | None


class Damaged(NamedTuple):
    """Octets [offset, end) that once were an entry, or part of one: to be set aside. `why` is for the operator."""

    offset: int
    end: int
    why: str


class Torn(NamedTuple):
    """The unfinished end of a file whose writer died: never acknowledged, to be dropped."""

    offset: int
    end: int


def salt_of(name: str) -> bytes:
    """The salt of intake file `name` (16 hex digits and an extension); NO_SALT for any other name."""
    try:
        return bytes.fromhex(name[:16]) if len(name) > 16 else NO_SALT
    except ValueError:
        return NO_SALT


def pack_header(header: Header) -> bytes:
    """The HEADER octets."""
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        header.flags,
        0,
        header.salt,
        header.content_length,
        header.trailer_length,
        header.content_crc,
        header.trailer_crc,
    )
    return fields + _CRC.pack(zlib.crc32(fields))


def unpack_header(data: bytes, salt: bytes | None = None) -> Header | None:
    """The header in the first HEADER octets of `data`, or None if there is no valid one (or one with another salt)."""
    if len(data) < HEADER or data[:4] != MAGIC:
        return None
    _magic, version, flags, _zero, found, length, trailer, content_crc, trailer_crc = _FIELDS.unpack_from(data)
    if zlib.crc32(data[: _FIELDS.size]) != _CRC.unpack_from(data, _FIELDS.size)[0]:
        return None
    if version != VERSION or trailer > MAX_TRAILER or (salt is not None and salt != found):
        return None
    return Header(found, length, trailer, content_crc, trailer_crc, flags)


def encode_entry(content: bytes, trailer: Trailer, salt: bytes = NO_SALT) -> list[bytes]:
    """The buffers of one entry, ready for writev."""
    packed = encode_trailer(trailer)
    header = Header(salt, len(content), len(packed), zlib.crc32(content), zlib.crc32(packed))
    return [pack_header(header), content, packed]


def read_header(fd: int, offset: int = 0, salt: bytes | None = None) -> Header | None:
    """The valid header at `offset` of the file, or None. Raises OSError if the disk cannot be read."""
    return unpack_header(os.pread(fd, HEADER, offset), salt)


def read_trailer(fd: int, offset: int, header: Header) -> Trailer | None:
    """The trailer of the entry at `offset`, or None if it is damaged."""
    packed = os.pread(fd, header.trailer_length, offset + HEADER + header.content_length)
    if len(packed) != header.trailer_length or zlib.crc32(packed) != header.trailer_crc:
        return None
    try:
        return decode_trailer(packed)
    except msgspec.MsgspecError:
        return None


def find_header(fd: int, start: int, limit: int, salt: bytes) -> int | None:
    """Where the next valid header with this salt begins in [start, limit), or None."""
    while start < limit:
        window = os.pread(fd, min(_CHUNK, limit - start), start)
        at = window.find(MAGIC)
        while at >= 0:
            if read_header(fd, start + at, salt) is not None:
                return start + at
            at = window.find(MAGIC, at + 1)
        if len(window) <= len(MAGIC):
            return None
        start += len(window) - len(MAGIC) + 1
    return None


def is_draft(fd: int) -> bool:
    """True for a large file whose message was never committed: the place of the header is empty."""
    return not os.pread(fd, HEADER, 0).strip(b"\0")


def iterate(fd: int, salt: bytes, start: int = 0, end: int | None = None) -> Iterator[Found | Damaged | Torn]:
    """All entries of [start, end) in order; content over INLINE is checked by who reads it. Without `end` the
    file has no announced end (its writer died): what is cut off at the end of the file is then Torn; with it everything
    that is not an entry is Damaged. Raises OSError if the disk cannot be read."""
    limit = os.fstat(fd).st_size if end is None else end
    while start < limit:
        one = _entry_at(fd, salt, start, limit, end is None)
        yield one
        start = one.end


def _entry_at(fd: int, salt: bytes, start: int, limit: int, open_end: bool) -> Found | Damaged | Torn:
    header = read_header(fd, start, salt)
    if header is None:
        return _no_header(fd, salt, start, limit, open_end)
    end = start + header.length
    if end > limit:
        return Torn(start, limit) if open_end else Damaged(start, limit, "the entry is cut short")
    content = os.pread(fd, header.content_length, start + HEADER) if header.content_length <= INLINE else None
    trailer = read_trailer(fd, start, header)
    if trailer is not None and (content is None or zlib.crc32(content) == header.content_crc):
        return Found(start, end, trailer, content)
    what = "the trailer is damaged" if trailer is None else f"the content of {trailer.queue_id} is damaged"
    if end < limit and read_header(fd, end, salt) is None:
        end = find_header(fd, start + 1, limit, salt) or limit
    return Damaged(start, end, what)


def _no_header(fd: int, salt: bytes, start: int, limit: int, open_end: bool) -> Damaged | Torn:
    behind = find_header(fd, start + 1, limit, salt)
    if behind is None and open_end and (limit - start < HEADER or _zeros(fd, start, limit)):
        return Torn(start, limit)
    return Damaged(start, behind or limit, "no valid header")


def octets(path: Path, offset: int) -> Iterator[bytes]:
    """The octets of the entry at `offset` of a file, header to trailer, in pieces. Raises ContentDamaged, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_header(fd, offset)
        end = offset + header.length if header is not None else 0
        if header is None or os.fstat(fd).st_size < end:
            raise ContentDamaged(f"no whole entry at octet {offset} of {path.name}")
        while offset < end:
            piece = os.pread(fd, min(_CHUNK, end - offset), offset)
            offset += len(piece) or end
            yield piece
    finally:
        os.close(fd)


def _zeros(fd: int, start: int, limit: int) -> bool:
    while start < limit:
        chunk = os.pread(fd, min(_CHUNK, limit - start), start)
        if chunk.strip(b"\0"):
            return False
        start += len(chunk) or limit
    return True
