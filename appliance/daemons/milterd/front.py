"""What all connections of MTAs in a worker share: rules in force, ids, memory, names; accepting, draining, health.

Contract: connections use it, none owns it. Who comes when `connections` are open waits in the backlog. What failure means
for the mail: an MTA that is not accepted takes its default action for this filter.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from appliance.daemons.fronts.accepting import Acceptor
from appliance.daemons.fronts.names import Confirm, Names
from appliance.daemons.milterd import record
from appliance.daemons.milterd.collector import Memory
from appliance.daemons.milterd.connection import Connection
from appliance.daemons.milterd.message import Message
from appliance.daemons.milterd.rules import Rules
from appliance.daemons.milterd.session import Session
from appliance.engine.pipeline import Combined
from appliance.net.client_name import ClientName
from appliance.observe import oplog, trouble
from appliance.protocol.milter.words import Actions
from appliance.queue.ids import QueueIds

log = oplog.get("milterd")
#: Seconds between looks at silent connections.
LOOK = 1.0
#: What is degraded is said for so long after it was met last.
SAID = 600.0
#: Ids of milter workers differ from those of SMTP workers by this.
IDS_FROM = 512


class Senders(Protocol):
    """What is remembered of those whose mail was accepted (stores.asking.Senders)."""

    def accepted(self, keys: Sequence[str]) -> None: ...


class Front:
    """One a worker."""

    def __init__(
        self, rules: Rules, confirm: Confirm, folder: str, index: int = 0, senders: Senders | None = None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.rules, self.folder, self.senders = rules, folder, senders
        self.ids = QueueIds(IDS_FROM + index)
        self.clock = time.time
        self.memory = Memory(rules.limits.memory_messages)
        self.connections: set[Connection] = set()
        self.draining = False
        #: Connections by front.
        self._per_door: dict[str, int] = {}
        self._empty: asyncio.Event | None = None
        self.names = Names(confirm)
        self._acceptor = Acceptor(self._welcome, self._places, self.met)
        self._met: dict[str, float] = {}
        #: Messages for which the default was answered.
        self._late = trouble.Touched(self.loop.time, SAID)
        self._watch = self.loop.call_later(LOOK, self._look)

    def follow(self, rules: Rules) -> None:
        """Other rules are in force."""
        self.rules = rules
        self.memory.limit = rules.limits.memory_messages

    # ------------------------------------------------------------------ connections

    def accept_on(self, sock: socket.socket, door: str) -> None:
        """Serve a bound, listening socket for the front called `door`."""
        self._acceptor.serve(sock, door)

    def entered(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._per_door[connection.name] = self._per_door.get(connection.name, 0) + 1
        record.connected(len(self.connections))

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._per_door[connection.name] -= 1
        record.disconnected(len(self.connections))
        if self._empty is not None and not self.connections:
            self._empty.set()

    def _look(self) -> None:
        """Who says nothing for too long is hung up on."""
        self._watch = self.loop.call_later(LOOK, self._look)
        now = self.loop.time()
        for connection in [one for one in self.connections if one.deadline < now]:
            connection.expired()

    def _places(self, door: str) -> int:
        """How many more connections may come to this front: whoever fills one keeps nobody from another."""
        known = self.rules.doors.get(door)
        return known.front.connections - self._per_door.get(door, 0) if known is not None else 1

    def _welcome(self, door: str, peer: str) -> Connection | None:
        rules = self.rules
        return Connection(self, rules, rules.doors[door], f"{peer} at {door}") if door in rules.doors else None

    async def drain(self, grace: float) -> None:
        """Accept nothing more; messages under way end, then their MTAs are hung up on; after `grace` all are."""
        self._acceptor.stop()
        self.draining = True
        for connection in tuple(self.connections):
            if connection.idle:
                connection.close()
        await self._emptied(grace)
        for connection in tuple(self.connections):
            connection.close()
        await self._emptied(1.0)
        self._watch.cancel()

    async def _emptied(self, seconds: float) -> None:
        self._empty = asyncio.Event()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    # ------------------------------------------------------------------ names

    def name_of(self, session: Session) -> "asyncio.Task[ClientName] | None":
        """Find out the client's name: at once if it is remembered, else by a task that is awaited later."""
        found = self.names.of(session.client.address)
        if isinstance(found, ClientName):
            session.name(found)
            return None
        return found

    # ------------------------------------------------------------------ what happened

    def agreed(self, session: Session) -> None:
        """Note what an MTA does not offer although it may be needed."""
        agreement = session.machine.agreement
        if agreement is None:
            return
        for bit in Actions:
            if bit in session.door.want.likes and not agreement.may(bit):
                self.met(f"an MTA at {session.door.name} does not offer {bit.name}: mail that needs it is put off")

    def was_late(self, session: Session) -> None:
        """An answer was given by default."""
        message, ids = session.message, session.id
        if message is not None:
            ids = f"{message.id} ({session.machine.macro('i') or 'no id at the MTA yet'})"
            message.late_as = message.late_as or ids
        known = message.late_as if message is not None else ids
        self._late.note("milterd decided too late", "the default was answered", known)

    def accepted(self, message: Message, combined: Combined) -> None:
        """A message passed: whose it was is remembered."""
        if self.senders is None or not any(group.decision.keep == "deliver" for group in combined.store):
            return
        identities = [message.identity, *(v.identity for g in combined.store for v in g.decision.verdicts)]
        keys = tuple(dict.fromkeys(one.key for one in identities if one is not None))
        if keys:
            self.senders.accepted(keys)

    def met(self, what: str) -> None:
        """Something is impaired: said once when it begins, in status for a while."""
        now = self.loop.time()
        if now - self._met.get(what, -SAID) >= SAID:
            log.warning(what)
        self._met[what] = now

    def facts(self) -> dict[str, Any]:
        """For status."""
        return {"connections": len(self.connections), "body_memory": self.memory.used}

    def degraded(self) -> list[trouble.Said]:
        """What is impaired."""
        now = self.loop.time()
        self._met = {what: at for what, at in self._met.items() if now - at < SAID}
        return [*self._met, *self._late.degraded()]
