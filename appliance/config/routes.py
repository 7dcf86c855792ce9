"""Which domains are ours, where their mail goes, and how well that way is protected.

Contract: look-ups, answered at once but where a table is not in memory (mail/later.py). A route in the wiring or in a
transport table wins over `[relay] next_hop`, which is for our domains alone: mail for others goes where a table says that
its sender's goes, else to the servers of its domain.
What failure means for the mail: a table that cannot answer, and an entry that is no way, raise Unavailable: the mail is
put off, never refused and never sent astray.
"""

from collections.abc import Awaitable, Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple

from appliance.config.model import Wiring
from appliance.config.transports import Way, own_hop, parse_relayhost, parse_transport, written_hop
from appliance.config.values import SERVERS, Kind, NextHop, parse_next_hop, tls_names
from appliance.mail.later import any_of, then
from appliance.mail.lookup import Found, Key, Searched, search, sender_keys, transport_keys
from appliance.mail.ports import Hit, Table, TableUnavailable, Undeliverable
from appliance.protocol.smtp.address import NULL_SENDER, Address

__all__ = ["Level", "NextHop", "Route", "Routes"]

Level = Literal["none", "may", "encrypt", "verify"]
ROUTES, NEXT_HOP, BY_DOMAIN = "[relay] routes", "[relay] next_hop", "the domain of the address"

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


class Routes:
    """The [relay] section of a Wiring with absolute paths. `tables`: by the spec in that Wiring."""

    def __init__(self, wiring: Wiring, tables: Mapping[str, Table]) -> None:
        relay = wiring.relay
        self._delimiter = wiring.gateway.recipient_delimiter
        self._names = frozenset(text for text in relay.domains if ":" not in text)
        self._lists = [tables[text] for text in relay.domains if ":" in text]
        self._default = Route(tuple(parse_next_hop(text) for text in relay.next_hop), NEXT_HOP)
        self._tables = [tables[text] for text in relay.route_tables]
        written = relay.routes if isinstance(relay.routes, dict) else {}
        self._routes = {key.lower(): Route(tuple(map(written_hop, texts)), ROUTES) for key, texts in written.items()}
        self._transports = [tables[text] for text in relay.sender_dependent_default_transport_maps]
        self._relayhosts = [tables[text] for text in relay.sender_dependent_relayhost_maps]
        every = (*self._lists, *self._tables, *self._transports, *self._relayhosts)
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

    def route(self, to: Address, sender: Address = NULL_SENDER) -> Routed:
        """Where mail for an address goes. Raises Unavailable."""
        if self._tables:
            found = search(self._tables, transport_keys(to, self._delimiter))
            return then(found, partial(self._by_table, to, sender))
        return self._written(to) or self._unlisted(to, sender)

    def _written(self, to: Address) -> Route | None:
        """What the wiring itself says of an address."""
        for key in transport_keys(to, self._delimiter) if self._routes else ():
            if (route := self._routes.get(key.text.lower())) is not None:
                return route
        return None

    def undeliverable(self, to: Address) -> Undeliverable | Awaitable[Undeliverable | None] | None:
        """Whether a route says `error:` of an address. Raises Unavailable."""
        if not self._tables:
            if not self._routes:
                return None
            route = self._written(to)
            answer = route.hops[0] if route is not None and route.hops else None
            return _reply(answer, ROUTES) if answer is not None and answer.kind == "error" else None
        return then(search(self._tables, transport_keys(to, self._delimiter)), _refusal)

    def _by_table(self, to: Address, sender: Address, found: Found | None) -> Routed:
        """What an entry of the transport table says."""
        if found is None:
            return self._unlisted(to, sender)
        if found.value.startswith(":") and len(found.value) > 1:
            return then(self._is_default(to.domain), partial(self._entry, to, sender, found))
        return self._entry(to, sender, found, False)

    def _entry(self, to: Address, sender: Address, found: Found, default: bool) -> Routed:
        """`default`: an entry without a transport keeps that of the default next hop."""
        kind: Kind = self._default.hops[0].kind if default and self._default.hops else "smtp"
        way = _parsed(found, to.domain, kind)
        if not way.hops:
            return then(self._unlisted(to, sender), lambda route: route._replace(found=route.found or found))
        return Route(way.hops, ROUTES, way.own, found)

    def _unlisted(self, to: Address, sender: Address) -> Routed:
        """Without any route of its own."""
        return then(self._is_default(to.domain), partial(self._without, to, sender))

    def _is_default(self, domain: str) -> bool | Awaitable[bool]:
        # The default next hop is for our domains; handing it a stranger's mail would make it a relay.
        return not domain or self.is_ours(domain)

    def _without(self, to: Address, sender: Address, ours: bool) -> Routed:
        if ours:
            return self._default
        if not self._transports and not self._relayhosts:
            return self._outward(to.domain)
        keys = sender_keys(sender, self._delimiter)
        return then(search(self._transports, keys), partial(self._by_transport, to, keys))

    def _by_transport(self, to: Address, keys: list[Key], found: Found | None) -> Routed:
        """sender_dependent_default_transport_maps, else sender_dependent_relayhost_maps, as in Postfix."""
        if found is not None and found.value.strip().upper() != "DUNNO":
            way = _parsed(found, to.domain, "smtp")
            if way.hops and not way.own:
                return Route(way.hops, "[relay] sender_dependent_default_transport_maps", way.own, found)
        searched: Searched = search(self._relayhosts, keys)
        return then(searched, partial(self._by_relayhost, to))

    def _by_relayhost(self, to: Address, found: Found | None) -> Route:
        try:
            hops = parse_relayhost(found.value) if found is not None else None
        except ValueError as why:
            place = found.place if found is not None else ""
            raise TableUnavailable(place, f"{place}: {why}") from None
        if not hops:
            return self._outward(to.domain)
        return Route(hops, "[relay] sender_dependent_relayhost_maps", found=found)

    def _outward(self, domain: str) -> Route:
        return Route((own_hop("smtp", domain),), BY_DOMAIN, True)

    # ------------------------------------------------------------------ what the wiring itself says

    def all_hops(self) -> Iterator[NextHop]:
        """Every next hop that the wiring itself names."""
        yield from self._default.hops
        for route in self._routes.values():
            yield from (hop for hop in route.hops if hop.kind in SERVERS)

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
    (hop,) = _parsed(found, "", "smtp").hops
    return _reply(hop, found.place)


def _reply(hop: NextHop, place: str) -> Undeliverable:
    text = "".join(letter if letter.isascii() else "?" for letter in hop.path[:REPLY])
    return Undeliverable(f"550 {hop.host} {text}", place)


def _parsed(found: Found, domain: str, unchanged: Kind) -> Way:
    try:
        return parse_transport(found.value, domain, unchanged)
    except ValueError as why:
        raise TableUnavailable(found.place, f"{found.place}: {why}") from None
