"""ldap tables (ldap_table(5)) over ldap3, in threads. Needs the extra `ldap`.

Contract: keys are quoted as filters (RFC 4515) and as names (RFC 4514) demand. Attributes in Postfix's ranks: terminal
ones hide all others, leaf ones count only in entries without special ones, special ones name further entries. A search
that comes back with more than is allowed, a referral that is not followed, an unknown result is trouble. What failure
means for the mail: put off.
"""

import asyncio
import threading
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from appliance.tables.proxied.base import Bad, Opener, Step
from appliance.tables.proxied.cf import NO_MATTER, Settings
from appliance.tables.proxied.hosts import Driver, Pool, no_data
from appliance.tables.proxied.ldap_lines import Lines, close, inside
from appliance.tables.proxied.referrals import SCOPES, Chase, Found, Referral, Search
from appliance.tables.proxied.servers import Place
from appliance.tables.proxied.template import Form, sound
from appliance.tables.proxied.threads import Threads

_KNOWN = (
    "server_host", "server_port", "timeout", "search_base", "query_filter", "scope", "bind", "bind_dn", "bind_pw",
    "result_attribute", "special_result_attribute", "terminal_result_attribute", "leaf_result_attribute", "result_filter",
    "recursion_limit", "size_limit", "dereference", "version", "start_tls", "tls_ca_cert_dir", "tls_ca_cert_file",
    "tls_cert", "tls_key", "tls_require_cert", "tls_cipher_suite",
    "sasl_mechs", "sasl_realm", "sasl_authz_id", "sasl_minssf", "sasl_keytab", "chase_referrals",
)  # fmt: skip
_ONLY = {
    **dict.fromkeys(("cache", "cache_expiry", "cache_size", "debuglevel", "tls_random_file"), NO_MATTER),
}
_FILTER = {ord(letter): f"\\{ord(letter):02x}" for letter in "\\*()\0"}
_NAME = {ord(letter): f"\\{letter}" for letter in '"\\+,<>;#= '} | {0: "\\00", 9: "\\09", 10: "\\0a", 13: "\\0d"}
#: Values and entries of one answer.
MOST = 100_000
_NO_SUCH_OBJECT, _REFERRAL = 32, 10


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
        settings = self._settings = Settings(path, _KNOWN, _ONLY, opens=opens)
        self.deadline = float(settings.number("timeout", 10, 1))
        queries = ("query_filter", settings.text("query_filter", "(mailacceptinggeneralid=%s)"))
        self._form = Form(settings, queries, ("search_base", settings.text("search_base")))
        self._scope = SCOPES.get(settings.one_of("scope", "sub", SCOPES), "SUBTREE")
        self._attributes = Attributes(
            frozenset(name.lower() for name in settings.words("terminal_result_attribute")),
            frozenset(name.lower() for name in settings.words("leaf_result_attribute")),
            frozenset(name.lower() for name in settings.words("result_attribute", "maildrop")),
            frozenset(name.lower() for name in settings.words("special_result_attribute")),
        )
        self._limit = settings.number("recursion_limit", 1000, 1)
        self._size = settings.number("size_limit", settings.number("expansion_limit", 0))
        self._dereference = settings.number("dereference", 0)
        settings.number("version", 3)
        self._lines = Lines(ldap3, settings, self.deadline)
        settings.done()
        self._threads = Threads("ldap", self.slots)
        self._pool = Pool(list(self._lines.servers), Driver(self._connect, self._ask, close, self._lines.errors, _silent))

    async def _connect(self, place: Place, _host: str) -> Any:
        dialled, given_up = list[Any](), threading.Event()

        def dial() -> Any:
            connection = self._lines.dial(place, dialled)
            if given_up.is_set():  # it may have been before there was anything to close
                close(connection)
            return connection

        try:
            return await self._threads.run(dial)
        except asyncio.CancelledError:
            given_up.set()
            for connection in dialled:
                close(connection)
            raise

    async def _ask(self, connection: Any, key: str) -> list[str | None]:
        return await self._threads.run(self._values, connection, key)

    def _values(self, connection: Any, key: str) -> list[str | None]:
        parts = self._form.parts(key) or {}
        base = self._form.queries["search_base"]
        first = Search(
            base.fill(parts, lambda text: text.translate(_NAME)),
            self._form.queries["query_filter"].fill(parts, lambda text: text.translate(_FILTER)),
            self._scope,
            needed=not base.uses - {"%"},
        )
        with inside(connection), closing(Chase(self._lines, connection, self._asked)) as chase:
            return self._follow(connection, first, chase)

    def _follow(self, connection: Any, first: Search, chase: Chase) -> list[str | None]:
        """The values of the entries that a search finds, and of those that they name (behind who names them)."""
        found: list[str | None] = []
        work: list[tuple[Search | dict[str, list[str]], int]] = [(first, 1)]
        while work:
            item, depth = work.pop()
            if depth > self._limit:
                raise ValueError(f"entries name each other over recursion_limit = {self._limit} deep")
            if isinstance(item, Search):
                work += [(entry, depth) for entry in reversed(self._search(connection, item, chase))]
                continue
            chosen, further = chosen_of(item, self._attributes)
            found += chosen
            work += [(named(name), depth + 1) for name in reversed(further)]
            if len(found) + len(work) > MOST:
                raise ValueError("an answer without end")
        return found

    def _search(self, connection: Any, search: Search, chase: Chase) -> list[dict[str, list[str]]]:
        """The attributes of each entry."""
        entries, referrals = self._asked(connection, search)
        if self._lines.chases:
            return entries + chase.follow(referrals, search)
        if not all(referral.reference for referral in referrals):
            raise ValueError("the search fails: the server refers to another one, and chase_referrals = no")
        return entries

    def _asked(self, connection: Any, search: Search) -> Found:
        """What one server says."""
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
        result, response = connection.result, connection.response or []
        if result["result"] == _NO_SUCH_OBJECT and not search.needed:
            return [], []
        if result["result"] not in (0, _REFERRAL):
            raise ValueError(f"the search fails: {result['description']} {result['message']}")
        entries = [
            {name.lower(): [_text(value) for value in raw] for name, raw in answer["raw_attributes"].items()}
            for answer in response
            if answer.get("type") == "searchResEntry"
        ]
        referrals = [Referral(tuple(answer["uri"]), True) for answer in response if answer.get("type") == "searchResRef"]
        if result["result"] == _REFERRAL:
            referrals.append(Referral(tuple(result["referrals"] or ()), False))
        return entries, referrals

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
    names, scope, filter_ = map(unquote, [*parts.query.split("?"), "", "", ""][:3])
    base = unquote(parts.path).lstrip("/")
    asked = tuple(name for name in names.split(",") if name)
    return Search(base, filter_ or "(objectClass=*)", SCOPES.get(scope or "base", "BASE"), asked)


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


async def _silent(connection: Any) -> bool:
    return not connection.closed and no_data(connection.socket.fileno())
