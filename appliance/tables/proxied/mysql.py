"""mysql tables (mysql_table(5)), for MySQL and MariaDB, over aiomysql. Needs the extra `mysql`.

Contract: keys are quoted by the connection's own rules (NO_BACKSLASH_ESCAPES counts); the server may never read files of
ours (no LOCAL INFILE). What failure means for the mail: put off.
"""

import ssl
import struct
from typing import Any

from appliance.tables.proxied.base import Bad, Opener, Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.hosts import Driver, Pool, places
from appliance.tables.proxied.mycnf import SOCKET, Options
from appliance.tables.proxied.names import Names
from appliance.tables.proxied.servers import Place, address, quiet
from appliance.tables.proxied.template import LEGACY, Form, legacy_query, sound
from appliance.tables.proxied.tls import Files, Named, ciphers, sound_ciphers
from appliance.tables.text import TableError

_KNOWN = (
    "hosts", "user", "password", "dbname", "charset", "retry_interval", "idle_interval", "require_result_set",
    "tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file", "tls_ciphers", "tls_verify_cert", "option_file",
    "option_group", *LEGACY,
)  # fmt: skip
MOST = 10_000


class MysqlTable:
    """One .cf file."""

    remembered = True
    deadline = 10.0
    slots = 16

    def __init__(self, path: str, opens: Opener | None = None) -> None:
        try:
            import aiomysql
            import pymysql
        except ImportError:
            raise Bad(f"{path}: needs the library aiomysql: pip install 'postgate[mysql]'") from None
        self._class = _strict(aiomysql, pymysql)
        settings = self._settings = Settings(path, _KNOWN, opens=opens)
        options = self._options = Options(settings)
        found = servers(settings, options)
        settings.needed("dbname")
        self._form = Form(settings, ("query", legacy_query(settings)))
        avoid, idle = settings.number("retry_interval", 60, 1), settings.number("idle_interval", 60, 1)
        self._charset = settings.one_of("charset", "utf8mb4", ("utf8mb4", "latin1", "utf8"))
        self._rows_needed = settings.flag("require_result_set", True)
        self._tls = _Tls(settings, options)
        settings.done()
        # ValueError, struct.error and the like: what the library makes of octets that are not its protocol
        errors = (pymysql.Error, RuntimeError, ValueError, AssertionError, IndexError, TypeError, struct.error)
        driver = Driver(self._connect, self._ask, lambda made: made.close(), errors, _silent)
        self._pool = Pool(found, driver, avoid, idle, Names("mysql", len(found)))

    async def _connect(self, place: Place, address: str) -> Any:
        text = self._settings.text
        where = {"unix_socket": place.path} if place.path else {"host": address, "port": place.port}
        connection = self._class(
            user=text("user") or self._options.text("user") or None,
            password=text("password"),
            db=text("dbname"),
            charset=self._charset,
            autocommit=True,
            connect_timeout=5,
            local_infile=False,
            program_name="postgate",
            ssl=self._tls.of(place.host) if self._tls and not place.path else None,
            init_command=self._options.text("init-command") or None,
            conv={},  # values as the server writes them, like libmysqlclient: a DOUBLE of 1 is "1"
            **where,
        )
        connection.needs_tls = self._tls.verify and not place.path
        await connection._connect()
        return connection

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

    def sample(self) -> str | None:
        return self._form.sample()

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._form.close()
        self._pool.close()


def _strict(aiomysql: Any, pymysql: Any) -> Any:
    """The library's connection; where TLS is a must, nothing is handed to a server that does not offer it."""

    class Connection(aiomysql.Connection):  # type: ignore[misc]
        needs_tls = False

        async def _request_authentication(self) -> None:
            if self.needs_tls and not self.server_capabilities & pymysql.constants.CLIENT.SSL:
                raise RuntimeError("the server offers no TLS, which tls_verify_cert asks for")
            await super()._request_authentication()

    return Connection


def servers(settings: Settings, options: Options) -> list[Place]:
    """`hosts`, and where an option file leads from there: `localhost` and sockets are what its `host` says, else its
    `socket` (the system's one: then localhost over TCP as well); its `port` is the default of all."""
    remote = [] if options.text("host").lower() in ("", "localhost") else options.text("host").split(",")
    found = list[Place]()
    for place in places(settings, options.port(3306)):
        local = place.host.lower() == "localhost"
        if remote and (local or place.path):
            try:
                found += [address(host, place.port) for host in remote]
            except TableError as error:
                options.wrong("host", str(error))
        elif local:
            socket = options.text("socket", SOCKET)
            found += [Place(socket, "", place.port), *([place] if socket == SOCKET else [])]
        else:
            found.append(place)
    return list(dict.fromkeys(found))


async def _silent(connection: Any) -> bool:
    return not connection.closed and await quiet(connection._reader)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


class _Tls:
    """TLS where any of its settings says something; an option file's go before those of the .cf file, as in Postfix.
    Raises Bad for files that cannot be used."""

    def __init__(self, settings: Settings, options: Options) -> None:
        def text(name: str, option: str) -> str:
            return options.text(option) or settings.text(name)

        suite = ciphers(settings, "tls_ciphers")
        if (other := options.text("ssl-cipher")) and not sound_ciphers(other):
            options.wrong("ssl-cipher", f'"{other}" names no cipher that OpenSSL has here')
        self._files = Files(
            text("tls_CAfile", "ssl-ca"),
            text("tls_CApath", "ssl-capath"),
            text("tls_cert_file", "ssl-cert"),
            text("tls_key_file", "ssl-key"),
            other or suite,
        )
        self.verify = settings.flag("tls_verify_cert", False)
        if "ssl-verify-server-cert" in options:
            self.verify = options.flag("ssl-verify-server-cert")
        self._wanted = self.verify or options.flag("ssl-enforce") or bool(self._files)
        settings.done()
        if self:
            self._files.tried(settings)

    def __bool__(self) -> bool:
        return self._wanted

    def of(self, name: str) -> Named:
        checks = self.verify or self._files.ca_file or self._files.ca_path
        return self._files.context(name, ssl.CERT_REQUIRED if checks else ssl.CERT_NONE, self.verify)
