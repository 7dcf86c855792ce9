"""The addresses of one table's servers, asked of the system's resolver in threads of the table's own.

Contract: a resolver that hangs for one table keeps no other table waiting, and none of its own hosts another: a name is
asked for once at a time, in a thread that whoever asks meanwhile waits for, too. Nothing is remembered. Raises OSError
where a name has no address, Unavailable behind close(). What failure means for the mail: put off.
"""

import asyncio
import ipaddress
import socket

from appliance.tables.proxied.threads import Threads


class Names:
    """`count`: as many names as the table has. End it with close()."""

    def __init__(self, kind: str, count: int) -> None:
        self._threads = Threads(f"{kind}-names", max(1, count))
        self._running: dict[str, asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """In the resolver's order; an address is its own."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        running = self._running.get(host)
        if running is None:
            running = self._running[host] = asyncio.ensure_future(self._threads.run(_resolved, host))
            running.add_done_callback(lambda done: self._done(host, done))
        return await asyncio.shield(running)

    def _done(self, host: str, done: "asyncio.Future[list[str]]") -> None:
        self._running.pop(host, None)
        if not done.cancelled():
            done.exception()  # whoever asked may have gone

    def close(self) -> None:
        self._threads.close()


def _resolved(host: str) -> list[str]:
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(0, f"{host} is no name of a host: {error}") from None
    return list(dict.fromkeys(socket.getnameinfo(entry[4], flags)[0] for entry in found))
