"""Which way a recipient's mail goes: our domains by [relay], all others (notices to senders) by a route or their MX.

Contract: the same way always gives the same Destination, so that its mail shares connections and fate; a filter is one
way, whether a rule, a listener or a transport table names it. A table that cannot answer raises Unavailable: the mail
waits. What failure means for the mail: no way at all is "deferred", never
"bounced": it is a gap in the configuration, and an operator can close it.
"""

import re
from collections.abc import Awaitable
from functools import partial
from typing import NamedTuple

from appliance.addresses.generic import Generic
from appliance.config.filters import Filters
from appliance.config.generics import Generics
from appliance.config.model import FilterEntry
from appliance.config.routes import Route, Routes
from appliance.config.values import SERVERS, NextHop
from appliance.mail.later import then
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
    #: It is a content filter that hands back what it takes.
    filtering: bool = False
    #: Any filter takes so many messages at once (0: as any), and has so long for an answer (0: as any).
    most: int = 0
    timeout: float = 0.0
    #: Recipients of one transaction, 0 = as to any next hop.
    recipients: int = 0


NOWHERE = Destination("nowhere", ())
#: Sender and recipient, and whether a filter handed it back: what decides the way.
_Asked = tuple[str, str, bool]
_PAIR = re.compile(r"\\(.)", re.DOTALL)


class Routing:
    """Remembers what it built; a new snapshot makes a new Routing."""

    def __init__(self, routes: Routes, filters: Filters, generics: Generics) -> None:
        self._routes, self._filters, self._generics = routes, filters, generics
        self._built: dict[tuple[NextHop, ...], Destination] = {}
        #: What the message that was heard of last asked for.
        self._heard: dict[_Asked, Destination | Unavailable] = {}

    def destination(self, recipient: QueuedRecipient, trailer: Trailer) -> Destination:
        """The way to `recipient` of that message: at once in memory, or as `hear` heard of it; all mail of a content
        filter goes to that. Raises Unavailable."""
        if trailer.filter:
            return self._filtered(trailer.filter, recipient.domain)
        found = self._heard.get(_asked(recipient, trailer)) or self._way(recipient, trailer)
        if isinstance(found, Destination):
            return found
        raise found if isinstance(found, Unavailable) else Unavailable("the table of routes was not asked yet")

    def generic(self, destination: Destination) -> Generic | None:
        """What becomes of addresses on that way. Mail that a content filter hands back stays as it is."""
        if destination.filtering:
            return None
        return self._generics.on([hop for hop, _ in destination.hops], destination.outward)

    def _filtered(self, text: str, domain: str) -> Destination:
        try:
            hops, entry = self._filters.hops(text), self._filters.entry(text)
        except ValueError as error:
            return Destination(f"filter {text}", (), lacks=str(error), filtering=True)
        return self._through(text.partition(":")[0], hops, entry, domain)

    def _through(self, name: str, hops: tuple[NextHop, ...], entry: FilterEntry, domain: str) -> Destination:
        if hops[0].kind == "pipe":
            return self._piped(hops[0], entry, domain)
        called = f"{name}: " if entry.ends else "filter "
        places = ", ".join(map(str, hops))
        levels = tuple((hop, self._routes.tls_level(hop)) for hop in hops)
        return Destination(
            called + places, levels, filtering=not entry.ends, most=entry.concurrency, timeout=entry.timeout
        )

    def _piped(self, hop: NextHop, entry: FilterEntry, domain: str) -> Destination:
        """Without a destination the nexthop is the recipient's domain: where the command names it, each has its own."""
        if entry.by_domain and not hop.path:
            hop = hop._replace(path=domain)
        recipients = 1 if entry.single else entry.recipients
        pairs: tuple[tuple[NextHop, Level], ...] = ((hop, "none"),)
        name = str(hop) if entry.ends else f"filter {hop}"
        return Destination(name, pairs, filtering=not entry.ends, most=entry.at_once, recipients=recipients)

    def hear(self, item: Item) -> Awaitable[None] | None:
        """Something to await where tables that are not in memory must be asked first; None: `destination` knows."""
        if self._routes.at_once or item.trailer.filter:
            return None
        heard: dict[_Asked, Destination | Unavailable] = {}
        waiting: dict[_Asked, Awaitable[Destination]] = {}
        for recipient in (item.trailer.recipients[index] for index in item.todo):
            asked = _asked(recipient, item.trailer)
            if asked in heard or asked in waiting:
                continue
            try:
                way = self._way(recipient, item.trailer)
            except Unavailable as error:
                heard[asked] = error
                continue
            if isinstance(way, Destination):
                heard[asked] = way
            else:
                waiting[asked] = way
        if waiting:
            return self._hear(waiting, heard)
        self._heard = heard
        return None

    async def _hear(
        self, waiting: dict[_Asked, Awaitable[Destination]], heard: dict[_Asked, Destination | Unavailable]
    ) -> None:
        for key, way in waiting.items():
            try:
                heard[key] = await way
            except Unavailable as error:
                heard[key] = error
        self._heard = heard  # all at once: of several messages to one address each has its own

    def _way(self, recipient: QueuedRecipient, trailer: Trailer) -> Destination | Awaitable[Destination]:
        to, sender = _address(recipient.address, recipient.domain), _address(recipient.owner or trailer.sender)
        route = self._routes.route(to, sender, back=trailer.handed_back)
        return then(route, partial(self._by_route, recipient.domain))

    def _by_route(self, domain: str, route: Route) -> Destination:
        if route.hops and route.hops[0].kind == "filter":
            return self._own(route.hops[0], domain)._replace(outward=route.outward)
        if route.outward:
            (hop,) = route.hops
            return Destination(str(hop), ((hop, self._routes.tls_level(hop)),), outward=True)
        return self._destination(route.hops) if route.hops else NOWHERE

    def _own(self, hop: NextHop, domain: str) -> Destination:
        """A transport of one's own."""
        try:
            return self._through(hop.host, self._filters.reached(hop), self._filters.entry(f"{hop.host}:"), domain)
        except ValueError as error:
            return Destination(f"filter {hop}", (), lacks=str(error), filtering=True)

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


def _asked(recipient: QueuedRecipient, trailer: Trailer) -> _Asked:
    return recipient.owner or trailer.sender, recipient.address, trailer.handed_back


def _address(text: str, judged: str = "") -> Address:
    """An address of a trailer. `judged`: its domain as that was judged."""
    local, _, domain = text.rpartition("@")
    if local.startswith('"') and local.endswith('"') and len(local) > 1:
        local = _PAIR.sub(r"\1", local[1:-1])
    return Address(local, judged or domain.lower(), text)
