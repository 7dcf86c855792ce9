"""What all connections of policy clients in a worker share: rules in force, remembered messages, ids; accepting, time.

Contract: connections use it, none owns it. One timer looks at all connections. What failure means for the mail: a client
that is not accepted waits in the backlog, or takes its own default.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from appliance.daemons.fronts.accepting import Acceptor
from appliance.daemons.policyd import record, saying
from appliance.daemons.policyd.connection import Connection
from appliance.daemons.policyd.messages import Messages
from appliance.daemons.policyd.outbox import Outbox
from appliance.daemons.policyd.rules import Rules
from appliance.observe import trouble
from appliance.queue.ids import QueueIds

#: Seconds between looks at late answers and silent clients.
LOOK = 0.25
#: What is degraded is said for so long after it was met last.
SAID = 600.0
#: Ids of policy workers differ from those of other workers by this.
IDS_FROM = 768


class Senders(Protocol):
    """What is remembered of those whose mail was accepted (stores.asking.Senders)."""

    def accepted(self, keys: Sequence[str]) -> None: ...


class Front:
    """One a worker."""

    def __init__(self, rules: Rules, index: int = 0) -> None:
        self.loop = asyncio.get_running_loop()
        self.rules = rules
        self.ids = QueueIds(IDS_FROM + index)
        self.clock = time.time
        self.monotonic = self.loop.time
        self.messages = Messages(rules.messages)
        self.connections: set[Connection] = set()
        self.outbox = Outbox(self.loop, self.connections.__len__)
        self.draining = False
        self._per_door: dict[str, int] = {}
        self._empty: asyncio.Event | None = None
        self._met: dict[str, float] = {}
        #: Messages for which the default was answered.
        self._late = trouble.Touched(self.loop.time, SAID)
        self._acceptor = Acceptor(self._welcome, self._places, self.met)
        self._timer = self.loop.call_later(LOOK, self._look)

    def follow(self, rules: Rules) -> None:
        """Other rules are in force; open connections stay with the front of their name."""
        if rules is not self.rules:
            for door in self.rules.doors.values():
                door.forget()
            self.messages.overtaken()
        self.rules = rules
        self.messages.most = rules.messages
        for connection in self.connections:
            connection.door = rules.doors.get(connection.door.name, connection.door)

    # ------------------------------------------------------------------ connections

    def accept_on(self, sock: socket.socket, door: str) -> None:
        """Serve a bound, listening socket for the front called `door`."""
        self._acceptor.serve(sock, door)

    def _welcome(self, name: str, peer: str) -> Connection | None:
        door = self.rules.doors.get(name)
        return Connection(self, door, peer) if door is not None and not self.draining else None

    def _places(self, name: str) -> int:
        door = self.rules.doors.get(name)
        return (door.front.connections if door else 1) - self._per_door.get(name, 0)

    def entered(self, connection: Connection) -> None:
        self.connections.add(connection)
        name = connection.door.name
        self._per_door[name] = self._per_door.get(name, 0) + 1
        record.connections(len(self.connections))

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._per_door[connection.door.name] -= 1
        record.connections(len(self.connections))
        if self._empty is not None and not self.connections:
            self._empty.set()

    def _look(self) -> None:
        self._timer = self.loop.call_later(LOOK, self._look)
        now = self.loop.time()
        for connection in tuple(self.connections):
            connection.look(now)
        wall = self.clock()
        record.unsaid(self.messages.sweep(wall))
        self.messages.renew(self.rules, wall)

    async def drain(self, grace: float) -> None:
        """Accept nothing more, answer what has been asked, hang up."""
        self.draining = True
        self._acceptor.stop()
        for connection in tuple(self.connections):
            if not connection.busy:
                connection.close()
        if self.connections:
            self._empty = asyncio.Event()
            try:
                await asyncio.wait_for(self._empty.wait(), max(grace, 0.0))
            except TimeoutError:
                for connection in tuple(self.connections):
                    connection.close()
        self._timer.cancel()
        record.unsaid(self.messages.forget())
        saying.settle()

    # ------------------------------------------------------------------ health

    def facts(self) -> dict[str, Any]:
        """For status."""
        return {"connections": len(self.connections), "messages": len(self.messages)}

    def met(self, what: str) -> None:
        """Something is impaired; status says so for a while."""
        self._met[what] = self.loop.time()

    def was_late(self, ident: str) -> None:
        """An answer was given by default."""
        self._late.note("policyd decided too late", "the default was answered", ident)

    def degraded(self) -> list[trouble.Said]:
        """What is impaired."""
        now = self.loop.time()
        found: list[trouble.Said] = [f"policy server: {what}" for what, when in self._met.items() if now - when < SAID]
        return [*found, *self._late.degraded()]
