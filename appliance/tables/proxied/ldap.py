"""ldap tables (ldap_table(5)) over ldap3, in threads. Needs the extra `ldap`.

Contract: keys are quoted as filters (RFC 4515) and as names (RFC 4514) demand. Attributes in Postfix's ranks: terminal
ones hide all others, leaf ones count only in entries without special ones, special ones name further entries. A search
that comes back with more than is allowed, a referral, an unknown result is trouble. What failure means for the mail:
put off.
"""

import asyncio
import contextlib
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from appliance.tables.ldap_answers import Answers
from appliance.tables.proxied.base import Bad, Opener, Step
from appliance.tables.proxied.cf import NO_MATTER, NOT, Only, Settings
from appliance.tables.proxied.hosts import Driver, Pool, no_data
from appliance.tables.proxied.servers import Place, address
from appliance.tables.proxied.template import Form, sound
from appliance.tables.proxied.threads import Threads
from appliance.tables.proxied.tls import ciphers
from appliance.tables.text import TableError

_KNOWN = (
    "server_host", "server_port", "timeout", "search_base", "query_filter", "scope", "bind", "bind_dn", "bind_pw",
    "result_attribute", "special_result_attribute", "terminal_result_attribute", "leaf_result_attribute", "result_filter",
    "recursion_limit", "size_limit", "dereference", "version", "start_tls", "tls_ca_cert_dir", "tls_ca_cert_file",
    "tls_cert", "tls_key", "tls_require_cert", "tls_cipher_suite",
)  # fmt: skip
_ONLY = {
    **dict.fromkeys(("cache", "cache_expiry", "cache_size", "debuglevel", "tls_random_file"), NO_MATTER),
    "chase_referrals": Only(NOT, "name the server that holds the entries"),
    # they are for "bind = sasl" alone, which is refused
    **dict.fromkeys(("sasl_mechs", "sasl_realm", "sasl_authz_id", "sasl_minssf"), NO_MATTER),
}
_FILTER = {ord(letter): f"\\{ord(letter):02x}" for letter in "\\*()\0"}
_NAME = {ord(letter): f"\\{letter}" for letter in '"\\+,<>;#= '} | {0: "\\00", 9: "\\09", 10: "\\0a", 13: "\\0d"}
_SCOPES = {"sub": "SUBTREE", "base": "BASE", "one": "LEVEL"}
#: Values and entries of one answer.
MOST = 100_000
_NO_SUCH_OBJECT = 32


class Search(NamedTuple):
    """`attributes`: those that an LDAP URL asks for, () where it is for us to say."""

    base: str
    filter: str
    scope: str
    attributes: tuple[str, ...] = ()


class Attributes(NamedTuple):
    """In lower case, by rank."""

    terminal: frozenset[str]
    leaf: frozenset[str]
    plain: frozenset[str]
    special: frozenset[str]

    @property
    def all(self) -> list[str]:
        return sorted(self.terminal | self.leaf | self.plain | self.special)


