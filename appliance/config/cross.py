"""What only shows when settings are seen together: two listeners on one address, a certificate without its key, a loop.

Contract: pure; sees a Wiring as written (paths not yet absolute).
"""

import contextlib
import importlib.util
import ipaddress
import sys
from collections.abc import Callable, Iterator, Mapping

from appliance.config import addresses, cross_filters, recipients_entry, scanner_entry, values
from appliance.config.filters import Filters
from appliance.config.mistakes import did_you_mean
from appliance.config.model import Wiring
from appliance.config.odd import Odd, same
from appliance.config.positions import Path
from appliance.config.transports import written_hop
from appliance.mail.lookup import transport_keys
from appliance.protocol.smtp.address import Address

#: Keywords that an EHLO answer of ours can have.
KEYWORDS = (
    "PIPELINING",
    "SIZE",
    "8BITMIME",
    "ENHANCEDSTATUSCODES",
    "CHUNKING",
    "STARTTLS",
    "SMTPUTF8",
    "DSN",
    "VRFY",
    "HELP",
)
_EVERYBODY = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


Check = Callable[[Wiring], Iterator[Odd]]


def complaints(wiring: Wiring) -> list[Odd]:
    """Everything that does not fit together."""
    checks: tuple[Check, ...] = (
        _listeners,
        _fronts,
        _everywhere,
        _certificates,
        _protocols,
        _networks,
        _ehlo_keywords,
        _handlers,
        cross_filters.complaints,
        _queue,
        _limits,
        _loops,
        _relaying,
        _tls_levels,
        _texts,
        _metrics,
        _scanners,
        _recipients,
        _addresses,
    )
    return [odd for check in checks for odd in check(wiring)]


def _listeners(wiring: Wiring) -> Iterator[Odd]:
    names: dict[str, int] = {}
    addresses: dict[str, int] = {}
    for index, listener in enumerate(wiring.listen):
        first = names.setdefault(listener.name, index)
        if first != index:
            yield Odd(("listen", index, "name"), f'the name "{listener.name}" is taken by listen[{first}]')
        endpoint = values.parse_listen_address(listener.address)
        if endpoint.path or endpoint.port:
            first = addresses.setdefault(str(endpoint), index)
            if first != index:
                yield Odd(("listen", index, "address"), f"{endpoint} is the address of listen[{first}] already")


def _fronts(wiring: Wiring) -> Iterator[Odd]:
    """Names are for logs, addresses are bound: neither may be there twice."""
    taken = {
        str(values.parse_listen_address(listener.address)): f"listen[{n}]" for n, listener in enumerate(wiring.listen)
    }
    counts: dict[str, int] = {}
    for service, front in wiring.fronts():
        index = counts[service] = counts.get(service, -1) + 1
        endpoint = values.parse_front_address(front.address)
        if endpoint.path or endpoint.port:
            first = taken.setdefault(str(endpoint), f"{service}[{index}]")
            if first != f"{service}[{index}]":
                yield Odd((service, index, "address"), f"{endpoint} is the address of {first} already")
        first = taken.setdefault(f"{service} {front.name}", f"{service}[{index}]")
        if first != f"{service}[{index}]":
            yield Odd((service, index, "name"), f'the name "{front.name}" is taken by {first}')


def _everywhere(wiring: Wiring) -> Iterator[Odd]:
    """Who listens on all addresses (of IPv4, or of IPv6) leaves that port to nobody else."""
    bound: dict[tuple[bool, int], dict[str, str]] = {}
    places = [("listen", n, values.parse_listen_address(one.address)) for n, one in enumerate(wiring.listen)]
    counts: dict[str, int] = {}
    for service, front in wiring.fronts():
        counts[service] = counts.get(service, -1) + 1
        places.append((service, counts[service], values.parse_front_address(front.address)))
    for service, index, endpoint in places:
        if endpoint.path or not endpoint.port:
            continue
        others = bound.setdefault((":" in endpoint.host, endpoint.port), {})
        for host, where in others.items():
            if host != endpoint.host and {host, endpoint.host} & {"0.0.0.0", "::"}:
                told = f"{endpoint} cannot be listened on beside {values.Endpoint(host, endpoint.port)} of {where}"
                yield Odd((service, index, "address"), told)
                break
        others.setdefault(endpoint.host, f"{service}[{index}]")


