"""The octets of one connection to a milter, over asyncio: send, and hear what comes.

Contract: no deadline of its own. `close` may come at any time, from anywhere: who waits then gets ConnectionError. What a
milter says while nobody listens is kept, up to MOST octets, and then no more is read. What failure means for the mail: as
in milter.
"""

import asyncio
from typing import cast

from appliance.mail.policy_service import Place
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.packets import Reply
from appliance.protocol.milter.words import Word

#: Octets that are kept unread.
MOST = 1 << 20
_GOES = encode(Reply(Word.SHUTDOWN))


class Wire(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._heard = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.lost = False
        self._why = "the connection is closed"

    # ------------------------------------------------------------------ from the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # that of uvloop is none by descent

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if len(self._heard) > MOST and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost, self._why = True, f"it hung up{f' ({error})' if error else ''}"
        self._room.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ------------------------------------------------------------------ for the link

    @property
    def unasked(self) -> bool:
        """Has it said anything that nobody has taken yet?"""
        return bool(self._heard)

    @property
    def leaves(self) -> bool:
        """Has it said, by itself, that it goes away?"""
        return self._heard == _GOES

    async def send(self, octets: bytes) -> None:
        """Raises ConnectionError."""
        if self.lost or self._transport is None:
            raise ConnectionError(self._why)
        self._transport.write(octets)
        await self._room.wait()

    def post(self, octets: bytes) -> None:
        """Send without a wait: a few octets that nobody answers."""
        if not self.lost and self._transport is not None:
            self._transport.write(octets)

    async def hear(self) -> bytes:
        """The next octets, b"" never. Raises ConnectionError."""
        while not self._heard:
            if self.lost:
                raise ConnectionError(self._why)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        octets = bytes(self._heard)
        self._heard.clear()
        if not self.lost and self._transport is not None:
            self._transport.resume_reading()
        return octets

    def close(self, last: bytes = b"") -> None:
        """Say `last` if there is room for it, and go."""
        if self.lost:
            return
        self.lost = True
        if self._transport is not None:
            if last and self._room.is_set():
                self._transport.write(last)
                self._transport.close()
            else:
                self._transport.abort()
        self._room.set()
        self._wake()


async def connect(place: Place) -> Wire:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    if place.path:
        _, wire = await loop.create_unix_connection(Wire, place.path)
        return wire
    _, wire = await loop.create_connection(Wire, place.host, place.port)
    return wire