class LdapTable:
    """One .cf file."""

    remembered = True
    slots = 8

    def __init__(self, path: str, opens: Opener | None = None) -> None:
        try:
            import ldap3
        except ImportError:
            raise Bad(f"{path}: needs the library ldap3: pip install 'postgate[ldap]'") from None
        self._ldap3 = ldap3
        settings = self._settings = Settings(path, _KNOWN, _ONLY, opens=opens)
        self.deadline = float(settings.number("timeout", 10, 1))
        self._servers = _servers(settings)
        queries = ("query_filter", settings.text("query_filter", "(mailacceptinggeneralid=%s)"))
        self._form = Form(settings, queries, ("search_base", settings.text("search_base")))
        self._scope = _SCOPES.get(settings.one_of("scope", "sub", _SCOPES), "SUBTREE")
        self._attributes = Attributes(
            frozenset(name.lower() for name in settings.words("terminal_result_attribute")),
            frozenset(name.lower() for name in settings.words("leaf_result_attribute")),
            frozenset(name.lower() for name in settings.words("result_attribute", "maildrop")),
            frozenset(name.lower() for name in settings.words("special_result_attribute")),
        )
        self._limit = settings.number("recursion_limit", 1000, 1)
        self._size = settings.number("size_limit", settings.number("expansion_limit", 0))
        self._bind = settings.one_of("bind", "yes", ("yes", "no", "none", "simple")) in ("yes", "simple")
        self._dereference = settings.number("dereference", 0)
        settings.number("version", 3)
        self._tls = self._tls_settings(settings)
        settings.done()
        errors = (ldap3.core.exceptions.LDAPException, ValueError, TypeError, IndexError, KeyError, AttributeError)
        self._threads = Threads("ldap", self.slots)
        self._pool = Pool(list(self._servers), Driver(self._connect, self._ask, _close, errors, _silent))

    def _tls_settings(self, settings: Settings) -> Any:
        import ssl

        text, start, suite = settings.text, settings.flag("start_tls", False), ciphers(settings, "tls_cipher_suite")
        if not start and not any(secure for secure in self._servers.values()):
            return None
        try:
            return self._ldap3.Tls(
                validate=ssl.CERT_REQUIRED if settings.flag("tls_require_cert", False) else ssl.CERT_NONE,
                ca_certs_file=text("tls_ca_cert_file") or None,
                ca_certs_path=text("tls_ca_cert_dir") or None,
                local_certificate_file=text("tls_cert") or None,
                local_private_key_file=text("tls_key") or None,
                ciphers=suite or None,
            )
        except self._ldap3.core.exceptions.LDAPException as error:
            raise Bad(f"{settings.path}: TLS: {error}") from None

    async def _connect(self, place: Place, _host: str) -> Any:
        dialled: list[Any] = []
        try:
            return await self._threads.run(self._dial, place, dialled)
        except asyncio.CancelledError:
            for connection in dialled:
                _close(connection)
            raise

    def _dial(self, place: Place, dialled: list[Any]) -> Any:
        ldap3, text = self._ldap3, self._settings.text
        where = f"ldapi://{place.path}" if place.path else place.host
        server = ldap3.Server(
            where,
            port=place.port or None,
            use_ssl=self._servers[place],
            tls=self._tls,
            get_info=ldap3.NONE,
            connect_timeout=max(1, min(5, int(self.deadline))),
        )
        connection = ldap3.Connection(
            server,
            user=text("bind_dn") or None if self._bind else None,
            password=text("bind_pw") or None if self._bind else None,
            read_only=True,
            auto_referrals=False,
            check_names=False,
            receive_timeout=max(1, int(self.deadline)),
        )
        dialled.append(connection)
        Answers(connection)
        try:
            connection.open()
            if self._settings.flag("start_tls", False) and not connection.start_tls():
                raise ValueError(f"STARTTLS: {connection.last_error}")
            if self._bind and not connection.bind():
                raise ValueError(f"the bind is refused: {connection.result['description']}")
        except BaseException:
            _close(connection)
            raise
        return connection

    async def _ask(self, connection: Any, key: str) -> list[str | None]:
        return await self._threads.run(self._values, connection, key)

    def _values(self, connection: Any, key: str) -> list[str | None]:
        parts = self._form.parts(key) or {}
        first = Search(
            self._form.queries["search_base"].fill(parts, lambda text: text.translate(_NAME)),
            self._form.queries["query_filter"].fill(parts, lambda text: text.translate(_FILTER)),
            self._scope,
        )
        return self._follow(connection, first)

    def _follow(self, connection: Any, first: Search) -> list[str | None]:
        """The values of the entries that a search finds, and of those that they name (behind who names them)."""
        found: list[str | None] = []
        work: list[tuple[Search | dict[str, list[str]], int]] = [(first, 1)]
        while work:
            item, depth = work.pop()
            if depth > self._limit:
                raise ValueError(f"entries name each other over recursion_limit = {self._limit} deep")
            if isinstance(item, Search):
                work += [(entry, depth) for entry in reversed(self._search(connection, item))]
                continue
            chosen, further = chosen_of(item, self._attributes)
            found += chosen
            work += [(named(name), depth + 1) for name in reversed(further)]
            if len(found) + len(work) > MOST:
                raise ValueError("an answer without end")
        return found

    def _search(self, connection: Any, search: Search) -> list[dict[str, list[str]]]:
        """The attributes of each entry. An entry that is not there is none."""
        connection.strategy.receiving.renew()
        connection.search(
            search.base,
            search.filter,
            search_scope=search.scope,
            dereference_aliases=("NEVER", "SEARCH", "BASE", "ALWAYS")[min(self._dereference, 3)],
            attributes=search.attributes or self._attributes.all,
            size_limit=self._size,
            time_limit=int(self.deadline),
        )
        if connection.result["result"] == _NO_SUCH_OBJECT:
            return []
        if connection.result["result"] != 0:
            raise ValueError(f"the search fails: {connection.result['description']} {connection.result['message']}")
        return [
            {name.lower(): [_text(value) for value in raw] for name, raw in answer["raw_attributes"].items()}
            for answer in connection.response or []
            if answer.get("type") == "searchResEntry"
        ]

    async def get(self, key: str, step: Step) -> str | None:
        if not sound(key) or not await self._form.admits(key, step) or self._form.parts(key) is None:
            return None
        values = await self._pool.values(key, step)
        return self._form.joined(key, values)

    def sample(self) -> str | None:
        return self._form.sample()

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._form.close()
        self._pool.close()
        self._threads.close()