def _certificates(wiring: Wiring) -> Iterator[Odd]:
    for index, listener in enumerate(wiring.listen):
        if bool(listener.tls.certificate) != bool(listener.tls.key):
            has, lacks = ("certificate", "key") if listener.tls.certificate else ("key", "certificate")
            yield Odd(("listen", index, "tls", has), f"tls has a {has} without a {lacks}", at_key=True)


def _protocols(wiring: Wiring) -> Iterator[Odd]:
    for index, listener in enumerate(wiring.listen):
        if listener.protocol != "smtp":
            told = f'protocol "{listener.protocol}" has a block of its own, [[{listener.protocol}d]], and no [[listen]]'
            yield Odd(("listen", index, "protocol"), told)


def _networks(wiring: Wiring) -> Iterator[Odd]:
    """Trust that everybody has is no trust."""
    places: list[tuple[Path, tuple[values.Network, ...]]] = [
        (("gateway", "trusted_relays"), wiring.gateway.trusted_relays)
    ]
    places += [(("listen", index, "xclient"), listener.xclient) for index, listener in enumerate(wiring.listen)]
    for path, networks in places:
        for index, network in enumerate(networks):
            if network in _EVERYBODY:
                yield Odd((*path, index), f"{network} lets everybody on the Internet claim any identity", fatal=False)


def _ehlo_keywords(wiring: Wiring) -> Iterator[Odd]:
    for number, listener in enumerate(wiring.listen):
        for index, rule in enumerate(listener.ehlo_off):
            for position, word in enumerate(rule.keywords):
                if word.upper() not in KEYWORDS:
                    hint = did_you_mean(word, [name.lower() for name in KEYWORDS])
                    path = ("listen", number, "ehlo_off", index, "keywords", position)
                    yield Odd(path, f'"{word}" is no EHLO keyword that is offered here{hint}')


def _handlers(wiring: Wiring) -> Iterator[Odd]:
    """Whether the package is there; what is in it shows when `postgate check` or a worker loads it."""
    for index, listener in enumerate(wiring.listen):
        if listener.handler_args and not listener.handler:
            yield Odd(("listen", index, "handler_args"), "handler_args without a handler", at_key=True)
        module, colon, _ = listener.handler.partition(":")
        package = module.partition(".")[0] if colon else ""
        if package and importlib.util.find_spec(package) is None:
            how = f"install it into this environment ({sys.executable} -m pip install ...), or set PYTHONPATH"
            yield Odd(("listen", index, "handler"), f'no package "{package}" is on the Python path: {how}')


def _queue(wiring: Wiring) -> Iterator[Odd]:
    queue = wiring.queue
    if queue.retry_min > queue.retry_max:
        yield Odd(("queue", "retry_min"), "queue.retry_min is longer than retry_max")


def _limits(wiring: Wiring) -> Iterator[Odd]:
    limits = wiring.limits
    if limits.errors_hard and limits.errors_soft > limits.errors_hard:
        yield Odd(
            ("limits", "errors_soft"), "limits.errors_soft is above errors_hard: it would never be reached", fatal=False
        )


def _hops(wiring: Wiring) -> Iterator[tuple[Path, values.NextHop]]:
    relay = wiring.relay
    written: list[tuple[Path, str]] = [(("relay", "next_hop", n), text) for n, text in enumerate(relay.next_hop)]
    if isinstance(relay.routes, dict):
        written += [
            (("relay", "routes", key, n), text) for key, hops in relay.routes.items() for n, text in enumerate(hops)
        ]
    filters = Filters(wiring)
    for path, text in written:
        with contextlib.suppress(ValueError):  # a filter that is not there is told by cross_filters
            yield from ((path, hop) for hop in filters.places([written_hop(text)]) if hop.kind in values.SERVERS)


