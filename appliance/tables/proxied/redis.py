"""redis tables: GET of a key, or HGET of a field, as a .cf file says. Postfix has none: the names are those of its
other types.

`hosts` (host:port, unix:path), `user`, `password`, `dbname` (a number), `tls` (yes: verified), `key_format` (%s, as a
query), `hash` (then the key is a field of this hash), and domain, result_format, expansion_limit.
Contract: a value is one text. What failure means for the mail: a server that is away, loading or refuses puts off.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from appliance.tables.proxied.base import Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.hosts import Driver, Pool, places
from appliance.tables.proxied.servers import Place
from appliance.tables.proxied.template import Form

_KNOWN = ("hosts", "user", "password", "dbname", "tls", "key_format", "hash", "retry_interval", "idle_interval")
_closing: set[asyncio.Task[None]] = set()


class RedisTable:
    """One .cf file."""

    remembered = True
    deadline = 5.0

    def __init__(self, path: str) -> None:
        settings = self._settings = Settings(path, _KNOWN)
        found = places(settings, 6379)
        self._form = Form(settings, ("key_format", settings.text("key_format", "%s")))
        self._hash = settings.text("hash")
        self._number, self._tls = settings.number("dbname", 0), settings.flag("tls", False)
        avoid, idle = settings.number("retry_interval", 60, 1), settings.number("idle_interval", 60, 1)
        settings.done()
        # ValueError, IndexError: what the library makes of octets that are not its protocol
        self._pool = Pool(
            found, Driver(self._connect, self._ask, _close, (RedisError, ValueError, IndexError)), avoid, idle
        )

    async def _connect(self, place: Place) -> Redis:
        text = self._settings.text
        where: dict[str, Any] = {"host": place.host, "port": place.port, "ssl": self._tls}
        if place.path:
            where = {"unix_socket_path": place.path}
        return Redis(
            db=self._number,
            username=text("user") or None,
            password=text("password") or None,
            socket_timeout=self.deadline,
            socket_connect_timeout=self.deadline,
            retry=Retry(NoBackoff(), 0),
            max_connections=1,
            **where,
        )

    async def _ask(self, connection: Redis, key: str) -> list[str | None]:
        """Raises RedisError."""
        name = self._form.queries["key_format"].fill(self._form.parts(key) or {}, str).encode("utf-8", "surrogateescape")
        found: Any = connection.hget(self._hash, name) if self._hash else connection.get(name)
        value = await found
        if value is not None and not isinstance(value, bytes):
            raise RedisError("the value is no text")
        return [None if value is None else value.decode("utf-8", "surrogateescape")]

    async def get(self, key: str, step: Step) -> str | None:
        if self._form.parts(key) is None:
            return None
        return self._form.joined(key, await self._pool.values(key, step))

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._pool.close()


def _close(connection: Redis) -> None:
    try:
        task = asyncio.get_running_loop().create_task(connection.aclose())
    except RuntimeError:  # the loop has ended: so has the connection
        return
    _closing.add(task)
    task.add_done_callback(_closing.discard)
