"""Which domains are ours, where their mail goes, and how well that way is protected.

Contract: look-ups, answered at once but where a table is not in memory (mail/later.py). A route in the wiring or in a
transport table wins over `[relay] next_hop`, which is for our domains alone: mail for others goes where a table says that
its sender's goes, else to the servers of its domain. Mail that a filter handed back goes to none that hands back
(handed_back.py).
What failure means for the mail: a table that cannot answer, and an entry that is no way, raise Unavailable: the mail is
put off, never refused and never sent astray.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from appliance.config.filters import Filters
from appliance.config.handed_back import HandedBack
from appliance.config.model import Wiring
from appliance.config.transports import own_hop, parse_of_sender, parse_relayhost, parse_transport, written_hop
from appliance.config.values import SERVERS, Kind, NextHop, parse_next_hop, tls_names
from appliance.mail.later import any_of, then
from appliance.mail.lookup import Found, Key, Searched, search, sender_keys, transport_keys
from appliance.mail.ports import Hit, Table, TableUnavailable, Undeliverable
from appliance.protocol.smtp.address import NULL_SENDER, Address

__all__ = ["Level", "NextHop", "Route", "Routes"]

Level = Literal["none", "may", "encrypt", "verify"]
ROUTES, NEXT_HOP, BY_DOMAIN = "[relay] routes", "[relay] next_hop", "the domain of the address"

#: Kinds of next hops that take whatever comes.
_ENDS: frozenset[Kind] = frozenset({"pipe", "discard"})
#: Letters of a text in a reply: it is one line (RFC 5321 4.5.3.1.5).
REPLY = 400


class Route(NamedTuple):
    """Next hops in order of trial, () = nowhere. `outward`: found by the domain of the mail address itself, so that "no
    such domain" is final. `by`: which setting said so; `found`: its entry, if it was one of a table."""

    hops: tuple[NextHop, ...]
    by: str
    outward: bool = False
    found: Found | None = None


Routed = Route | Awaitable[Route]
_Said = TypeVar("_Said")


class _Mail(NamedTuple):
    """Whose way is looked for. `back`: a filter handed it back."""

    to: Address
    sender: Address
    back: bool


class _Read:
    """Tables of ways, as they are read for mail that comes, and for what a filter handed back."""

    def __init__(self, tables: list[Table], filters: Filters) -> None:
        self.first: list[Table] = tables
        self._back: list[Table] = [HandedBack(table, filters) for table in tables]

    def of(self, back: bool) -> list[Table]:
        return self._back if back else self.first


