"""Content filters behind the queue: what `transport:destination` of FILTER and of `content_filter` means.

Contract: as Postfix's FILTER_README has it: the transport is `smtp`, `lmtp` or a name in `[filters]`, the destination a
host with its port, never a domain with MX records; without one the filter's own `next_hop` counts.
What failure means for the mail: a filter that nobody knows keeps its mail in the queue, with the reason; unfiltered it
goes nowhere.
"""

import re
from collections.abc import Mapping

from appliance.config.model import FilterEntry, Wiring
from appliance.config.values import Kind, NextHop, parse_next_hop

_FORM = re.compile(r"[A-Za-z0-9_.-]{1,40}:\S{0,300}\Z")
_BARE = re.compile(r"([^\s:\[\]]+):(\d+)\Z")
_KINDS: dict[str, Kind] = {"smtp": "smtp", "relay": "smtp", "esmtp": "smtp", "lmtp": "lmtp"}


class Filters:
    """The filters of one wiring (with absolute paths)."""

    def __init__(self, wiring: Wiring) -> None:
        self._named: Mapping[str, FilterEntry] = wiring.filters

    def hops(self, text: str) -> tuple[NextHop, ...]:
        """Where mail for the filter `text` goes, in order of trial; never (). Raises ValueError."""
        transport, destination = split(text)
        entry = self._named.get(transport)
        if entry is None and transport not in _KINDS:
            raise ValueError(f'mail transport unavailable: no filter is called "{transport}" (docs/hooks.md)')
        if entry is not None and not destination:
            return named_hops(transport, entry)
        if not destination:
            raise ValueError(f'filter "{text}" names no destination')
        kind = named_hops(transport, entry)[0].kind if entry is not None else _KINDS[transport]
        return tuple(_place(kind, one) for one in destination.split(","))


def named_hops(name: str, entry: FilterEntry) -> tuple[NextHop, ...]:
    """The places of a filter that has a name; never (). Raises ValueError."""
    if not entry.next_hop:
        raise ValueError(f"[filters.{name}] needs next_hop")
    return tuple(hop._replace(mx=False) for hop in map(parse_next_hop, entry.next_hop))


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
