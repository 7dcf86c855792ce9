"""redis tables: GET of a key, or HGET of a field, as a .cf file says. Postfix has none: the names are those of its other
types.

`hosts` (host:port, unix:path), `user`, `password`, `dbname` (a number), `tls` (yes: verified), `key_format` (%s, as a
query), `hash` (then the key is a field of this hash), and domain, result_format, expansion_limit.
Contract: a value is one text. One question needs little of the protocol, read strictly by our own codec. What failure
means for the mail: a server that is away, loading or refuses puts off.
"""

import asyncio
import ssl
from typing import NamedTuple

from appliance.protocol import resp
from appliance.protocol.errors import ProtocolError
from appliance.tables.proxied.base import Opener, Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.hosts import Driver, Pool, places
from appliance.tables.proxied.names import Names
from appliance.tables.proxied.servers import Place, quiet
from appliance.tables.proxied.template import Form

_KNOWN = ("hosts", "user", "password", "dbname", "tls", "key_format", "hash", "retry_interval", "idle_interval")


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class RedisTable:
    """One .cf file."""

    remembered = True
    deadline = 5.0
    slots = 16

    def __init__(self, path: str, opens: Opener | None = None) -> None:
        settings = self._settings = Settings(path, _KNOWN, opens=opens)
        found = places(settings, 6379)
        self._form = Form(settings, ("key_format", settings.text("key_format", "%s")))
        self._hash = settings.text("hash").encode()
        self._number = settings.number("dbname", 0)
        self._tls = ssl.create_default_context() if settings.flag("tls", False) else None
        avoid, idle = settings.number("retry_interval", 60, 1), settings.number("idle_interval", 60, 1)
        settings.done()
        driver = Driver(self._connect, self._ask, _close, (ProtocolError,), lambda made: quiet(made.reader))
        self._pool = Pool(found, driver, avoid, idle, Names("redis", len(found)))

    async def _connect(self, place: Place, address: str) -> Connection:
        if place.path:
            made = Connection(*await asyncio.open_unix_connection(place.path))
        else:
            name = place.host if self._tls else None
            made = Connection(*await asyncio.open_connection(address, place.port, ssl=self._tls, server_hostname=name))
        try:
            user, password = self._settings.text("user").encode(), self._settings.text("password").encode()
            if password:
                await _said(made, b"AUTH", *((user, password) if user else (password,)))
            if self._number:
                await _said(made, b"SELECT", str(self._number).encode())
        except BaseException:
            _close(made)
            raise
        return made

    async def _ask(self, connection: Connection, key: str) -> list[str | None]:
        """Raises ProtocolError."""
        name = self._form.queries["key_format"].fill(self._form.parts(key) or {}, str)
        octets = name.encode("utf-8", "surrogateescape")
        words = (b"HGET", self._hash, octets) if self._hash else (b"GET", octets)
        found = await _said(connection, *words)
        if found.kind != "$":
            raise ProtocolError("the value is no text")
        return [None if found.value is None else found.value.decode("utf-8", "surrogateescape")]

    async def get(self, key: str, step: Step) -> str | None:
        if not await self._form.admits(key, step) or self._form.parts(key) is None:
            return None
        return self._form.joined(key, await self._pool.values(key, step))

    def sample(self) -> str | None:
        return self._form.sample()

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._form.close()
        self._pool.close()


async def _said(connection: Connection, *words: bytes) -> resp.Reply:
    """What the server says to one command. Raises ProtocolError, also for an error that it tells."""
    connection.writer.write(resp.command(*words))
    await connection.writer.drain()
    reader = resp.ReplyReader()
    while not reader.complete:
        data = await connection.reader.read(65536)
        if not data:
            break
        reader.feed(data)
    found = reader.end()
    if found.kind == "-":
        raise ProtocolError(f"says {(found.value or b'')[:200].decode(errors='replace')}")
    return found


def _close(connection: Connection) -> None:
    connection.writer.transport.abort()