class Routes:
    """The [relay] section of a Wiring with absolute paths. `tables`: by the spec in that Wiring."""

    def __init__(self, wiring: Wiring, tables: Mapping[str, Table]) -> None:
        relay = wiring.relay
        self.filters = Filters(wiring)
        self._delimiter = wiring.gateway.recipient_delimiter
        self._names = frozenset(text for text in relay.domains if ":" not in text)
        self._lists = [tables[text] for text in relay.domains if ":" in text]
        self._default = Route(tuple(parse_next_hop(text) for text in relay.next_hop), NEXT_HOP)
        self._tables = _Read([tables[text] for text in relay.route_tables], self.filters)
        written = relay.routes if isinstance(relay.routes, dict) else {}
        self._routes = {key.lower(): Route(tuple(map(written_hop, texts)), ROUTES) for key, texts in written.items()}
        by_sender = [tables[text] for text in relay.sender_dependent_default_transport_maps]
        self._transports = _Read(by_sender, self.filters)
        self._relayhosts = [tables[text] for text in relay.sender_dependent_relayhost_maps]
        every = (*self._lists, *self._tables.first, *self._transports.first, *self._relayhosts)
        #: Whether every answer is at hand: no table has to be asked over a wire.
        self.at_once = all(table.at_once for table in every)
        self._levels: dict[str, Level] = {key.lower(): level for key, level in relay.tls.items()}

    @property
    def domains(self) -> tuple[str, ...]:
        """Our domains that stand in the wiring itself."""
        return tuple(sorted(self._names))

    def is_ours(self, domain: str) -> bool | Awaitable[bool]:
        """Exact, in lower-case A-labels; or a key of a table. Raises Unavailable if a table cannot answer."""
        if domain in self._names:
            return True
        if not self._lists or not domain:
            return False
        return any_of(then(table.get(domain), _is_there) for table in self._lists)

    # ------------------------------------------------------------------ the way

    def route(self, to: Address, sender: Address = NULL_SENDER, *, back: bool = False) -> Routed:
        """Where mail for an address goes. `back`: a filter handed it back. Raises Unavailable."""
        if tables := self._tables.of(back):
            found = search(tables, transport_keys(to, self._delimiter))
            return then(found, partial(self._by_table, _Mail(to, sender, back)))
        return self._written(to, back) or self._unlisted(_Mail(to, sender, back))

    def _written(self, to: Address, back: bool = False) -> Route | None:
        """What the wiring itself says of an address."""
        for key in transport_keys(to, self._delimiter) if self._routes else ():
            route = self._routes.get(key.text.lower())
            if route is not None and not (back and any(self.filters.handed_back(str(hop)) for hop in route.hops)):
                return self._filled(route, to.domain)
        return None

    def _filled(self, route: Route, domain: str) -> Route:
        """A filter may send to the recipient's own domain."""
        hop = route.hops[0] if route.hops else None
        if hop is None or hop.kind != "filter" or not domain:
            return route
        with contextlib.suppress(ValueError):
            if way := self.filters.own(hop.host, hop.path, domain):
                return route._replace(hops=way.hops, outward=way.own)
        return route

    def undeliverable(self, to: Address) -> Undeliverable | Awaitable[Undeliverable | None] | None:
        """Whether a route says `error:` of an address, behind a filter that hands back, too. Raises Unavailable."""
        if not self._tables.first:
            if not self._routes:
                return None
            route = self._written(to, back=True)
            answer = route.hops[0] if route is not None and route.hops else None
            return _reply(answer, ROUTES) if answer is not None and answer.kind == "error" else None
        return then(search(self._tables.of(True), transport_keys(to, self._delimiter)), _refusal)

    def _by_table(self, mail: _Mail, found: Found | None) -> Routed:
        """What an entry of the transport table says."""
        if found is None:
            return self._unlisted(mail)
        if found.value.startswith(":") and len(found.value) > 1:
            return then(self._is_default(mail.to.domain), partial(self._entry, mail, found))
        return self._entry(mail, found, False)

    def _entry(self, mail: _Mail, found: Found, default: bool) -> Routed:
        """`default`: an entry without a transport keeps that of the default next hop."""
        kind: Kind = self._default.hops[0].kind if default and self._default.hops else "smtp"
        way = _parsed(found, partial(parse_transport, domain=mail.to.domain, unchanged=kind, own=self.filters.own))
        if not way.hops:
            return then(self._unlisted(mail), lambda route: route._replace(found=route.found or found))
        return Route(way.hops, ROUTES, way.own, found)

    def _unlisted(self, mail: _Mail) -> Routed:
        """Without any route of its own."""
        return then(self._is_default(mail.to.domain), partial(self._without, mail))

    def _is_default(self, domain: str) -> bool | Awaitable[bool]:
        # The default next hop is for our domains; handing it a stranger's mail would make it a relay.
        return not domain or self.is_ours(domain)

    def _without(self, mail: _Mail, ours: bool) -> Routed:
        if ours:
            return self._default
        transports = self._transports.of(mail.back)
        if not transports and not self._relayhosts:
            return self._outward(mail.to.domain)
        keys = sender_keys(mail.sender, self._delimiter)
        return then(search(transports, keys), partial(self._by_transport, mail.to, keys))

    def _by_transport(self, to: Address, keys: list[Key], found: Found | None) -> Routed:
        """sender_dependent_default_transport_maps, else sender_dependent_relayhost_maps, as in Postfix."""
        first: Route | None = None
        if found is not None:
            way = _parsed(found, partial(parse_of_sender, domain=to.domain, own=self.filters.own))
            if way.hops and (not way.own or way.hops[0].kind == "filter"):
                first = Route(way.hops, "[relay] sender_dependent_default_transport_maps", way.own, found)
        if first is not None and not first.outward and not self.filters.by_nexthop(first.hops[0]):
            return first
        searched: Searched = search(self._relayhosts, keys)
        return then(searched, partial(self._by_relayhost, to, first))

    def _by_relayhost(self, to: Address, first: Route | None, found: Found | None) -> Route:
        """`first`: a transport of one's own that the relayhost is the nexthop of, else the domain of the recipient."""
        hops = _parsed(found, parse_relayhost) if found is not None else None
        if not hops:
            return first or self._outward(to.domain)
        if first is not None and found is not None:
            hop = first.hops[0]._replace(path=found.value.strip())
            return first._replace(hops=(hop,), outward=False, found=found)
        return Route(hops, "[relay] sender_dependent_relayhost_maps", found=found)

    def _outward(self, domain: str) -> Route:
        return Route((own_hop("smtp", domain),), BY_DOMAIN, True)

    def end(self, route: Route) -> str:
        """What takes all mail of that way, where no server does: a command that delivers, `discard:`; else ""."""
        with contextlib.suppress(ValueError):
            return next((str(hop) for hop in self.filters.places(route.hops[:1]) if hop.kind in _ENDS), "")
        return ""

    # ------------------------------------------------------------------ what the wiring itself says

    def all_hops(self) -> Iterator[NextHop]:
        """Every next hop that the wiring itself names."""
        yield from self._default.hops
        for route in self._routes.values():
            yield from self.servers(route)

    def servers(self, route: Route) -> list[NextHop]:
        """Those of its next hops that somebody can be connected to, also behind a filter; none of an answer."""
        try:
            return [hop for hop in self.filters.places(route.hops) if hop.kind in SERVERS]
        except ValueError:  # a filter of the wiring that is not there: its mail waits
            return []

    def tls_level(self, hop: NextHop) -> Level:
        """`[relay.tls]` for this next hop, most exact name first, then "*"; else "may" (a unix socket: "none")."""
        for name in (*tls_names(hop), "*"):
            if (level := self._levels.get(name)) is not None:
                return level
        return "none" if hop.path else "may"


def _is_there(hit: Hit | None) -> bool:
    return hit is not None


def _refusal(found: Found | None) -> Undeliverable | None:
    if found is None or not found.value.lstrip().startswith("error:"):
        return None
    (hop,) = parse_transport(found.value, "").hops
    return _reply(hop, found.place)


def _reply(hop: NextHop, place: str) -> Undeliverable:
    text = "".join(letter if letter.isascii() else "?" for letter in hop.path[:REPLY])
    return Undeliverable(f"550 {hop.host} {text}", place)


def _parsed(found: Found, parse: Callable[[str], _Said]) -> _Said:
    """What the value of an entry means. Raises Unavailable where it is no way."""
    try:
        return parse(found.value)
    except ValueError as why:
        raise TableUnavailable(found.place, f"{found.place}: {why}") from None
