"""Which domains are ours, where their mail goes, and how well that way is protected.

Contract: look-ups, answered at once but where a table is not in memory (mail/later.py). A route in the wiring or in a
transport table wins over `[relay] next_hop`.
What failure means for the mail: a table that cannot answer raises Unavailable: the mail is put off, never refused and
never sent astray.
"""

from collections.abc import Awaitable, Iterator, Mapping
from functools import partial
from typing import Literal

from appliance.config.model import Wiring
from appliance.config.values import Kind, NextHop, parse_next_hop, tls_names
from appliance.mail.later import any_of, then
from appliance.mail.lookup import Found, search, transport_keys
from appliance.mail.ports import Hit, Table, TableUnavailable
from appliance.protocol.smtp.address import Address

__all__ = ["Level", "NextHop", "Routes", "parse_transport", "transport_problem"]

Level = Literal["none", "may", "encrypt", "verify"]


class Routes:
    """The [relay] section of a Wiring with absolute paths. `tables`: by the spec in that Wiring."""

    def __init__(self, wiring: Wiring, tables: Mapping[str, Table]) -> None:
        relay = wiring.relay
        self._delimiter = wiring.gateway.recipient_delimiter
        self._names = frozenset(text for text in relay.domains if ":" not in text)
        self._lists = [tables[text] for text in relay.domains if ":" in text]
        self._default = tuple(parse_next_hop(text) for text in relay.next_hop)
        self._table = tables[relay.routes] if isinstance(relay.routes, str) else None
        written = relay.routes if isinstance(relay.routes, dict) else {}
        self._routes = {key.lower(): tuple(map(parse_next_hop, texts)) for key, texts in written.items()}
        #: Whether every answer is at hand: no table has to be asked over a wire.
        self.at_once = all(table.at_once for table in (*self._lists, *([self._table] if self._table else [])))
        self._levels: dict[str, Level] = {key.lower(): level for key, level in relay.tls.items()}

    @property
    def domains(self) -> tuple[str, ...]:
        """Our domains that stand in the wiring itself."""
        return tuple(sorted(self._names))

    @property
    def default(self) -> tuple[NextHop, ...]:
        """What `next_hops` gives (this very object) where no route of its own was found."""
        return self._default

    def is_ours(self, domain: str) -> bool | Awaitable[bool]:
        """Exact, in lower-case A-labels; or a key of a table. Raises Unavailable if a table cannot answer."""
        if domain in self._names:
            return True
        if not self._lists or not domain:
            return False
        return any_of(then(table.get(domain), _is_there) for table in self._lists)

    def next_hops(self, to: Address | str) -> tuple[NextHop, ...] | Awaitable[tuple[NextHop, ...]]:
        """Where mail for an address (or a domain) goes, in order of trial; () = nowhere. Raises Unavailable."""
        address = Address("", to, to) if isinstance(to, str) else to
        if self._table is not None:
            found = search((self._table,), transport_keys(address, self._delimiter))
            return then(found, partial(self._routed, address.domain))
        for key in transport_keys(address, self._delimiter) if self._routes else ():
            if (hops := self._routes.get(key.text.lower())) is not None:
                return hops
        return self._default

    def _routed(self, domain: str, found: Found | None) -> tuple[NextHop, ...]:
        """What an entry of the transport table says."""
        if found is None:
            return self._default
        try:
            return parse_transport(found.value, domain) or self._default
        except ValueError as why:
            raise TableUnavailable(found.place, f"{found.place}: {why}") from None

    def all_hops(self) -> Iterator[NextHop]:
        """Every next hop that the wiring itself names."""
        yield from self._default
        for hops in self._routes.values():
            yield from hops

    def tls_level(self, hop: NextHop) -> Level:
        """`[relay.tls]` for this next hop, most exact name first, then "*"; else "may" (a unix socket: "none")."""
        for name in (*tls_names(hop), "*"):
            if (level := self._levels.get(name)) is not None:
                return level
        return "none" if hop.path else "may"


def _is_there(hit: Hit | None) -> bool:
    return hit is not None


def parse_transport(value: str, domain: str) -> tuple[NextHop, ...]:
    """The result of a transport table (transport(5)): `transport:nexthop`, several with comma; ":" = () (no change).
    Raises ValueError for what is no way to relay (error:, discard:, an unknown transport)."""
    transport, colon, rest = value.strip().partition(":")
    if not colon:
        raise ValueError(f'"{value}" is no transport: write smtp:[host]:port, smtp:domain or lmtp:unix:/path')
    if not transport and not rest:
        return ()
    kind = _kind(transport, value)
    if not rest:
        return (NextHop(kind, domain, 25, True),) if kind == "smtp" else ()
    hops = []
    for text in rest.replace(",", " ").split():
        bare = text.removeprefix(f"{transport}:") if transport else text
        hops.append(parse_next_hop(f"{kind}:{bare.removeprefix('inet:')}"))
    return tuple(hops)


def _kind(transport: str, value: str) -> Kind:
    if transport in ("", "smtp", "relay", "esmtp"):
        return "smtp"
    if transport == "lmtp":
        return "lmtp"
    raise ValueError(f'"{value}": {transport}: is no way to relay; refusals belong into access tables')


def transport_problem(value: str) -> str:
    """Why a transport table may not have this value, "" if it may."""
    try:
        parse_transport(value, "example.com")
    except ValueError as why:
        return str(why)
    return ""