def chosen_of(values: dict[str, list[str]], ranks: Attributes) -> tuple[list[str], list[str]]:
    """(the values that count in one entry, the entries that it names)."""

    def of(names: frozenset[str]) -> list[str]:
        return [value for name, listed in values.items() if name in names for value in listed if value]

    if terminal := of(ranks.terminal):
        return terminal, []
    further = of(ranks.special)
    return of(ranks.plain) + ([] if further else of(ranks.leaf)), further


def named(text: str) -> Search:
    """An entry by its name, or the search of an LDAP URL."""
    if not text.lower().startswith(("ldap://", "ldaps://", "ldapi://")):
        return Search(text, "(objectClass=*)", "BASE")
    parts = urlsplit(text)
    names, scope, filter_ = [*unquote(parts.query).split("?"), "", "", ""][:3]
    base = unquote(parts.path).lstrip("/")
    asked = tuple(name for name in names.split(",") if name)
    return Search(base, filter_ or "(objectClass=*)", _SCOPES.get(scope or "base", "BASE"), asked)


def _servers(settings: Settings) -> dict[Place, bool]:
    """Each server, and whether it is spoken to over TLS from the start."""
    found: dict[Place, bool] = {}
    port = settings.number("server_port", 389, 1)
    for text in settings.words("server_host", "localhost"):
        scheme, colon, rest = text.partition("://")
        if not colon:
            scheme, rest = "ldap", text
        rest = rest.rstrip("/")
        if scheme == "ldapi":
            found[Place(unquote(rest), "", 0)] = False
            continue
        try:
            if scheme not in ("ldap", "ldaps"):
                raise TableError(f'"{scheme}://" is none of ldap, ldaps, ldapi')
            found[address(rest or "localhost", 636 if scheme == "ldaps" else port)] = scheme == "ldaps"
        except TableError as error:
            settings.wrong("server_host", str(error))
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


async def _silent(connection: Any) -> bool:
    return not connection.closed and no_data(connection.socket.fileno())


def _close(connection: Any) -> None:
    """At once: whoever waits in a thread for this server is woken."""
    sock = connection.socket
    with contextlib.suppress(OSError, AttributeError):
        sock.shutdown(2)
    with contextlib.suppress(OSError, AttributeError):
        sock.close()
