"""The one place where ports and adapters meet: settings in, an engine with everything that its checks may ask out.

Contract: one Composition a process, on its loop. `engine(snapshot)` never waits and changes nothing for others: a reload
that another process refuses leaves everything as it was; `adopt(snapshot)` puts in force. Adapters outlive reloads where
their settings are the same, so that caches, health and idle connections stay. What failure means for the mail: a peer
that is away makes its port raise Unavailable when it is asked, never before.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from appliance.addresses import Rewriter
from appliance.config import model
from appliance.config.routes import Routes
from appliance.config.snapshot import Snapshot
from appliance.config.values import parse_listen_address
from appliance.config.wiring import demo_inbox
from appliance.connectors.callahead import Callahead
from appliance.connectors.dialects import Inside
from appliance.connectors.dns_lists import DnsLists
from appliance.connectors.inspector import Inspector
from appliance.connectors.milters import Milters
from appliance.connectors.policy import PolicyClients
from appliance.connectors.proxy_filter import ProxyFilter, ProxyFilters
from appliance.connectors.runner import Runner
from appliance.connectors.scanners import Scanners
from appliance.daemons.compose.authentication import Authentication
from appliance.daemons.compose.doors import Doors
from appliance.daemons.compose.lists import wanted_lists, wanted_milters, wanted_services
from appliance.daemons.compose.lookups import Lookups
from appliance.daemons.compose.mailboxes import mailbox
from appliance.daemons.compose.proxies import proxy_settings, wanted_proxies
from appliance.daemons.compose.rewriting import build_rewriter
from appliance.daemons.compose.scanning import scanner_settings
from appliance.daemons.compose.smtputf8 import Utf8
from appliance.daemons.skeleton import Birth
from appliance.engine.pipeline import Engine
from appliance.mail.network import is_in
from appliance.mail.ports import Ports, Site
from appliance.net.client_name import ClientName
from appliance.net.resolver import Resolver
from appliance.stores.asking import Senders
from appliance.stores.callahead_cache import CallaheadCache
from appliance.stores.known import RecentlyKnown
from appliance.stores.remote import StateClient
from appliance.tables.lines import LineSearch

__all__ = ["Composition"]

#: What passwords are called among the certificates (master.secrets.PREFIX).
SECRET = "secret:"
#: Seconds that a start waits for stated.
PATIENCE = 1.0
#: Octets that a milter may make of a message where messages have no limit.
MOST_EDITED = 1 << 28
#: What a resolver is made of: its section of the wiring and the octets of its zone.
Dns = tuple[model.Dns, bytes]


class Composition:
    """Owns resolver, state client, call-ahead, scanners and inspector. Give it up with close()."""

    def __init__(self, birth: Birth) -> None:
        snapshot = birth.snapshot
        self.state = StateClient(birth.rendezvous["stated"])
        self.senders = Senders(self.state)
        self.known = RecentlyKnown(self.state, time.monotonic)
        self.lookups = Lookups(birth.rendezvous)
        self.lookups.bind(snapshot)
        self._dns = _dns_of(snapshot), build_resolver(snapshot)
        self._next: tuple[Dns, Resolver] | None = None
        self.doors = Doors(snapshot, self.resolver)
        hostname = snapshot.wiring.gateway.hostname
        self.callahead = Callahead(
            self.doors.of,
            CallaheadCache(self.state),
            hostname=hostname,
            names_of=self.doors.names,
            own=(demo_inbox(snapshot.wiring.gateway.state_dir),),
        )
        self.utf8 = Utf8(self.doors, hostname)
        #: Passwords of scanners by name; the dictionary stays the same.
        self.secrets: dict[str, bytes] = {}
        self.take_secrets(birth.certificates)
        self.runner = Runner(birth.rendezvous.get("runner", ""))
        self.inspector = Inspector(birth.rendezvous["scand"])
        self.scanners = Scanners(tests=birth.index == 0, inside=Inside(self.runner, self.inspector, self.secrets))
        self.dns_lists = DnsLists(says=birth.index == 0)
        self.policy_services = PolicyClients()
        self.milters = Milters(hostname, snapshot.wiring.smtp.size_limit or MOST_EDITED)
        self.proxies = ProxyFilters(birth.siblings)
        self._first = snapshot

    async def open(self) -> None:
        """Begin to connect; a peer that does not answer keeps nobody waiting for more than a second."""
        self.adopt(self._first)
        self.state.start()
        self.scanners.start()
        self.dns_lists.start()
        # Until stated answers nobody would be greylisted or counted: every restart would let strangers in.
        await asyncio.gather(self.state.wait_ready(PATIENCE), self.lookups.ready(), self.utf8.learn())

    def engine(self, snapshot: Snapshot) -> Engine:
        """The engine of this snapshot; raises only for settings that cannot be (a broken CA file): ValueError."""
        self.lookups.bind(snapshot)
        self.doors.way(snapshot)
        gateway, questions = snapshot.wiring.gateway, snapshot.wiring.dns.questions
        ports = self._ports(snapshot)
        return Engine(
            snapshot.policies,
            ports,
            gateway.delay_reject,
            gateway.soft_bounce,
            questions=questions,
            clock=time.monotonic,
        )

    def adopt(self, snapshot: Snapshot) -> None:
        """This snapshot is in force from now on: what lives besides transactions follows its settings."""
        self.lookups.adopt(snapshot)
        self._dns = _dns_of(snapshot), self._resolver(snapshot)
        self._next = None
        self.doors.follow(snapshot, self.resolver)
        self.callahead.hostname = self.utf8.hostname = snapshot.wiring.gateway.hostname
        self.utf8.learn_soon()
        self.scanners.follow(scanner_settings(snapshot, self.runner.path), snapshot.wiring.smtp.size_limit)
        self.dns_lists.follow(self.resolver, wanted_lists(snapshot.policies))
        self.policy_services.follow(wanted_services(snapshot.policies))
        self.proxies.follow(wanted_proxies(snapshot))
        wiring = snapshot.wiring
        most = wiring.smtp.size_limit or MOST_EDITED
        self.milters.follow(wanted_milters(snapshot.policies), wiring.gateway.hostname, most)

    def take_secrets(self, given: Mapping[str, tuple[bytes, bytes]]) -> dict[str, tuple[bytes, bytes]]:
        """Keep the passwords that the master gave; the rest are certificates."""
        ours = {name[len(SECRET) :]: octets for name, (octets, _) in given.items() if name.startswith(SECRET)}
        self.secrets.clear()
        self.secrets.update(ours)
        return {name: pair for name, pair in given.items() if not name.startswith(SECRET)}

    @property
    def resolver(self) -> Resolver:
        """The one that is in force."""
        return self._dns[1]

    def _resolver(self, snapshot: Snapshot) -> Resolver:
        """The one in force, or that which was made for these settings, or a new one."""
        wanted = _dns_of(snapshot)
        for made in (self._dns, self._next):
            if made is not None and made[0] == wanted:
                return made[1]
        self._next = wanted, build_resolver(snapshot)
        return self._next[1]

    def rewriter(self, snapshot: Snapshot) -> Rewriter | None:
        """What rewrites addresses by this snapshot; None: nothing does."""
        return build_rewriter(snapshot)

    def _ports(self, snapshot: Snapshot) -> Ports:
        rewriter = build_rewriter(snapshot)
        ports = Ports(
            site=build_site(snapshot, rewriter),
            aliases=rewriter,
            tables=snapshot.tables,
            resolver=self._resolver(snapshot),
            greylist=self.known,
            strangers=self.state,
            rates=self.state,
            recipients=self.callahead,
            scanners=self.scanners.find(scanner_settings(snapshot, self.runner.path)),
            inspector=self.inspector.bound(snapshot.policies.checks["attachments"].knobs.limits),  # type: ignore[attr-defined]
            lines=LineSearch(snapshot.tables),
            authentication=Authentication(self._resolver(snapshot), snapshot.policies),
            dns_lists=self.dns_lists,
            policy_services=self.policy_services,
            milters=self.milters,
            identities=self.senders,
            firsts=self.senders,
        )
        return msgspec.structs.replace(ports, mailbox=mailbox(snapshot.policies.checks["recipient"], ports))

    def takes_utf8(self, snapshot: Snapshot) -> bool:
        """Whether every next hop is known to take SMTPUTF8."""
        return self.utf8.everywhere

    def proxy(self, snapshot: Snapshot, place: str) -> ProxyFilter:
        """The filter before the queue that `place` names. Raises ValueError."""
        return self.proxies.of(proxy_settings(snapshot, place))

    async def client_name(self, address: str) -> ClientName:
        """The forward-confirmed name of a client; never raises."""
        return await self.resolver.client_name(address)

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`."""
        parts: dict[str, dict[str, Any]] = {
            "stated": {
                **self.state.contact.facts(),
                "degraded": [] if self.state.ready else [f"stated is away: {self.state.why}"],
            },
            "tables": self.lookups.health(),
            "dns": self.resolver.health(),
            "dns lists": {**self.dns_lists.facts(), "degraded": self.dns_lists.degraded},
            "callahead": self.callahead.health(),
            "inspector": self.inspector.health(),
            "policy services": self.policy_services.health(),
            "milters": self.milters.health(),
            "proxy filters": self.proxies.health(),
        }
        degraded = [why for part in parts.values() for why in part.pop("degraded", [])] + self.scanners.degraded
        return {**parts, **self.scanners.facts(), "smtputf8": self.utf8.everywhere, "degraded": degraded}

    async def close(self) -> None:
        """Hang up everywhere."""
        self.utf8.close()
        self.lookups.close()
        self.scanners.close()
        self.runner.close()
        self.dns_lists.close()
        self.inspector.close()
        self.policy_services.close()
        self.milters.close()
        self.proxies.close()
        await self.callahead.close()
        self.state.close()


