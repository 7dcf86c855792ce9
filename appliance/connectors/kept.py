"""Connections to scanners that take several questions one after the other.

Contract: a connection is kept only after a whole answer that allows it, for IDLE seconds, MOST of them a server; one on
which anything came meanwhile is thrown away (threats D3). A server may close an idle connection just when it is used: who
then hears nothing asks once more, on a new one. What failure means for the mail: as in conversation.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from appliance.connectors import conversation
from appliance.connectors.conversation import NoAnswer, Progress, Server

IDLE, MOST = 15.0, 10

T = TypeVar("T")


class Kept:
    """Of one scanner. Give it up with close()."""

    def __init__(self, *, idle: float = IDLE) -> None:
        self._idle = idle
        self._sockets: dict[Server, list[tuple[float, socket.socket]]] = {}
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False
        self.used_again = 0

    async def ask(
        self, server: Server, progress: Progress, use: Callable[[socket.socket], Awaitable[tuple[T, bool]]]
    ) -> T:
        """`use` a connection: it gives its result, and whether the connection may be kept. Raises what it raises."""
        sock = self._take(server)
        if sock is not None:
            self.used_again += 1
            progress.server = server
            try:
                return await self._use(server, sock, use)
            except NoAnswer:
                self._forget(server)  # it restarted, or closes what is idle: the others are gone as well
        return await self._use(server, await conversation.connect(server, progress), use)

    async def _use(
        self, server: Server, sock: socket.socket, use: Callable[[socket.socket], Awaitable[tuple[T, bool]]]
    ) -> T:
        try:
            result, good = await use(sock)
        except BaseException:
            sock.close()
            raise
        if good:
            self._give(server, sock)
        else:
            sock.close()
        return result

    def _take(self, server: Server) -> socket.socket | None:
        sockets = self._sockets.get(server, [])
        now = asyncio.get_running_loop().time()
        while sockets:
            until, sock = sockets.pop()
            if until > now and _is_quiet(sock):
                return sock
            sock.close()
        return None

    def _give(self, server: Server, sock: socket.socket) -> None:
        sockets = self._sockets.setdefault(server, [])
        if self._closed or len(sockets) >= MOST:
            sock.close()
            return
        loop = asyncio.get_running_loop()
        sockets.append((loop.time() + self._idle, sock))
        if self._tidying is None:
            self._tidying = loop.call_later(self._idle, self._tidy)

    def _tidy(self) -> None:
        """Close what was idle for too long."""
        loop, left = asyncio.get_running_loop(), False
        for server, sockets in self._sockets.items():
            for until, sock in sockets:
                if until <= loop.time():
                    sock.close()
            self._sockets[server] = [kept for kept in sockets if kept[0] > loop.time()]
            left |= bool(self._sockets[server])
        self._tidying = loop.call_later(self._idle, self._tidy) if left else None

    def _forget(self, server: Server) -> None:
        for _, sock in self._sockets.pop(server, []):
            sock.close()

    def close(self) -> None:
        """Nothing is kept from now on."""
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        for server in list(self._sockets):
            self._forget(server)


def _is_quiet(sock: socket.socket) -> bool:
    """Neither closed by the other side, nor has it said anything."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
