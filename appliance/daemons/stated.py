"""stated: the only writer of greylist, rates, connection counts and the call-ahead cache (design section 6).

Contract: it listens on its rendezvous; each worker has one connection, a frame of asks gets one frame of answers, from
RAM (stores.state). A worker's closed connection takes back its connection counts. A worker that does not read its
answers, or sends what is no ask, is disconnected. Drain answers what came, writes everything, and ends.
What failure means for the mail: while it is away the workers hear Unavailable at once: greylist and rates do not
hold (their checks answer `temperror`), nothing that was accepted depends on it. Killed, it loses a fraction of a second.
"""

import asyncio
import socket
from typing import Any

import msgspec

from appliance.config.snapshot import Snapshot
from appliance.daemons.skeleton import Birth, Daemon
from appliance.net.channel import Channel
from appliance.observe import metrics, oplog
from appliance.stores import wire
from appliance.stores.state import Open, State

log = oplog.get("stated")
#: Octets of answers that a worker may leave unread.
BACKLOG = 16 * 1024 * 1024

_asks = metrics.tally("postgate_stated_asks_total", "Questions that the workers asked stated.").counts
_frames = metrics.tally("postgate_stated_frames_total", "Frames of questions (asked together).").counts
_records = metrics.gauge("postgate_stated_records", "Records in memory.", ["table"])
_unwritten = metrics.gauge("postgate_stated_unwritten", "Changes that are not on disk yet.")
_write_lag = metrics.gauge("postgate_stated_write_lag_seconds", "Age of the oldest change at the last write.")
_steps = metrics.gauge("postgate_greylist_steps", "Greylist answers since the start of stated.", ["state"])


class Worker:
    """One worker's connection: its channel and the client connections it holds open."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.open: Open = {}


class Stated:
    """The daemon (daemons.skeleton.Daemon)."""

    def __init__(self, birth: Birth) -> None:
        self._listening = birth.listening["unix:stated"]
        self._state = State(birth.state_dir / "stores" / "stated.db")
        self._workers: set[Worker] = set()
        self._said: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        await self._state.keeper.start()
        for sock in self._listening:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._accept, sock)
        self._tick()

    def _accept(self, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("cannot accept a worker", error=str(error))
            self._loop.remove_reader(sock.fileno())
            self._loop.call_later(1.0, self._loop.add_reader, sock.fileno(), self._accept, sock)
            return
        worker = Worker(Channel(connection, takes_fds=False))  # nobody has reason to send any
        self._workers.add(worker)
        worker.channel.attach(self._loop, lambda data, _: self._asked(worker, data), lambda: self._gone(worker))
        board = self._state.board
        worker.channel.send((0, (wire.HELLO,)), (board.fd,) if board is not None else ())

    def _asked(self, worker: Worker, payload: bytes) -> None:
        try:
            sequence, asks = wire.decode_asks(payload)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            log.error("a worker sent what is no question", error=str(error))
            worker.channel.close()
            return
        before = self._state.asks
        answers = self._state.answer(asks, worker.open)
        _asks[()] += self._state.asks - before
        _frames[()] += 1
        channel = worker.channel
        if channel.closed:
            return
        channel.send((sequence, answers))
        if channel.wants_write and channel.backlog > BACKLOG:
            log.error("a worker does not read its answers")
            channel.close()

    def _gone(self, worker: Worker) -> None:
        self._state.gone(worker.open)
        self._workers.discard(worker)

    def _tick(self) -> None:
        """Once a second: numbers, the clock, and what has to be said aloud."""
        self._timer = self._loop.call_later(1.0, self._tick)
        self._state.refresh()
        keeper = self._state.keeper
        _unwritten.set(keeper.lag)
        _write_lag.set(keeper.lag_seconds)
        for shelf in self._state.shelves:
            _records.labels(shelf.table).set(len(shelf.hot))
        for state, count in self._state.outcomes.items():
            _steps.labels(state).set(count)
        impaired = set(self._state.health()["degraded"])
        for text in impaired - self._said:
            log.error("impaired", what=text)
        self._said = impaired

    def prepare(self, snapshot: Snapshot) -> None:
        """Nothing in the files concerns stated: every ask carries its knobs."""

    def commit(self, snapshot: Snapshot) -> None:
        """See prepare()."""

    def certificates(self, certificates: Any) -> None:
        """stated speaks no TLS."""

    async def drain(self, grace: float) -> None:
        """Take no new worker, write what waits, let the connections go."""
        for sock in self._listening:
            self._loop.remove_reader(sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
        for worker in tuple(self._workers):
            worker.channel.close()
        await self._state.keeper.stop()

    def health(self) -> dict[str, Any]:
        return {**self._state.health(), "workers": len(self._workers)}


def create(birth: Birth) -> Daemon:
    return Stated(birth)