def _loops(wiring: Wiring) -> Iterator[Odd]:
    for path, hop in _hops(wiring):
        for index, listener in enumerate(wiring.listen):
            if same(hop, listener):
                yield Odd(path, f"{hop} is our own listen[{index}]: mail would go round in a loop")


def _relaying(wiring: Wiring) -> Iterator[Odd]:
    inbound = any(listener.protocol == "smtp" and listener.role == "inbound" for listener in wiring.listen)
    if inbound and not wiring.relay.domains:
        yield Odd(
            ("relay", "domains"), "relay.domains is empty: no domain is ours, all mail from outside is refused", False
        )
    if wiring.relay.domains and not wiring.relay.next_hop and not wiring.relay.routes:
        yield Odd(
            ("relay",), "relay.next_hop is empty: mail goes to the demo inbox under the state directory", False, True
        )
    if not wiring.relay.next_hop and wiring.relay.routes and isinstance(wiring.relay.routes, dict):
        yield from _unrouted(wiring, wiring.relay.routes)


def _unrouted(wiring: Wiring, routes: Mapping[str, object]) -> Iterator[Odd]:
    """Without a general next hop every domain that is ours needs a way of its own."""
    for index, domain in enumerate(wiring.relay.domains):
        keys = transport_keys(Address("", domain, domain))
        if ":" not in domain and not any(key.text in routes for key in keys):
            yield Odd(("relay", "domains", index), f"{domain} has no route, and relay.next_hop is empty")


def _tls_levels(wiring: Wiring) -> Iterator[Odd]:
    if wiring.relay.hops_in_tables:
        return  # the next hops stand in a table that changes by itself
    known = {name for _, hop in _hops(wiring) for name in values.tls_names(hop)} | {"*"}
    for key in wiring.relay.tls:
        if key not in known and key.lower() not in known:
            yield Odd(
                ("relay", "tls", key), f'relay.tls: no next hop is called "{key}"{did_you_mean(key, known)}', False, True
            )


def _texts(wiring: Wiring) -> Iterator[Odd]:
    if "." not in wiring.gateway.hostname:
        text = f'gateway.hostname: others expect a full name, for example "{wiring.gateway.hostname}.example.com"'
        yield Odd(("gateway", "hostname"), text, fatal=False)
    for path, text in (
        (("gateway", "state_dir"), wiring.gateway.state_dir),
        (("logging", "target"), wiring.logging.target),
    ):
        if not text or "\0" in text:
            yield Odd(path, f"{path[0]}.{path[1]} is empty")


def _metrics(wiring: Wiring) -> Iterator[Odd]:
    if not wiring.logging.metrics:
        return
    endpoint = values.parse_listen_address(wiring.logging.metrics)
    if not endpoint.path and not ipaddress.ip_address(endpoint.host).is_loopback:
        yield Odd(("logging", "metrics"), "logging.metrics listens on a loopback address or a unix socket only")


def _scanners(wiring: Wiring) -> Iterator[Odd]:
    for path, text in scanner_entry.complaints(wiring.scanners):
        yield Odd(path, text)


def _recipients(wiring: Wiring) -> Iterator[Odd]:
    for path, text in recipients_entry.complaints(wiring.recipients, wiring.relay.domains):
        yield Odd(path, text)


def _addresses(wiring: Wiring) -> Iterator[Odd]:
    for path, text in addresses.complaints(wiring.addresses):
        yield Odd(path, text)
    known = {name for _, hop in _hops(wiring) for name in values.tls_names(hop)} | {"*", addresses.OUTWARD}
    for index, name in enumerate(wiring.addresses.generic_next_hops):
        if not wiring.relay.hops_in_tables and name.lower() not in known:
            text = f'no next hop is called "{name}"{did_you_mean(name, known)}'
            yield Odd(("addresses", "generic_next_hops", index), text, False)
    if wiring.addresses.active and not wiring.listen:
        yield Odd(("addresses",), "[addresses] is for mail that this gateway keeps, and no [[listen]] takes any", False)
