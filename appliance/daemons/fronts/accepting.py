"""Taking connections of MTAs from sockets that the master has bound, never more at once than a front allows.

Contract: who comes while all places are taken, or descriptors are out, waits in the backlog; each pause is told. What
failure means for the mail: an MTA that waits too long takes its own default for this front.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

#: Connections taken in one turn of the loop.
BATCH = 64
#: Seconds without accepting when descriptors or memory are out, or all places are taken.
PAUSE = 0.5
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

#: Makes the protocol of a connection to the front `name`; `peer` is for logs. None: nobody is served there any more.
Welcome = Callable[[str, str], asyncio.Protocol | None]


class Acceptor:
    """`places(name)` is how many more connections the front `name` may have; `told(why)` hears of pauses."""

    def __init__(self, welcome: Welcome, places: Callable[[str], int], told: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._welcome, self._places, self._told = welcome, places, told
        self._sockets: dict[socket.socket, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, sock: socket.socket, name: str) -> None:
        """Accept on a bound, listening socket for the front called `name`."""
        sock.setblocking(False)
        self._sockets[sock] = name
        self._loop.add_reader(sock, self._ready, sock, name)

    def stop(self) -> None:
        """Accept nothing more."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        self._sockets.clear()

    def _ready(self, sock: socket.socket, name: str) -> None:
        for _ in range(BATCH):
            if self._places(name) <= len(self._tasks):
                self._pause(sock, name, f"all connections of {name} are taken")
                return
            try:
                made, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORT:
                    raise
                self._pause(sock, name, str(error))
                return
            task = self._loop.create_task(self._take(made, peer, name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _pause(self, sock: socket.socket, name: str, why: str) -> None:
        self._told(f"accepting pauses: {why}")
        self._loop.remove_reader(sock)
        self._loop.call_later(PAUSE, self._resume, sock, name)

    def _resume(self, sock: socket.socket, name: str) -> None:
        if sock in self._sockets:
            self._loop.add_reader(sock, self._ready, sock, name)

    async def _take(self, sock: socket.socket, peer: object, name: str) -> None:
        protocol = self._welcome(name, f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a local socket")
        if protocol is None:
            sock.close()
            return
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError:
            sock.close()
