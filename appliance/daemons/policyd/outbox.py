"""Answers on their way out: those of a few turns of the loop go together.

Contract: the answers of a connection go in their order, `flush` sends what waits. What one wake-up brings is often read
in several turns, and the first answer wakes its client, who takes the processor from us: so answers wait while turns
bring more, TURNS at most, and not where every client has one waiting. Who is alone never waits. What failure means for
the mail: none.
"""

import asyncio
from collections.abc import Callable

#: Turns of the loop for which answers wait for more at most.
TURNS = 3


class Outbox:
    """One a worker. `clients`: how many connections are open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clients: Callable[[], int]) -> None:
        self._loop, self._clients = loop, clients
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, octets: bytes) -> None:
        """Send these soon."""
        waiting = self._waiting
        waiting.append((transport, octets))
        count = len(waiting)
        if count >= self._clients():
            self.flush()
        elif count == 1:
            self._loop.call_soon(self._look, 0, 0)

    def _look(self, turn: int, before: int) -> None:
        count = len(self._waiting)
        if before < count and turn < TURNS:
            self._loop.call_soon(self._look, turn + 1, count)
        else:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        for transport, octets in waiting:
            if not transport.is_closing():
                transport.write(octets)
