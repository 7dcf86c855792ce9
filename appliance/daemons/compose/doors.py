"""Where the mail of one of our domains would be handed in: next hops of the wiring as places to connect to.

Contract: the order is the order of trial. Raises Unavailable (DNS, a table) and net.mx.NoPlace (nothing there).
What failure means for the mail: an address that could not be verified, never an unknown one.
"""

import ssl
from collections.abc import Awaitable, Iterator

from appliance.config.routes import Routed, Routes
from appliance.config.snapshot import Snapshot
from appliance.config.values import NextHop
from appliance.connectors.probing import Door, NobodyToAsk
from appliance.connectors.target import Target
from appliance.mail.later import answered, then
from appliance.net import hosts, tls
from appliance.net.mx import MailHosts, NoPlace
from appliance.net.resolver import Resolver
from appliance.protocol.smtp.address import Address


class Doors:
    """The routes in force. `follow` puts a new snapshot's in their place."""

    def __init__(self, snapshot: Snapshot, resolver: Resolver) -> None:
        self._hosts = hosts.read()
        self.follow(snapshot, resolver)

    def way(self, snapshot: Snapshot) -> "Way":
        """A snapshot's routes and the TLS for them. Raises ValueError for a CA file that holds no certificate."""
        wiring = snapshot.wiring
        ca = snapshot.blob.files.get(wiring.relay.tls_ca, b"") if wiring.relay.tls_ca else b""
        way = Way(Routes(wiring, snapshot.tables), ca)
        for hop in way.routes.all_hops():
            way.context(way.routes.tls_level(hop))
        return way

    def follow(self, snapshot: Snapshot, resolver: Resolver) -> None:
        """Raises as `way`."""
        self._way = self.way(snapshot)
        self.in_table = bool(snapshot.wiring.relay.route_tables)
        self._mail_hosts = MailHosts(resolver, self._hosts, snapshot.wiring.gateway.hostname)

    @property
    def routes(self) -> Routes:
        """Those in force."""
        return self._way.routes

    async def of(self, address: Address) -> list[Door]:
        """The doors for an address at one of our domains. Raises NobodyToAsk."""
        found: list[Door] = []
        missing: NoPlace | None = None
        route = await answered(self._route(address))
        if end := self.routes.end(route):
            raise NobodyToAsk(end)
        for hop in self.routes.servers(route):
            try:
                found += await self.of_hop(hop)
            except NoPlace as error:
                missing = error
        if not found and missing is not None:
            raise missing
        return found

    def names(self, address: Address) -> list[str] | Awaitable[list[str]]:
        """The next hops of an address, as `Door.name` has them. Raises Unavailable."""
        return then(self._route(address), lambda route: [str(hop) for hop in self.routes.servers(route)])

    def _route(self, address: Address) -> Routed:
        """Where its mail ends up: behind the filters that hand it back."""
        return self.routes.route(address, back=True)

    async def of_hop(self, hop: NextHop) -> list[Door]:
        """The doors of one next hop."""
        level = self.routes.tls_level(hop)
        return [Door(str(hop), target, level, self._way.context(level)) for target in await self._targets(hop)]

    async def _targets(self, hop: NextHop) -> list[Target]:
        lmtp = hop.kind == "lmtp"
        if hop.path:
            return [Target(host="localhost", path=hop.path, lmtp=lmtp)]
        places = await self._mail_hosts.places(hop.host, hop.mx)
        return [Target(host=place.host, address=place.address, port=hop.port, lmtp=lmtp) for place in places]

    def all_hops(self) -> Iterator[NextHop]:
        """Every next hop that the wiring itself names."""
        return self.routes.all_hops()


class Way:
    """Routes, and the TLS contexts of their levels, each made once."""

    def __init__(self, routes: Routes, ca: bytes) -> None:
        self.routes, self._ca = routes, ca
        self._contexts: dict[tls.Level, ssl.SSLContext | None] = {}

    def context(self, level: tls.Level) -> ssl.SSLContext | None:
        """Raises ValueError for a CA file that holds no certificate."""
        if level not in self._contexts:
            self._contexts[level] = tls.client_context(level, self._ca)
        return self._contexts[level]
