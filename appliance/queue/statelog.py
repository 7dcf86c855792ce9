"""The state log `ID.state` beside an entry of its own: a head (trailer, birth), then one note for each event.

Contract: a record is u32 length, u32 CRC-32, msgpack payload; the log is only appended to. Notes of attempts
are not synced (after a power cut a message is tried sooner, or once more), acts of an operator and moves are. The head
repeats the trailer: start-up reads one small file a message. A log over COMPACT octets is rewritten when it has doubled.
What failure means for the mail: a damaged note is skipped with all behind it (more is tried again, nothing is lost); a
damaged head makes start-up read the entry itself.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance.queue.entry import read_header, read_trailer
from appliance.queue.envelope import Trailer
from appliance.queue.item import Item, Kept, Note

_FRAME = struct.Struct(">II")
SUFFIX = ".state"
COMPACT = 32 * 1024


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The first record. `born` is spool time."""

    trailer: Trailer
    born: float


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_note = msgspec.msgpack.Decoder(Note).decode


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def render(item: Item, note: Note) -> bytes:
    """A whole log that says what `item` is, with `note` (applied already) as the last thing that happened."""
    return b"".join(map(_frame, [_encode(Head(item.trailer, item.born)), _encode(item.summary(note.at)), _encode(note)]))


def append(path: Path, note: Note, sync: bool) -> int:
    """Append one note; returns its octets. Raises OSError; then the log ends where it ended before."""
    data = _frame(_encode(note))
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        before = os.fstat(fd).st_size
        if os.write(fd, data) != len(data):
            os.ftruncate(fd, before)
            raise OSError("short write of a state log")
        if sync:
            os.fdatasync(fd)
    finally:
        os.close(fd)
    return len(data)


def _payloads(data: bytes) -> Iterator[bytes]:
    start = 0
    while start + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, start)
        payload = data[start + _FRAME.size : start + _FRAME.size + length]
        if len(payload) != length or zlib.crc32(payload) != crc:
            return
        yield payload
        start += _FRAME.size + length


def load(entry: Path, state: Path, folder: Kept, born: float) -> Item | None:
    """The item of an entry of its own; None if neither log nor entry is one. `born` is for an item without a log. Raises
    OSError where that is not known: the disk cannot be read, no descriptor is left."""
    item = _from_log(state, folder, entry.name)
    if item is not None:
        return item
    fd = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_header(fd)
        trailer = read_trailer(fd, 0, header) if header is not None else None
    finally:
        os.close(fd)
    return Item(trailer, folder, entry.name, 0, born) if trailer is not None else None


def _from_log(state: Path, folder: Kept, name: str) -> Item | None:
    try:
        data = state.read_bytes()
    except FileNotFoundError:
        return None
    try:
        payloads = list(_payloads(data))
        head = _decode_head(payloads[0])
        item = Item(head.trailer, folder, name, 0, head.born)
        for payload in payloads[1:]:
            item.apply(_decode_note(payload))
    except (IndexError, msgspec.MsgspecError):
        return None
    item.state_octets = item.state_base = sum(map(len, payloads)) + _FRAME.size * len(payloads)
    if item.state_octets < len(data):  # a record that was cut off: what is appended next must not hide behind it
        os.truncate(state, item.state_octets)
    return item if item.queue_id == name else None
