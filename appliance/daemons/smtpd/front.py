"""What all sessions of a worker share: rules in force, queue, counts, certificates; and accepting connections.

Contract: sessions use it, none owns it. A descriptor shortage pauses accepting for a moment, with one log line.
What failure means for the mail: a client that is not accepted waits in the backlog or comes again.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from appliance.config.model import Limits
from appliance.daemons.fronts.names import Confirm, Names
from appliance.daemons.smtpd import greeting
from appliance.daemons.smtpd.body import Memory
from appliance.daemons.smtpd.insiders import Insiders
from appliance.daemons.smtpd.limits import Connections, Watch, hit
from appliance.daemons.smtpd.questions import Plug
from appliance.daemons.smtpd.rules import Rules
from appliance.daemons.smtpd.session import Session
from appliance.daemons.smtpd.transaction import Transaction
from appliance.mail.context import Client
from appliance.net.client_name import ClientName
from appliance.observe import metrics, oplog
from appliance.queue.envelope import Space, Trailer
from appliance.queue.ids import QueueIds
from appliance.queue.large import LargeFile
from appliance.queue.space import Space as Room

log = oplog.get("smtpd")
_paused = metrics.counter("postgate_smtpd_accept_pauses_total", "Pauses of accepting for want of descriptors or memory.")
#: Connections taken in one turn of the loop.
BATCH = 64
#: Seconds without accepting when descriptors or memory are out.
ACCEPT_PAUSE = 0.5
#: Seconds for which the room in the spool is not looked at again.
ROOM_KEPT = 0.25
#: Seconds that a client waits behind each error above the soft limit.
PENALTY = 1.0
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Counted(Protocol):
    """stores.rates.Counts, as far as it matters here."""

    @property
    def over(self) -> str: ...


class State(Protocol):
    """What is asked of stated (stores.remote.StateClient); what is awaited raises Unavailable."""

    async def connect(self, address: str, limits: Limits) -> Counted: ...

    def entered(self, address: str, limits: Limits) -> None: ...

    def disconnect(self, address: str) -> None: ...

    async def messages(self, address: str, cost: int, period: float) -> int: ...

    async def recipients(self, address: str, cost: int, period: float) -> int: ...

    def accepted(self, address: str) -> None: ...

    def errors(self, address: str, count: int = 1) -> None: ...


class Intake(Protocol):
    """The worker's side of the queue (queue.intake.IntakeLog)."""

    def commit(self, content: bytes, trailer: Trailer) -> Awaitable[None]: ...

    def large(self) -> LargeFile | None: ...

    def large_soon(self) -> "asyncio.Future[LargeFile]": ...

    def room(self) -> Room | None: ...


