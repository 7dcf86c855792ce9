"""Referrals of LDAP servers, followed for ldap tables with `chase_referrals = yes`.

Contract: as libldap follows them for Postfix, which gives it no rebind procedure: anonymously, so no name or password of
ours goes to a server that another one names. Where the first line has TLS, each further one has: ldaps, or STARTTLS with
the same demands. Of several addresses of one referral the first that answers counts. Bounds for one question: HOPS deep,
MOST searches, its deadline. Blocks, in a thread of the table. Raises ValueError where a referral cannot be followed
(Postfix goes on without it, and says "not found" where the entry would be there). What failure means for the mail: put
off.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from appliance.tables.proxied.ldap_lines import Lines, close
from appliance.tables.proxied.servers import Place, address
from appliance.tables.text import TableError

#: Deep (libldap's own limit), and searches of one question at servers that were named.
HOPS, MOST = 5, 16
SCOPES = {"sub": "SUBTREE", "base": "BASE", "one": "LEVEL"}


class Search(NamedTuple):
    """`attributes`: those that an LDAP URL asks for, () where it is for us to say. `needed`: a base that is not there is
    trouble: it is the same for every key."""

    base: str
    filter: str
    scope: str
    attributes: tuple[str, ...] = ()
    needed: bool = False


class Referral(NamedTuple):
    """`urls` say the same. `reference`: for a part of what was searched, not for all of it."""

    urls: tuple[str, ...]
    reference: bool


Found = tuple[list[dict[str, list[str]]], list[Referral]]


class TooFar(ValueError):
    """A bound of the whole question: no other address helps."""


class Chase:
    """Of one question. `first`: its connection, with which the others are closed."""

    def __init__(self, lines: Lines, first: Any, ask: Callable[[Any, Search], Found]) -> None:
        self._lines, self._ask = lines, ask
        self._errors: tuple[type[Exception], ...] = (TableError, OSError, *lines.errors)
        self._secure = bool(first.server.ssl or first.tls_started)
        self._until = time.monotonic() + lines.deadline
        self._searches = 0
        self._made: dict[tuple[Place, bool], Any] = {}
        self._dialled: list[Any] = []
        first.referred = self._dialled

    def close(self) -> None:
        for connection in self._dialled:
            close(connection)

    def follow(self, referrals: list[Referral], search: Search, hop: int = 1) -> list[dict[str, list[str]]]:
        """The entries at the servers that are named, and at those that these name."""
        if referrals and hop > HOPS:
            raise TooFar(f"referrals lead over {HOPS} servers deep")
        return [entry for referral in referrals for entry in self._one(referral, search, hop)]

    def _one(self, referral: Referral, search: Search, hop: int) -> list[dict[str, list[str]]]:
        why = "names no server"
        for url in referral.urls:
            try:
                place, secure, further = target(url, search, referral.reference)
                entries, more = self._ask(self._connection(place, secure), further)
                return entries + self.follow(more, further, hop + 1)
            except TooFar:
                raise
            except self._errors as error:
                why = f"{url[:200]!r}: {error}"
        raise ValueError(f"a referral cannot be followed: {why}")

    def _connection(self, place: Place, secure: bool) -> Any:
        self._searches += 1
        if self._searches > MOST:
            raise TooFar(f"over {MOST} searches at servers that were named")
        if time.monotonic() > self._until:
            raise TooFar("no time is left for the servers that were named")
        made = self._made.get((place, secure))
        if made is None:
            start_tls = self._secure and not secure
            made = self._made[place, secure] = self._lines.open(place, secure, self._dialled, start_tls=start_tls)
        return made


def target(url: str, search: Search, reference: bool) -> tuple[Place, bool, Search]:
    """(server, whether it is ldaps, what is searched there). Raises TableError."""
    parts = urlsplit(url)
    if parts.scheme not in ("ldap", "ldaps") or not parts.netloc:
        raise TableError("is no ldap://host or ldaps://host")
    place = address(parts.netloc.rpartition("@")[2], 636 if parts.scheme == "ldaps" else 389)
    _, scope, filter_ = map(unquote, [*parts.query.split("?"), "", "", ""][:3])
    inherited = "BASE" if reference and search.scope == "LEVEL" else search.scope
    base = unquote(parts.path).lstrip("/") or search.base
    found = search._replace(base=base, scope=SCOPES.get(scope.lower(), inherited), filter=filter_ or search.filter)
    return place, parts.scheme == "ldaps", found
