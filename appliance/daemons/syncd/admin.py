"""The operators' side of syncd: JSON lines over `recipients.sock` for `postgate recipients sync`.

Contract: a hello first, by which who connects sees that somebody is there; then one request a connection and, for each
list, an outcome; {"done": true} or {"error": "..."} at the end. Who may open the socket may do all. What failure means
for the mail: nothing.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import msgspec

from appliance.observe import oplog
from appliance.tables.known.keep import Outcome

log = oplog.get("syncd")
HELLO = b'{"hello": "postgate recipients 1"}\n'
_LONGEST = 65536
#: Seconds for a request to come.
_PATIENCE = 10.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Which lists (none: all), and how (tables.known.keep.Order)."""

    names: tuple[str, ...] = ()
    force: bool = False
    empty: bool = False
    dry_run: bool = False


Sync = Callable[[Request], Awaitable[list[Outcome]]]


class Admin:
    """Serves requests by `sync`, which raises KeyError for a list that there is not."""

    def __init__(self, sync: Sync) -> None:
        self._sync = sync
        self._servers: list[asyncio.AbstractServer] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self, sock: socket.socket) -> None:
        self._servers.append(await asyncio.start_unix_server(self._connected, sock=sock, limit=_LONGEST))

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._serving:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            writer.write(HELLO)
            async with asyncio.timeout(_PATIENCE):
                line = await reader.readline()
            writer.write(await self._answer(line))
            await writer.drain()
        except (OSError, ValueError) as error:  # also who does not ask in time
            log.info("an operator's connection ended early", why=str(error))
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.MsgspecError, ValueError) as error:
            return msgspec.json.encode({"error": f"not a request: {error}"}) + b"\n"
        try:
            outcomes = await self._sync(request)
        except KeyError as error:
            text = f"the gateway that runs knows no [recipients.{error.args[0]}] (postgate reload)"
            return msgspec.json.encode({"error": text}) + b"\n"
        return b"".join(msgspec.json.encode(part) + b"\n" for part in [*outcomes, {"done": True}])
