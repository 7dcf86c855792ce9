"""Which generic maps are for what goes to a next hop: smtp_generic_maps, lmtp_generic_maps, generic_next_hops.

Contract: pure; made of a Wiring with absolute paths and its tables. What failure means for the mail: none here.
"""

from collections.abc import Mapping, Sequence

from appliance.addresses.generic import Generic
from appliance.addresses.maps import AddressMap
from appliance.config.addresses import GENERIC, OF_GATEWAY, OUTWARD
from appliance.config.model import Wiring
from appliance.config.values import Kind, NextHop, tls_names
from appliance.mail.ports import Table


class Generics:
    """`at_once`: every answer is at hand."""

    def __init__(self, wiring: Wiring, tables: Mapping[str, Table]) -> None:
        told, gateway = wiring.addresses, wiring.gateway
        own = frozenset({gateway.hostname, *(name for name in told.mydestination if name != OF_GATEWAY)})
        propagate = "generic" in told.propagate_unmatched_extensions
        self._names = frozenset(name.lower() for name in told.generic_next_hops)
        self._maps: dict[Kind, Generic] = {}
        for kind, key in GENERIC.items():
            opened = tuple(tables[text] for text in getattr(told, key))
            if opened:
                one = AddressMap(key, opened, gateway.hostname, gateway.recipient_delimiter, propagate)
                self._maps[kind] = Generic(one, own)

    def on(self, hops: Sequence[NextHop], outward: bool) -> Generic | None:
        """The maps for mail that goes there; the first next hop decides. `outward`: found by the recipient's domain."""
        found = self._maps.get(hops[0].kind) if self._maps and hops else None
        if found is None or "*" in self._names or (outward and OUTWARD in self._names):
            return found
        return found if self._names.intersection(tls_names(hops[0])) else None
