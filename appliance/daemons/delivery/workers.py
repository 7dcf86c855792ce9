"""The smtpd workers' side of delivery: grants go out, notices come in, and everybody hears when the disk is nearly
full.

Contract: one channel a worker; a notice that is no notice closes the channel. A closed channel loses nothing: what
its notices did not tell is found by scanning the worker's files. Long scans give the loop a turn between batches.
What failure means for the mail: no grant can be made (disk full): the worker answers 452 and asks again later.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator

import msgspec

from appliance.net.channel import Channel
from appliance.observe import oplog
from appliance.queue.envelope import Committed, Notice, Returned, Sealed, Space, Want, decode_notice
from appliance.queue.errors import SpoolError
from appliance.queue.item import Item
from appliance.queue.spool import Spool

_ACCEPTS = 64
log = oplog.get("delivery")


class _Worker:
    """One connection. `name` is empty until the first Want; `owed` grants could not be made yet."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.name = ""
        self.owed = {"segment": 0, "large": 0}


class Workers:
    """Serves `unix:delivery`. `arrived(items)` takes every message that came, fresh or found."""

    def __init__(self, spool: Spool, size_limit: Callable[[], int], arrived: Callable[[Iterable[Item]], None]) -> None:
        self._spool, self._size_limit, self._arrived = spool, size_limit, arrived
        self._loop = asyncio.get_running_loop()
        self._workers: set[_Worker] = set()
        self._sockets: list[socket.socket] = []
        self._scans: set[asyncio.Task[None]] = set()
        self._scanning = False
        self.room = Space(True)
        self.committed = 0

    # ------------------------------------------------------------------ connections

    def listen(self, sockets: list[socket.socket]) -> None:
        """Accept workers on these listening sockets."""
        for sock in sockets:
            sock.setblocking(False)
            self._sockets.append(sock)
            self._watch(sock)

    def _watch(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is free: come back later instead of spinning
                self._loop.remove_reader(sock.fileno())
                self._loop.call_later(1.0, self._watch, sock)
                return
            worker = _Worker(Channel(connection))
            self._workers.add(worker)
            worker.channel.attach(
                self._loop,
                lambda payload, fds, worker=worker: self._on_frame(worker, payload, fds),  # type: ignore[misc]
                lambda worker=worker: self._on_closed(worker),  # type: ignore[misc]
            )
            self._send(worker, self.room)

    def _send(self, worker: _Worker, value: msgspec.Struct, fds: tuple[int, ...] = ()) -> bool:
        try:
            worker.channel.send(value, fds)
        except ConnectionError:
            return False
        except OSError as error:  # out of descriptors, and it would have to wait: a new connection settles who has what
            log.warning("a granted file could not be handed over", worker=worker.name, why=error.strerror)
            worker.channel.close()
            return False
        return True

    def _on_closed(self, worker: _Worker) -> None:
        """Its files are looked at as soon as nobody can write to them; those of a successor of its name are locked."""
        self._workers.discard(worker)
        if worker.name:
            self._spool.gone(worker.name)
            self.recheck()

    # ------------------------------------------------------------------ notices

    def _on_frame(self, worker: _Worker, payload: bytes, fds: list[int]) -> None:
        for fd in fds:  # no notice of a worker carries a descriptor
            os.close(fd)
        try:
            notice = decode_notice(payload)
        except msgspec.MsgspecError as error:
            log.warning("a worker sent what is no notice, its channel is closed", worker=worker.name, why=str(error))
            worker.channel.close()
            return
        self._take(worker, notice)

    def _take(self, worker: _Worker, notice: Notice) -> None:
        if type(notice) is Committed:
            item = self._spool.committed(notice)
            if item is not None:
                self.committed += 1
                self._arrived((item,))
        elif type(notice) is Want:
            worker.name = notice.worker
            worker.owed["segment"] += notice.segment
            worker.owed["large"] += notice.large
            self._grant(worker)
        elif type(notice) is Sealed:
            self._scan(self._spool.sealed(notice))
        elif type(notice) is Returned:
            self._spool.returned(notice)

    def _grant(self, worker: _Worker) -> None:
        """Answer what the worker asked for, as far as the disk allows; the rest is tried again each second."""
        for purpose in ("segment", "large"):
            while worker.owed[purpose] > 0:
                try:
                    grant, fd = self._spool.grant(purpose, worker.name)
                except SpoolError as error:
                    log.warning("no intake file can be made", why=str(error))
                    return
                worker.owed[purpose] -= 1
                sent = self._send(worker, grant, (fd,))
                os.close(fd)
                if not sent:
                    return

    # ------------------------------------------------------------------ scans

    def recheck(self) -> None:
        """Look for messages in files whose worker is gone; only one such look at a time."""
        if not self._scanning:
            self._scanning = True
            self._scan(self._spool.recheck(), self._rechecked)

    def _rechecked(self) -> None:
        self._scanning = False

    def _scan(self, batches: Iterator[list[Item]], done: Callable[[], None] = lambda: None) -> None:
        task = self._loop.create_task(self._run(batches, done))
        self._scans.add(task)
        task.add_done_callback(self._scans.discard)

    async def _run(self, batches: Iterator[list[Item]], done: Callable[[], None]) -> None:
        try:
            for batch in batches:
                if batch:
                    self._arrived(batch)
                await asyncio.sleep(0)
        except (OSError, SpoolError) as error:
            log.warning("intake files could not be scanned, this is tried again", why=str(error))
        finally:
            done()

    # ------------------------------------------------------------------ each second

    def tick(self) -> None:
        """Say when room gets short or comes back, make the grants that are owed, look for what dead workers left."""
        self._watch_room()
        for worker in list(self._workers):
            self._grant(worker)
        self.recheck()

    def _watch_room(self) -> None:
        try:
            space = self._spool.space()
        except OSError as error:
            log.warning("the spool's free space cannot be read", why=str(error))
            return
        limit = self._size_limit()
        room = Space(space.enough(limit), max(0, space.octets - limit * 3 // 2))
        changed = room.ok != self.room.ok
        self.room = room
        if not changed:
            return
        if room.ok:
            log.info("the spool has room again, new mail is taken")
        else:
            free = space.octets
            log.error("the spool is nearly full: new mail is put off with 452", free=free, inodes=space.inodes)
        for worker in list(self._workers):
            self._send(worker, room)

    def health(self) -> dict[str, object]:
        """Facts for status."""
        names = sorted(worker.name for worker in self._workers if worker.name)
        degraded = [] if self.room.ok else ["the spool is nearly full: new mail is put off"]
        return {"workers": names, "free": self.room.free, "degraded": degraded}

    def close(self) -> None:
        """Take no more notices; workers keep theirs until another delivery is there."""
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
        self._sockets.clear()
        for task in self._scans:
            task.cancel()
        for worker in list(self._workers):
            worker.channel.close()
