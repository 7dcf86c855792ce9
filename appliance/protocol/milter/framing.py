"""Where a packet of the milter protocol begins and ends.

Contract: linear in what is pushed, whatever pieces it comes in. What failure means for the mail: a length that cannot be
is ProtocolError as soon as it is known: the connection must end.
"""

import struct

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.words import MAX_PACKET

_LENGTH = struct.Struct(">I")
_LETTERS = [bytes((octet,)) for octet in range(256)]
#: Octets that were read are let go at the latest when there are so many.
_COMPACT = 1 << 16


class PacketReader:
    """Octets to packets, each (letter, data). A packet of more than `limit` octets is ProtocolError as soon as its length
    is known; so is one without a letter."""

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._at = 0

    def push(self, data: bytes) -> None:
        """Take octets without looking at them."""
        self._buffer += data

    def next(self) -> tuple[bytes, bytes] | None:
        """The next whole packet, or None. Raises ProtocolError."""
        buffer, at = self._buffer, self._at
        there = len(buffer)
        if there - at < 4:
            return None
        (length,) = _LENGTH.unpack_from(buffer, at)
        if not 1 <= length <= self.limit:
            raise ProtocolError(f"a packet of {length} octets, at most {self.limit} are taken")
        end = at + 4 + length
        if there < end:
            return None
        letter, data = _LETTERS[buffer[at + 4]], bytes(memoryview(buffer)[at + 5 : end])
        if end == there:
            buffer.clear()
            end = 0
        elif end > _COMPACT:
            del buffer[:end]
            end = 0
        self._at = end
        return letter, data

    @property
    def unread(self) -> int:
        """Octets that were pushed and not asked for yet."""
        return len(self._buffer) - self._at

    def drop(self) -> None:
        """Let go of what is unread."""
        self._buffer, self._at = bytearray(), 0

    @property
    def pending(self) -> bool:
        """Octets wait that are no whole packet (or were not asked for yet)."""
        return len(self._buffer) > self._at
