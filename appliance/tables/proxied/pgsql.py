"""pgsql tables (pgsql_table(5)) over psycopg 3. Needs the extra `pgsql`.

Contract: keys are quoted by the server's own rules (PQescapeStringConn); each question is a transaction of its own.
A connection URI among `hosts` (postgresql://...) says all about its server, as in Postfix: user, password and dbname of
the file are those of the plain hosts. What failure means for the mail: put off.
"""

import asyncio
import contextlib
import socket
from typing import Any

from appliance.tables.proxied.base import Bad, Opener, Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.hosts import Driver, Pool, no_data, place_of
from appliance.tables.proxied.names import Names
from appliance.tables.proxied.servers import Place
from appliance.tables.proxied.template import LEGACY, Form, legacy_query, sound

_KNOWN = (
    "hosts",
    "user",
    "password",
    "dbname",
    "encoding",
    "select_function",
    "retry_interval",
    "idle_interval",
    *LEGACY,
)
#: Rows of one answer that are read.
MOST = 10_000


class PgsqlTable:
    """One .cf file."""

    remembered = True
    deadline = 10.0
    slots = 16

    def __init__(self, path: str, opens: Opener | None = None) -> None:
        try:
            import psycopg
        except ImportError:
            raise Bad(f"{path}: needs the library psycopg: pip install 'postgate[pgsql]'") from None
        self._psycopg = psycopg
        settings = self._settings = Settings(path, _KNOWN, opens=opens)
        self._servers = self._found(settings)
        self._form = Form(settings, ("query", legacy_query(settings)))
        avoid, idle = settings.number("retry_interval", 60, 1), settings.number("idle_interval", 60, 1)
        settings.done()
        driver = Driver(self._connect, self._ask, self._close, (psycopg.Error,), _silent)
        names = Names("pgsql", len(self._servers))
        self._pool = Pool(list(self._servers), driver, avoid, idle, names)

    def _found(self, settings: Settings) -> dict[Place, dict[str, Any]]:
        """Each server, and what libpq is told to reach it."""
        text, found = settings.text, dict[Place, dict[str, Any]]()
        plain = {"user": text("user"), "password": text("password"), "dbname": text("dbname")}
        for host in settings.words("hosts", "localhost"):
            if "://" in host:
                place, told = self._uri(settings, host)
            elif (place := place_of(settings, host, 5432)) is not None:
                # a socket is named by its folder and port (".../.s.PGSQL.5432")
                folder, _, port = place.path.rpartition("/.s.PGSQL.")
                told = plain | {"host": folder or place.path or place.host, "port": port if folder else str(place.port)}
                settings.needed("dbname")
            if place is not None:
                found[place] = {name: value for name, value in told.items() if value}
        return found

    def _uri(self, settings: Settings, text: str) -> tuple[Place | None, dict[str, Any]]:
        """What a connection URI says. No mistake is told with its password."""
        told = dict[str, Any]()
        with contextlib.suppress(self._psycopg.Error):
            if text.startswith(("postgresql://", "postgres://")):
                told = self._psycopg.conninfo.conninfo_to_dict(text)
        host, port = str(told.get("hostaddr") or told.get("host") or ""), str(told.get("port") or 5432)
        if not told or "," in host or not port.isdecimal():
            settings.wrong("hosts", "a connection URI is not postgresql://user:password@host:port/dbname, of one host")
            return None, {}
        more = f"/{told.get('dbname', '')} as {told.get('user', '')}"
        return Place(host if host.startswith("/") else "", host, int(port), more), told

    async def _connect(self, place: Place, address: str) -> Any:
        told: dict[str, Any] = {"connect_timeout": 5, "application_name": "postgate"} | self._servers[place]
        if address and not place.path:
            told["hostaddr"] = address
        return await self._psycopg.AsyncConnection.connect(
            autocommit=True,
            client_encoding=self._settings.text("encoding", "UTF8"),
            prepare_threshold=None,
            **told,
        )

    async def _ask(self, connection: Any, key: str) -> list[str | None]:
        """Raises psycopg.Error. Who is cancelled leaves the question to its end, which is there when it is closed."""
        connection.asked = asyncio.ensure_future(self._rows(connection, key))
        return await asyncio.shield(connection.asked)

    def _close(self, connection: Any) -> None:
        """At once. Where a question is under way, it is woken, and the descriptor is closed behind it: psycopg watches it
        by its number until then, which would be another connection's."""
        asked = getattr(connection, "asked", None)
        if asked is None or asked.done():
            _finish(connection)
            return
        with contextlib.suppress(OSError, self._psycopg.Error):
            sock = socket.socket(fileno=connection.pgconn.socket)
            try:
                sock.shutdown(socket.SHUT_RDWR)
            finally:
                sock.detach()
        asked.add_done_callback(lambda _: _finish(connection))

    async def _rows(self, connection: Any, key: str) -> list[str | None]:
        escaping = self._psycopg.pq.Escaping(connection.pgconn)
        parts = self._form.parts(key) or {}

        def quote(value: str) -> str:
            return bytes(escaping.escape_string(value.encode())).decode()

        query = self._form.queries["query"].fill(parts, quote)
        async with connection.cursor() as cursor:
            await cursor.execute(query.encode())
            found = cursor.pgresult
        if found is None or not found.nfields:
            raise self._psycopg.ProgrammingError("the query gives no rows: it is no SELECT")
        if found.ntuples > MOST:
            raise self._psycopg.DataError(f"more than {MOST} rows")
        encoding = connection.info.encoding
        values = (found.get_value(row, column) for row in range(found.ntuples) for column in range(found.nfields))
        return [None if value is None else _text(value, encoding) for value in values]

    async def get(self, key: str, step: Step) -> str | None:
        if not sound(key) or not await self._form.admits(key, step) or self._form.parts(key) is None:
            return None
        return self._form.joined(key, await self._pool.values(key, step))

    def sample(self) -> str | None:
        return self._form.sample()

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._form.close()
        self._pool.close()


def _finish(connection: Any) -> None:
    """Nobody is in it; its last question, and how that went, are let go of with it."""
    connection.asked = None
    connection.pgconn.finish()


def _text(value: bytes, encoding: str) -> str:
    """A value as the server writes it, like libpq: "t" is true."""
    return value.decode("utf-8" if encoding == "ascii" else encoding, "surrogateescape")


async def _silent(connection: Any) -> bool:
    return not connection.closed and no_data(connection.pgconn.socket)
