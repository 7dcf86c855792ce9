"""pgsql tables (pgsql_table(5)) over psycopg 3. Needs the extra `pgsql`.

Contract: keys are quoted by the server's own rules (PQescapeStringConn); each question is a transaction of its own.
hosts may also be a whole connection URI (postgresql://...). What failure means for the mail: put off.
"""

from typing import Any

from appliance.tables.proxied.base import Bad, Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.hosts import Driver, Pool, no_data, places
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

    def __init__(self, path: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise Bad(f"{path}: needs the library psycopg: pip install 'postgate[pgsql]'") from None
        self._psycopg = psycopg
        settings = self._settings = Settings(path, _KNOWN)
        self._uri = next((host for host in settings.words("hosts") if "://" in host), "")
        found = [Place("", self._uri.rpartition("@")[2].partition("?")[0], 0)] if self._uri else places(settings, 5432)
        if not self._uri:
            settings.needed("dbname")
        self._form = Form(settings, ("query", legacy_query(settings)))
        avoid, idle = settings.number("retry_interval", 60, 1), settings.number("idle_interval", 60, 1)
        settings.done()
        driver = Driver(self._connect, self._ask, lambda made: made.pgconn.finish(), (psycopg.Error,), _silent)
        self._pool = Pool(found, driver, avoid, idle)

    async def _connect(self, place: Place) -> Any:
        text, settings = self._settings.text, self._settings
        named: dict[str, Any] = {"user": text("user"), "password": text("password"), "dbname": text("dbname")}
        if not self._uri:
            # a socket is named by its folder and port (".../.s.PGSQL.5432")
            folder, _, port = place.path.rpartition("/.s.PGSQL.")
            named |= {"host": folder or place.path or place.host, "port": port if folder else str(place.port)}
        return await self._psycopg.AsyncConnection.connect(
            self._uri,
            autocommit=True,
            client_encoding=settings.text("encoding", "UTF8"),
            connect_timeout=5,
            application_name="postgate",
            prepare_threshold=None,
            **{name: value for name, value in named.items() if value},
        )

    async def _ask(self, connection: Any, key: str) -> list[str | None]:
        """Raises psycopg.Error."""
        escaping = self._psycopg.pq.Escaping(connection.pgconn)
        parts = self._form.parts(key) or {}

        def quote(value: str) -> str:
            return bytes(escaping.escape_string(value.encode())).decode()

        query = self._form.queries["query"].fill(parts, quote)
        async with connection.cursor() as cursor:
            await cursor.execute(query.encode())
            rows = await cursor.fetchmany(MOST + 1)
        if len(rows) > MOST:
            raise self._psycopg.DataError(f"more than {MOST} rows")
        return [None if value is None else str(value) for row in rows for value in row]

    async def get(self, key: str, step: Step) -> str | None:
        if not sound(key) or not await self._form.admits(key, step) or self._form.parts(key) is None:
            return None
        return self._form.joined(key, await self._pool.values(key, step))

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._pool.close()


async def _silent(connection: Any) -> bool:
    return not connection.closed and no_data(connection.pgconn.socket)
