"""Section [addresses] of a snapshot as a rewriter.

Contract: pure. What failure means for the mail: nothing here; a table that cannot answer says so when it is asked.
"""

from collections.abc import Sequence
from typing import Any

from appliance.addresses import Rewriter, Settings
from appliance.config import addresses
from appliance.config.routes import Routes
from appliance.config.snapshot import Snapshot
from appliance.mail.ports import Table


def build_rewriter(snapshot: Snapshot) -> Rewriter | None:
    """None where nothing is rewritten, and nobody is known by a map."""
    routes = Routes(snapshot.wiring, snapshot.tables)
    wiring, told = snapshot.wiring, snapshot.wiring.addresses
    if not told.active:
        return None

    def opened(specs: Sequence[str]) -> tuple[Table, ...]:
        return tuple(snapshot.tables[text] for text in specs if ":" in text)

    hostname = wiring.gateway.hostname
    own = frozenset(hostname if name == addresses.OF_GATEWAY else name for name in told.mydestination)
    maps: dict[str, Any] = {key: opened(getattr(told, key)) for key in addresses.MAPS}
    classes: dict[str, Any] = {key: frozenset(getattr(told, key)) for key in addresses.CLASSES}
    return Rewriter(
        Settings(
            origin=hostname,
            own=own if told.alias_maps or told.mydestination != (addresses.OF_GATEWAY,) else frozenset(),
            home=next((name for name in wiring.relay.domains if ":" not in name), ""),
            delimiter=wiring.gateway.recipient_delimiter,
            masquerade_domains=told.masquerade_domains,
            masquerade_exceptions=frozenset(text for text in told.masquerade_exceptions if ":" not in text),
            masquerade_exception_tables=opened(told.masquerade_exceptions),
            alias_domains=frozenset(
                text for text in told.virtual_alias_domains if ":" not in text and text != addresses.OF_MAPS
            ),
            alias_domain_tables=opened(told.virtual_alias_domains),
            map_domains=addresses.OF_MAPS in told.virtual_alias_domains,
            recursion_limit=told.virtual_alias_recursion_limit,
            expansion_limit=told.virtual_alias_expansion_limit,
            address_length_limit=told.virtual_alias_address_length_limit,
            owner_request_special=told.owner_request_special,
            expand_owner_alias=told.expand_owner_alias,
            always_bcc=told.always_bcc,
            propagate=frozenset(told.propagate_unmatched_extensions),
            is_relayed=routes.is_ours,
            relayed_at_once=routes.at_once,
            **maps,
            **classes,
        )
    )
