"""Which way a recipient's mail goes: our domains by [relay], all others (notices to senders) by a route or their MX.

Contract: the same way always gives the same Destination, so that its mail shares connections and fate. A table that
cannot answer raises Unavailable: the mail waits. What failure means for the mail: no way at all is "deferred", never
"bounced": it is a gap in the configuration, and an operator can close it.
"""

from typing import NamedTuple

from appliance.config.routes import Routes
from appliance.config.values import NextHop
from appliance.net.tls import Level
from appliance.protocol.smtp.address import Address
from appliance.queue.envelope import QueuedRecipient


class Destination(NamedTuple):
    """Next hops in order of trial, each with its TLS level. `outward`: found by the MX of the mail address itself, so
    that "no such domain" is final. `name` is what status, queue and --next-hop call it."""

    name: str
    hops: tuple[tuple[NextHop, Level], ...]
    outward: bool = False


NOWHERE = Destination("nowhere", ())


class Routing:
    """Remembers what it built; a new snapshot makes a new Routing."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._built: dict[tuple[NextHop, ...], Destination] = {}

    def destination(self, recipient: QueuedRecipient) -> Destination:
        """The way to `recipient`. Raises Unavailable."""
        local, _, _ = recipient.address.rpartition("@")
        hops = self._routes.next_hops(Address(local, recipient.domain, recipient.address))
        # The default next hop is for our domains; handing it a stranger's mail would make it a relay.
        if recipient.domain and hops is self._routes.default and not self._routes.is_ours(recipient.domain):
            return self._outward(recipient.domain)
        return self._destination(hops) if hops else NOWHERE

    def renewed(self, old: Destination) -> Destination:
        """The same next hops with the TLS levels that are in force now."""
        return old._replace(hops=tuple((hop, self._routes.tls_level(hop)) for hop, _ in old.hops))

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
