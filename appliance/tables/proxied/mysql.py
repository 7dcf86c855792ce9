"""mysql tables (mysql_table(5)), for MySQL and MariaDB, over aiomysql. Needs the extra `mysql`.

Contract: keys are quoted by the connection's own rules (NO_BACKSLASH_ESCAPES counts); the server may never read files of
ours (no LOCAL INFILE). What failure means for the mail: put off.
"""

import ssl
import struct
from typing import Any

from appliance.tables.proxied.base import Bad, Step
from appliance.tables.proxied.cf import Only, Settings
from appliance.tables.proxied.hosts import Driver, Pool, places
from appliance.tables.proxied.servers import Place, quiet
from appliance.tables.proxied.template import LEGACY, Form, legacy_query, sound

_KNOWN = (
    "hosts", "user", "password", "dbname", "charset", "retry_interval", "idle_interval", "require_result_set",
    "tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file", "tls_verify_cert", *LEGACY,
)  # fmt: skip
_ONLY = {
    "option_file": Only(("",), "write its settings into this file"),
    "option_group": Only(("", "client"), "write its settings into this file"),
    "tls_ciphers": Only(("",), "the ciphers are those of the system's OpenSSL"),
}
MOST = 10_000


class MysqlTable:
    """One .cf file."""

    remembered = True
    deadline = 10.0
    slots = 16

    def __init__(self, path: str) -> None:
        try:
            import aiomysql
            import pymysql
        except ImportError:
            raise Bad(f"{path}: needs the library aiomysql: pip install 'postgate[mysql]'") from None
        self._aiomysql = aiomysql
        settings = self._settings = Settings(path, _KNOWN, _ONLY)
        found = places(settings, 3306)
        settings.needed("dbname")
        self._form = Form(settings, ("query", legacy_query(settings)))
        avoid, idle = settings.number("retry_interval", 60, 1), settings.number("idle_interval", 60, 1)
        self._charset = settings.one_of("charset", "utf8mb4", ("utf8mb4", "latin1", "utf8"))
        self._rows_needed = settings.flag("require_result_set", True)
        self._tls = _tls(settings)
        settings.done()
        # ValueError, struct.error and the like: what the library makes of octets that are not its protocol
        errors = (pymysql.Error, RuntimeError, ValueError, AssertionError, IndexError, TypeError, struct.error)
        driver = Driver(self._connect, self._ask, lambda made: made.close(), errors, _silent)
        self._pool = Pool(found, driver, avoid, idle)

    async def _connect(self, place: Place) -> Any:
        text = self._settings.text
        where = {"unix_socket": place.path} if place.path else {"host": place.host, "port": place.port}
        return await self._aiomysql.connect(
            user=text("user") or None,
            password=text("password"),
            db=text("dbname"),
            charset=self._charset,
            autocommit=True,
            connect_timeout=5,
            local_infile=False,
            program_name="postgate",
            ssl=None if place.path else self._tls,
            **where,
        )

    async def _ask(self, connection: Any, key: str) -> list[str | None]:
        """Raises pymysql.Error."""
        query = self._form.queries["query"].fill(self._form.parts(key) or {}, connection.escape_string)
        async with connection.cursor() as cursor:
            await cursor.execute(query)
            if cursor.description is None and not self._rows_needed:
                return []
            if cursor.description is None:
                raise RuntimeError("the query gives no rows: it is no SELECT")
            rows = await cursor.fetchmany(MOST + 1)
        if len(rows) > MOST:
            raise RuntimeError(f"more than {MOST} rows")
        return [_text(value) for row in rows for value in row]

    async def get(self, key: str, step: Step) -> str | None:
        if not sound(key) or not await self._form.admits(key, step) or self._form.parts(key) is None:
            return None
        return self._form.joined(key, await self._pool.values(key, step))

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._pool.close()


async def _silent(connection: Any) -> bool:
    return not connection.closed and await quiet(connection._reader)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """TLS where any of its settings says something. Raises Bad for files that cannot be used."""
    text, verify = settings.text, settings.flag("tls_verify_cert", False)
    if not verify and not any(text(name) for name in ("tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file")):
        return None
    try:
        context = ssl.create_default_context(cafile=text("tls_CAfile") or None, capath=text("tls_CApath") or None)
        if text("tls_cert_file"):
            context.load_cert_chain(text("tls_cert_file"), text("tls_key_file") or None)
    except OSError as error:
        raise Bad(f"{settings.path}: TLS: {error.strerror or error}") from None
    if not verify:
        context.check_hostname = False
        if not text("tls_CAfile") and not text("tls_CApath"):
            context.verify_mode = ssl.CERT_NONE
    return context
