"""proxymap: looks keys up in tables that need a path, a network or a password, so that smtpd and delivery need none.

Contract: it listens on its rendezvous; each process has one connection, asks come in frames, each is answered when its
answer is there. Only tables of the configuration in force may be asked. A peer that does not read its answers, or
sends what is no question, is disconnected. It runs only while a configured table needs it.
What failure means for the mail: while it is away, or a table fails, those who ask hear Unavailable: put off, never
refused, never passed.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.config.snapshot import Snapshot
from appliance.daemons.skeleton import Birth, Daemon
from appliance.net.channel import Channel
from appliance.observe import oplog
from appliance.tables import wire
from appliance.tables.proxied import open_proxied
from appliance.tables.proxied.keeper import Keeper

log = oplog.get("proxymap")
#: Octets of answers that a peer may leave unread, and questions that it may have under way.
BACKLOG, UNDER_WAY = 16 * 1024 * 1024, 20_000


class Peer:
    """One process that asks. Answers of one turn of the loop go in one frame."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.tasks: set[asyncio.Task[None]] = set()
        self._ready: list[wire.Answer] = []

    def tell(self, answer: wire.Answer) -> None:
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._flush)
        self._ready.append(answer)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        if self.channel.closed:
            return
        self.channel.send(ready)
        if self.channel.backlog > BACKLOG:
            log.error("a process does not read its answers")
            self.channel.close()

    def gone(self) -> None:
        for task in tuple(self.tasks):
            task.cancel()


class Proxymap:
    """The daemon (daemons.skeleton.Daemon)."""

    def __init__(self, birth: Birth) -> None:
        self._listening = birth.listening["unix:proxymap"]
        self._snapshot = birth.snapshot
        self._keeper = Keeper(open_proxied)
        self._peers: set[Peer] = set()

    async def start(self) -> None:
        """Begin to answer. A table that cannot be opened is said, and fails when it is asked."""
        self._loop = asyncio.get_running_loop()
        for problem in self._keeper.also(self._snapshot.proxied):
            log.error("a table cannot be opened", why=problem)
        for sock in self._listening:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("cannot accept a process", error=str(error))
            self._loop.remove_reader(sock.fileno())
            self._loop.call_later(1.0, self._loop.add_reader, sock.fileno(), self._accept, sock)
            return
        peer = Peer(Channel(connection))
        self._peers.add(peer)
        peer.channel.attach(self._loop, lambda data, fds: self._asked(peer, data, fds), lambda: self._gone(peer))
        peer.channel.send([wire.Answer(0, wire.FOUND, wire.HELLO)])

    def _asked(self, peer: Peer, payload: bytes, fds: list[int]) -> None:
        for fd in fds:  # nobody has reason to send any
            os.close(fd)
        try:
            asks = wire.decode_asks(payload)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            log.error("a process sent what is no question", error=str(error))
            peer.channel.close()
            return
        for ask in asks:
            if len(peer.tasks) >= UNDER_WAY:
                peer.tell(wire.Answer(ask.number, wire.FAILED, f"{ask.table}: too many look-ups are under way"))
                continue
            task = self._loop.create_task(self._answer(peer, ask))
            peer.tasks.add(task)
            task.add_done_callback(peer.tasks.discard)

    async def _answer(self, peer: Peer, ask: wire.Ask) -> None:
        peer.tell(wire.Answer(ask.number, *await self._keeper.answer(ask.table, ask.key)))

    def _gone(self, peer: Peer) -> None:
        peer.gone()
        self._peers.discard(peer)

    def prepare(self, snapshot: Snapshot) -> None:
        """Raises ValueError for a table that cannot be opened: the reload is refused, the old one stays everywhere."""
        if problems := self._keeper.also(snapshot.proxied):
            raise ValueError("; ".join(problems))

    def commit(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._keeper.follow(snapshot.proxied)

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """It has no listener for strangers."""

    async def drain(self, grace: float) -> None:
        """Who asks has ended before; let go of everything."""
        for sock in self._listening:
            self._loop.remove_reader(sock.fileno())
        for peer in tuple(self._peers):
            peer.gone()
            peer.channel.close()
        self._keeper.close()

    def health(self) -> dict[str, Any]:
        return {"tables": self._keeper.facts(), "peers": len(self._peers), "degraded": self._keeper.degraded()}


def create(birth: Birth) -> Daemon:
    return Proxymap(birth)
