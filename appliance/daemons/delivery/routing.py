"""Which way a recipient's mail goes: our domains by [relay], all others (notices to senders) by a route or their MX.

Contract: the same way always gives the same Destination, so that its mail shares connections and fate. A table that
cannot answer raises Unavailable: the mail waits. What failure means for the mail: no way at all is "deferred", never
"bounced": it is a gap in the configuration, and an operator can close it.
"""

from collections.abc import Awaitable
from functools import partial
from typing import NamedTuple

from appliance.config.filters import Filters
from appliance.config.routes import Routes
from appliance.config.values import NextHop
from appliance.mail.later import then, waits
from appliance.net.tls import Level
from appliance.protocol.errors import Unavailable
from appliance.protocol.smtp.address import Address
from appliance.queue.envelope import QueuedRecipient
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


class Routing:
    """Remembers what it built; a new snapshot makes a new Routing."""

    def __init__(self, routes: Routes, filters: Filters) -> None:
        self._routes, self._filters = routes, filters
        self._built: dict[tuple[NextHop, ...], Destination] = {}
        self._heard: dict[str, Destination | Unavailable] = {}

    def destination(self, recipient: QueuedRecipient, content_filter: str = "") -> Destination:
        """The way to `recipient`: at once in memory, or as `hear` heard of it; all mail of a content filter goes to
        that. Raises Unavailable."""
        if content_filter:
            return self._filtered(content_filter, recipient.domain)
        found = self._heard.pop(recipient.address, None) or self._way(recipient)
        if isinstance(found, Destination):
            return found
        raise found if isinstance(found, Unavailable) else Unavailable("the table of routes was not asked yet")

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
        waiting: dict[str, Awaitable[Destination]] = {}
        for recipient in (item.trailer.recipients[index] for index in item.todo):
            try:
                way = self._way(recipient)
            except Unavailable as error:
                self._heard[recipient.address] = error
                continue
            if waits(way):
                waiting[recipient.address] = way
        return self._hear(waiting) if waiting else None

    async def _hear(self, waiting: dict[str, Awaitable[Destination]]) -> None:
        for address, way in waiting.items():
            try:
                self._heard[address] = await way
            except Unavailable as error:
                self._heard[address] = error

    def _way(self, recipient: QueuedRecipient) -> Destination | Awaitable[Destination]:
        local, _, _ = recipient.address.rpartition("@")
        hops = self._routes.next_hops(Address(local, recipient.domain, recipient.address))
        return then(hops, partial(self._by_hops, recipient.domain))

    def _by_hops(self, domain: str, hops: tuple[NextHop, ...]) -> Destination | Awaitable[Destination]:
        # The default next hop is for our domains; handing it a stranger's mail would make it a relay.
        if domain and hops is self._routes.default:
            return then(self._routes.is_ours(domain), partial(self._by_default, domain))
        return self._destination(hops) if hops else NOWHERE

    def _by_default(self, domain: str, ours: bool) -> Destination:
        if not ours:
            return self._outward(domain)
        return self._destination(self._routes.default) if self._routes.default else NOWHERE

    def renewed(self, old: Destination) -> Destination:
        """The same next hops with the TLS levels that are in force now."""
        return old._replace(hops=tuple((hop, self._level(hop)) for hop, _ in old.hops))

    def _level(self, hop: NextHop) -> Level:
        return "none" if hop.kind == "pipe" else self._routes.tls_level(hop)

    def _destination(self, hops: tuple[NextHop, ...]) -> Destination:
        built = self._built.get(hops)
        if built is None:
            pairs = tuple((hop, self._routes.tls_level(hop)) for hop in hops)
            built = self._built[hops] = Destination(", ".join(map(str, hops)), pairs)
        return built

    def _outward(self, domain: str) -> Destination:
        literal = domain.startswith("[")
        hop = NextHop("smtp", domain.strip("[]").removeprefix("IPv6:"), 25, not literal)
        return Destination(str(hop), ((hop, self._routes.tls_level(hop)),), outward=True)
