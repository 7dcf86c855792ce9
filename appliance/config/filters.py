"""Content filters: what `transport:destination` of FILTER and of `content_filter` means, and what `proxy_filter` means.

Contract: as Postfix's FILTER_README has it: the transport is `smtp`, `lmtp` or a name in `[filters]`, the destination a
host with its port, never a domain with MX records; without one the filter's own `next_hop` counts; of a filter with a
command the destination is what its macro ${nexthop} says. `proxy:PLACE` names a filter before the queue, as
SMTPD_PROXY_README has it: PLACE is a name in `[filters]`, host:port, inet:host:port or unix:/path. In a transport table a
name in `[filters]` is a transport of one's own, with the next hops of transport(5) behind it. What failure means
for the mail: a filter that nobody knows keeps its mail in the queue, with the reason (or puts it off, before the queue);
unfiltered it goes nowhere.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from appliance.config.mistakes import did_you_mean
from appliance.config.model import FilterEntry, Wiring
from appliance.config.transports import ANSWERING, RELAYING, Way, nexthops
from appliance.config.values import Kind, NextHop, parse_next_hop, parse_peer

_FORM = re.compile(r"[A-Za-z0-9_.-]{1,40}:\S{0,300}\Z")
_BARE = re.compile(r"([^\s:\[\]]+):(\d+)\Z")
#: The transport of a filter before the queue.
PROXY = "proxy"
#: For a filter before the queue that says nothing else: messages at once, seconds for a step (smtpd_proxy_timeout).
CONCURRENCY, TIMEOUT = 20, 100.0
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}:?\Z")


class Proxy(NamedTuple):
    """A filter before the queue: where it is, in order of trial, and its settings. `name`: as status calls it."""

    name: str
    hops: tuple[NextHop, ...]
    ehlo: str
    concurrency: int
    timeout: float
    total_timeout: float


class Filters:
    """The filters of one wiring (with absolute paths)."""

    def __init__(self, wiring: Wiring) -> None:
        self._named: Mapping[str, FilterEntry] = wiring.filters
        self._hostname = wiring.gateway.hostname

    def entry(self, text: str) -> FilterEntry:
        """The settings of the filter `text`; the defaults for one that has no name. Raises ValueError."""
        transport, destination = split(text)
        name = destination.removesuffix(":") if transport == PROXY else transport
        return self._named.get(name) or FilterEntry()

    def proxy(self, place: str) -> Proxy:
        """The filter before the queue that `place` names. Raises ValueError."""
        if _NAME.match(place):
            name = place.removesuffix(":")
            entry = self._named.get(name)
            if entry is None:
                near = did_you_mean(name, self._named)
                raise ValueError(
                    f'no filter is called "{name}"{near}: write a name of [filters], host:port or unix:/path'
                )
            hops = named_hops(name, entry)
            if any(hop.kind != "smtp" for hop in hops):
                raise ValueError(f"[filters.{name}]: a filter before the queue speaks SMTP, not LMTP, and is no command")
        else:
            name, entry = place, FilterEntry()
            peer = parse_peer(place.removeprefix("inet:"))
            hops = (NextHop("smtp", peer.host, peer.port, path=peer.path),)
        return Proxy(
            name,
            hops,
            entry.ehlo or self._hostname,
            entry.concurrency or CONCURRENCY,
            entry.timeout or TIMEOUT,
            max(entry.timeout, entry.total_timeout),
        )

    def command(self, hop: NextHop) -> FilterEntry:
        """The filter of a hop of kind pipe."""
        return self._named[hop.host]

    # ------------------------------------------------------------------ as a transport of one's own

    def own(self, name: str, nexthop: str, domain: str) -> Way | None:
        """An entry `name:nexthop` of a transport table for mail to `domain`, None: there is no such filter. Raises
        ValueError."""
        if name not in self._named:
            return None
        own = self._named[name].to_own_domain and not nexthop
        hop = NextHop("filter", name, path=domain if own else nexthop)
        self.reached(hop)
        return Way((hop,), own)

    def reached(self, hop: NextHop) -> tuple[NextHop, ...]:
        """Where mail for a hop of kind filter goes, in order of trial; never (). Raises ValueError."""
        entry = self._named.get(hop.host)
        if entry is None:
            raise ValueError(f'no filter is called "{hop.host}"{did_you_mean(hop.host, self._named)}')
        if entry.command:
            return (NextHop("pipe", hop.host, path=hop.path),)
        if hop.path:
            return nexthops(_kind(hop.host, entry), hop.path)
        return named_hops(hop.host, entry)

    def places(self, hops: Iterable[NextHop]) -> tuple[NextHop, ...]:
        """The same, with what filters among them lead to in their place. Raises ValueError."""
        return tuple(one for hop in hops for one in (self.reached(hop) if hop.kind == "filter" else (hop,)))

    def by_nexthop(self, hop: NextHop) -> bool:
        """Is that a filter with a command, and no nexthop for it?"""
        return hop.kind == "filter" and not hop.path and bool(self._named[hop.host].command)

    def handed_back(self, value: str) -> bool:
        """Does an entry of a transport table name a filter that hands back what it takes?"""
        name = value.strip().partition(":")[0]
        entry = self._named.get(name) if name not in RELAYING and name not in ANSWERING else None
        return entry is not None and not entry.ends

    def hops(self, text: str) -> tuple[NextHop, ...]:
        """Where mail for the filter `text` goes, in order of trial; never (). Raises ValueError."""
        if text in self._named:
            raise ValueError(f'"{text}" is no filter: write "{text}:"')
        transport, destination = split(text)
        if transport == PROXY:
            return self.proxy(destination).hops
        entry = self._named.get(transport)
        if entry is None and transport not in RELAYING:
            near = did_you_mean(transport, self._named) or " (docs/hooks.md)"
            raise ValueError(f'mail transport unavailable: no filter is called "{transport}"{near}')
        if entry is not None and entry.command:
            return (NextHop("pipe", transport, path=destination),)
        if entry is not None and not destination:
            return named_hops(transport, entry)
        if not destination:
            raise ValueError(f'filter "{text}" names no destination')
        kind = _kind(transport, entry) if entry is not None else RELAYING[transport]
        return tuple(_place(kind, one) for one in destination.split(","))


def named_hops(name: str, entry: FilterEntry) -> tuple[NextHop, ...]:
    """The places of a filter that has a name; never (). Raises ValueError."""
    if entry.command:
        return (NextHop("pipe", name),)
    if not entry.next_hop:
        raise ValueError(f"[filters.{name}] needs next_hop or command")
    if entry.to_own_domain:
        raise ValueError(f"[filters.{name}] sends to the domain of each recipient: a transport table names it, for these")
    return tuple(hop._replace(mx=False) for hop in map(parse_next_hop, entry.next_hop))


def _kind(name: str, entry: FilterEntry) -> Kind:
    """What a filter that is no command speaks. Raises ValueError."""
    return "smtp" if entry.to_own_domain else named_hops(name, entry)[0].kind


def split(text: str) -> tuple[str, str]:
    """`transport:destination`. Raises ValueError."""
    if not _FORM.match(text):
        raise ValueError(
            f'"{text}" is no filter: write smtp:[host]:port, lmtp:unix:/path, or a name of [filters] and ":"'
        )
    transport, _, destination = text.partition(":")
    return transport, destination


def _place(kind: Kind, text: str) -> NextHop:
    """One destination: "[host]:port", "host:port", "inet:host:port", "unix:/path"."""
    bare = text.removeprefix("inet:")
    found = _BARE.match(bare)
    hop = parse_next_hop(f"{kind}:[{found[1]}]:{found[2]}" if found else f"{kind}:{bare}")
    return hop._replace(mx=False)
