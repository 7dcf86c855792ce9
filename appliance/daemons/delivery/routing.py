"""Which way a recipient's mail goes: our domains by [relay], all others (notices to senders) by a route or their MX.

Contract: the same way always gives the same Destination, so that its mail shares connections and fate. A table that
cannot answer raises Unavailable: the mail waits. What failure means for the mail: no way at all is "deferred", never
"bounced": it is a gap in the configuration, and an operator can close it.
"""

import re
from collections.abc import Awaitable
from typing import NamedTuple

from appliance.addresses.generic import Generic
from appliance.config.filters import Filters
from appliance.config.generics import Generics
from appliance.config.routes import Route, Routes
from appliance.config.values import SERVERS, NextHop
from appliance.mail.later import then, waits
from appliance.net.tls import Level
from appliance.protocol.errors import Unavailable
from appliance.protocol.smtp.address import Address
from appliance.queue.envelope import QueuedRecipient, Trailer
from appliance.queue.item import Item


class Destination(NamedTuple):
    """Next hops in order of trial, each with its TLS level. `outward`: found by the MX of the mail address itself, so
    that "no such domain" is final. `name` is what status, queue and --next-hop call it."""

    name: str
    hops: tuple[tuple[NextHop, Level], ...]
    outward: bool = False
    #: Why there are no next hops, if the configuration has none.
    lacks: str = ""
    #: It is a content filter: it takes so many messages at once (0: as any), and has so long for an answer (0: as any).
    filtering: bool = False
    most: int = 0
    timeout: float = 0.0
    #: Recipients of one transaction, 0 = as to any next hop.
    recipients: int = 0


NOWHERE = Destination("nowhere", ())
_PAIR = re.compile(r"\\(.)", re.DOTALL)


class Routing:
    """Remembers what it built; a new snapshot makes a new Routing."""

    def __init__(self, routes: Routes, filters: Filters, generics: Generics) -> None:
        self._routes, self._filters, self._generics = routes, filters, generics
        self._built: dict[tuple[NextHop, ...], Destination] = {}
        self._heard: dict[tuple[str, str], Destination | Unavailable] = {}

    def destination(self, recipient: QueuedRecipient, trailer: Trailer) -> Destination:
        """The way to `recipient` of that message: at once in memory, or as `hear` heard of it; all mail of a content
        filter goes to that. Raises Unavailable."""
        if trailer.filter:
            return self._filtered(trailer.filter, recipient.domain)
        sender = trailer.sender
        found = self._heard.pop((sender, recipient.address), None) or self._way(recipient, sender)
        if isinstance(found, Destination):
            return found
        raise found if isinstance(found, Unavailable) else Unavailable("the table of routes was not asked yet")

    def generic(self, destination: Destination) -> Generic | None:
        """What becomes of addresses on that way. Mail for a content filter comes back, and stays as it is."""
        if destination.filtering:
            return None
        return self._generics.on([hop for hop, _ in destination.hops], destination.outward)

    def _filtered(self, text: str, domain: str) -> Destination:
        try:
            hops, entry = self._filters.hops(text), self._filters.entry(text)
        except ValueError as error:
            return Destination(f"filter {text}", (), lacks=str(error), filtering=True)
        if hops[0].kind == "pipe":
            return self._piped(hops[0], domain)
        places = ", ".join(map(str, hops))
        levels = tuple((hop, self._routes.tls_level(hop)) for hop in hops)
        return Destination(f"filter {places}", levels, filtering=True, most=entry.concurrency, timeout=entry.timeout)

    def _piped(self, hop: NextHop, domain: str) -> Destination:
        """Without a destination the nexthop is the recipient's domain: where the command names it, each has its own."""
        entry = self._filters.command(hop)
        if entry.by_domain and not hop.path:
            hop = hop._replace(path=domain)
        recipients = 1 if entry.single else entry.recipients
        pairs: tuple[tuple[NextHop, Level], ...] = ((hop, "none"),)
        return Destination(f"filter {hop}", pairs, filtering=True, most=entry.at_once, recipients=recipients)

    def hear(self, item: Item) -> Awaitable[None] | None:
        """Something to await where tables that are not in memory must be asked first; None: `destination` knows."""
        if self._routes.at_once or item.trailer.filter:
            return None
        waiting: dict[tuple[str, str], Awaitable[Destination]] = {}
        sender = item.trailer.sender
        for recipient in (item.trailer.recipients[index] for index in item.todo):
            try:
                way = self._way(recipient, sender)
            except Unavailable as error:
                self._heard[sender, recipient.address] = error
                continue
            if waits(way):
                waiting[sender, recipient.address] = way
        return self._hear(waiting) if waiting else None

    async def _hear(self, waiting: dict[tuple[str, str], Awaitable[Destination]]) -> None:
        for key, way in waiting.items():
            try:
                self._heard[key] = await way
            except Unavailable as error:
                self._heard[key] = error

    def _way(self, recipient: QueuedRecipient, sender: str) -> Destination | Awaitable[Destination]:
        return then(self._routes.route(_address(recipient.address, recipient.domain), _address(sender)), self._by_route)

    def _by_route(self, route: Route) -> Destination:
        if route.outward:
            (hop,) = route.hops
            return Destination(str(hop), ((hop, self._routes.tls_level(hop)),), outward=True)
        return self._destination(route.hops) if route.hops else NOWHERE

    def renewed(self, old: Destination) -> Destination:
        """The same next hops with the TLS levels that are in force now."""
        return old._replace(hops=tuple((hop, self._level(hop)) for hop, _ in old.hops))

    def _level(self, hop: NextHop) -> Level:
        return self._routes.tls_level(hop) if hop.kind in SERVERS else "none"

    def _destination(self, hops: tuple[NextHop, ...]) -> Destination:
        built = self._built.get(hops)
        if built is None:
            pairs = tuple((hop, self._level(hop)) for hop in hops)
            built = self._built[hops] = Destination(", ".join(map(str, hops)), pairs)
        return built


def _address(text: str, judged: str = "") -> Address:
    """An address of a trailer. `judged`: its domain as that was judged."""
    local, _, domain = text.rpartition("@")
    if local.startswith('"') and local.endswith('"') and len(local) > 1:
        local = _PAIR.sub(r"\1", local[1:-1])
    return Address(local, judged or domain.lower(), text)
