"""Where a packet of the milter protocol begins and ends.

Contract: linear in what is pushed, whatever pieces it comes in. What failure means for the mail: a length that cannot be
is ProtocolError as soon as it is known: the connection must end.
"""

import struct

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.words import MAX_PACKET

_LENGTH = struct.Struct(">I")


class PacketReader:
    """Octets to packets, each (letter, data). A packet of more than `limit` octets is ProtocolError as soon as its length
    is known; so is one without a letter."""

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def push(self, data: bytes) -> None:
        """Take octets without looking at them."""
        self._buffer += data

    def next(self) -> tuple[bytes, bytes] | None:
        """The next whole packet, or None. Raises ProtocolError."""
        buffer = self._buffer
        if len(buffer) < 5:
            if len(buffer) == 4:
                self._check(_LENGTH.unpack_from(buffer)[0])
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        self._check(length)
        if len(buffer) < 4 + length:
            return None
        letter, data = bytes(buffer[4:5]), bytes(buffer[5 : 4 + length])
        del buffer[: 4 + length]
        return letter, data

    def _check(self, length: int) -> None:
        if not 1 <= length <= self.limit:
            raise ProtocolError(f"a packet of {length} octets, at most {self.limit} are taken")

    @property
    def pending(self) -> bool:
        """Octets wait that are no whole packet (or were not asked for yet)."""
        return bool(self._buffer)