class Front:
    """One a worker."""

    def __init__(
        self,
        rules: Rules,
        intake: Intake,
        state: State,
        confirm: Confirm,
        index: int = 0,
        senders: greeting.Senders | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.rules, self.intake, self.state = rules, intake, state
        #: What is remembered of senders and of clients that waited.
        self.senders = senders
        self.waited = greeting.Waited()
        self.insiders = Insiders()
        self.ids = QueueIds(index)
        self.clock = time.time
        self.memory = Memory(rules.limits.memory_messages)
        self.connections = Connections(rules.limits)
        self.watch = Watch(self.connections.export)
        self.sessions: set[Session] = set()
        #: Between MAIL and the answer behind the end of data.
        self.transactions: set[Transaction] = set()
        self.contexts: Mapping[str, ssl.SSLContext] = {}
        self.draining = False
        self._empty: asyncio.Event | None = None
        #: Makes the plug of an aiosmtpd handler for a new session (hooks.Plug), if there is one.
        self.plug: Callable[[Session], Plug] | None = None
        self._space_told = True
        self._room_at = 0.0
        self.names = Names(confirm)
        self._accepting: dict[socket.socket, str] = {}
        self._welcomes: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ sessions

    def entered(self, session: Session) -> None:
        self.sessions.add(session)
        self.watch.watched.add(session)

    def left(self, session: Session) -> None:
        self.sessions.discard(session)
        if self.draining and not self.sessions and self._empty is not None:
            self._empty.set()
        self.watch.watched.discard(session)
        if session.counted:
            self.connections.leave(session.counted)
        if session.counted_by_state:
            self.state.disconnect(session.counted)

    def follow(self, rules: Rules) -> None:
        """Other rules are in force, for the next transaction of every session."""
        self.rules = rules
        self.memory.limit = rules.limits.memory_messages
        self.connections.follow(rules.limits)

    def patience(self, seconds: float | None = None) -> float:
        """How long a client may take; less when connections run out."""
        limits = self.rules.limits
        wanted = limits.timeout_command if seconds is None else seconds
        return min(wanted, limits.stress_timeout) if self.connections.stressed else wanted

    async def penalty(self) -> None:
        """A client that makes errors waits."""
        await asyncio.sleep(PENALTY)

    async def drain(self, grace: float, commits: float) -> None:
        """Accept nothing more; sessions end between transactions, at the latest after `grace` seconds, and get 421; what
        is being committed then has `commits` seconds more."""
        self.stop_accepting()
        self.draining = True
        for session in tuple(self.sessions):
            session.wind_down()
        await self._emptied(grace)
        for session in tuple(self.sessions):
            session.wind_down(now=True)
        await self._emptied(commits)
        for session in tuple(self.sessions):
            session.cut()
        self.watch.stop()

    async def _emptied(self, seconds: float) -> None:
        """Wait until no session is left, at most `seconds`."""
        self._empty = asyncio.Event()
        if self.sessions or self._welcomes:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    # ------------------------------------------------------------------ room

    def told(self, space: Space) -> None:
        """Delivery knows whether new mail may come."""
        if space.ok != self._space_told:
            log.warning(
                "the spool has room again" if space.ok else "the spool is nearly full: no new mail", free=space.free
            )
        self._space_told = space.ok

    def has_room(self, rules: Rules, size: int) -> bool:
        """May a message of `size` octets (0: not known) begin?"""
        if not self._space_told:
            return False
        now = self.loop.time()
        if now < self._room_at and not size:
            return True
        room = self.intake.room()
        enough = room is not None and room.enough(rules.smtp.size_limit) and room.octets > size
        self._room_at = now + ROOM_KEPT if enough else 0.0
        return enough

    # ------------------------------------------------------------------ names

    def name_of(self, session: Session) -> "asyncio.Task[ClientName] | None":
        """Find out the client's name: at once if it is remembered, else by a task that is awaited later."""
        found = self.names.of(session.client.address)
        if isinstance(found, ClientName):
            session.named(found)
            return None
        return found

    # ------------------------------------------------------------------ accepting

    def accept_on(self, sock: socket.socket, door: str) -> None:
        """Accept connections of a bound, listening socket for the listener called `door`."""
        sock.setblocking(False)
        self._accepting[sock] = door
        self.loop.add_reader(sock, self._accept, sock, door)

    def stop_accepting(self) -> None:
        for sock in self._accepting:
            self.loop.remove_reader(sock)
        self._accepting.clear()

    def _accept(self, sock: socket.socket, door: str) -> None:
        for _ in range(BATCH):
            try:
                made, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORT:
                    raise
                self._pause(sock, door, error)
                return
            task = self.loop.create_task(self.welcome(made, peer, door))
            self._welcomes.add(task)
            task.add_done_callback(self._welcomes.discard)

    def _pause(self, sock: socket.socket, door: str, error: OSError) -> None:
        _paused.inc()
        log.warning("accepting pauses", why=error, open=self.connections.open)
        self.loop.remove_reader(sock)
        self.loop.call_later(ACCEPT_PAUSE, self._resume, sock, door)

    def _resume(self, sock: socket.socket, door: str) -> None:
        if sock in self._accepting:
            self.loop.add_reader(sock, self._accept, sock, door)

    async def welcome(self, sock: socket.socket, peer: object, door: str) -> None:
        """One connection, from accept to the first batch of commands."""
        rules = self.rules
        (address, port), (ours, our_port) = textual(peer), textual(sock.getsockname())
        early = _spoke(sock)
        trusted = rules.doors[door].facts(address).trusted_relay
        client = Client(address=address, port=port, trusted_relay=trusted, server_address=ours, server_port=our_port)
        session = Session(self, rules, rules.doors[door], client)
        try:
            await self.loop.connect_accepted_socket(lambda: session, sock)
        except OSError as error:
            hit("accept", f"{address}: {error}")
            sock.close()
            return
        await session.drive(greeting.greet(session, early))


def textual(peer: object) -> tuple[str, int]:
    """(address, port) of what accept() and getsockname() say; ("local", 0) for a unix socket."""
    if not isinstance(peer, tuple):
        return "local", 0
    address = str(peer[0])
    return address.removeprefix("::ffff:") if "." in address else address, int(peer[1])


def _spoke(sock: socket.socket) -> bool:
    """Has the client sent anything already? Nobody has seen a banner yet."""
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
