"""What the rewriter is told: section [addresses] of the wiring with tables in the place of their names.

Contract: frozen; domains and masquerading names in lower case. `is_relayed`: does [relay] take mail for a domain?
What failure means for the mail: none here.
"""

from collections.abc import Awaitable, Callable

import msgspec

from appliance.mail.ports import Table

ALL: frozenset[str] = frozenset({"envelope_sender", "envelope_recipient", "header_sender", "header_recipient"})
SENDERS: frozenset[str] = frozenset({"envelope_sender", "header_sender"})
RECIPIENTS: frozenset[str] = frozenset({"envelope_recipient", "header_recipient"})
Tables = tuple[Table, ...]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Names are Postfix's. `origin` completes names without a domain (myorigin); `own` are our own names (mydestination);
    `home` is the domain whose postmaster gets mail for ours. `alias_domains`, with their tables: domains that
    consist of aliases; those too that stand as keys in virtual_alias_maps, if `map_domains`."""

    origin: str
    own: frozenset[str] = frozenset()
    home: str = ""
    delimiter: str = "+"
    canonical_maps: Tables = ()
    canonical_classes: frozenset[str] = ALL
    sender_canonical_maps: Tables = ()
    sender_canonical_classes: frozenset[str] = SENDERS
    recipient_canonical_maps: Tables = ()
    recipient_canonical_classes: frozenset[str] = RECIPIENTS
    masquerade_domains: tuple[str, ...] = ()
    masquerade_exceptions: frozenset[str] = frozenset()
    masquerade_exception_tables: Tables = ()
    masquerade_classes: frozenset[str] = ALL - {"envelope_recipient"}
    virtual_alias_maps: Tables = ()
    alias_domains: frozenset[str] = frozenset()
    alias_domain_tables: Tables = ()
    map_domains: bool = True
    recursion_limit: int = 1000
    expansion_limit: int = 1000
    address_length_limit: int = 1000
    alias_maps: Tables = ()
    owner_request_special: bool = True
    expand_owner_alias: bool = False
    always_bcc: str = ""
    sender_bcc_maps: Tables = ()
    recipient_bcc_maps: Tables = ()
    propagate: frozenset[str] = frozenset({"canonical", "virtual"})
    is_relayed: Callable[[str], bool | Awaitable[bool]] = lambda domain: False
    relayed_at_once: bool = True

    def is_own(self, domain: str) -> bool:
        """One of the names of this machine: names without a domain, and aliases, are at home there."""
        return domain == self.origin or domain in self.own