def zone_of(snapshot: Snapshot) -> bytes:
    """The octets of `[dns] zone`, b"" without one."""
    zone = snapshot.wiring.dns.zone
    return snapshot.blob.files.get(zone, b"") if zone else b""


def _dns_of(snapshot: Snapshot) -> Dns:
    return snapshot.wiring.dns, zone_of(snapshot)


def build_resolver(snapshot: Snapshot) -> Resolver:
    dns = snapshot.wiring.dns
    return Resolver(dns.nameservers, zone_of(snapshot), dns.timeout, dns.ttl_floor)


def build_site(snapshot: Snapshot, rewriter: Rewriter | None = None) -> Site:
    """What checks may know of this installation."""
    wiring = snapshot.wiring
    routes = Routes(wiring, snapshot.tables)
    return Site(
        hostname=wiring.gateway.hostname,
        is_ours=routes.is_ours if rewriter is None else rewriter.is_ours,
        our_domains=routes.domains if rewriter is None else (*routes.domains, *sorted(rewriter.settings.alias_domains)),
        size_limit=wiring.smtp.size_limit,
        recipient_delimiter=wiring.gateway.recipient_delimiter,
        our_addresses=our_addresses(snapshot),
        authserv_id=wiring.gateway.authserv_id,
        is_relay=partial(is_in, wiring.gateway.trusted_relays),
        strip_fields=wiring.gateway.strip_fields,
        undeliverable=routes.undeliverable,
    )


def our_addresses(snapshot: Snapshot) -> tuple[str, ...]:
    """The addresses that listeners name; what they reach by a wildcard is not known."""
    hosts = (parse_listen_address(listen.address).host for listen in snapshot.wiring.listen)
    return tuple(sorted({host for host in hosts if host not in ("", "0.0.0.0", "::")}))
