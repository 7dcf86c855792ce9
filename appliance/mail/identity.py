"""Who sends, as far as it is proven: an organisation, not an address (design section 7).

Contract: frozen. The identity check finds it after MAIL; greylist, ratelimit and exceptions use it.
"""

from typing import Any, Literal

import msgspec

#: What proves it: an SPF pass of the domain, the forward-confirmed client name, a valid aligned DKIM signature, or
#: nothing but the network that the address belongs to.
Proof = Literal["spf", "name", "dkim", "network"]


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`name` is the organisation's domain ("example.com"), or the network ("192.0.2.0/24"). `shared`: a provider whose
    customers are strangers to each other: never limited or trusted as one. `first` is when its mail was first accepted
    (wall clock, 0 = never), `last` the last time, `days` on how many different days, `messages` how many.
    `answerable`: the domain of MAIL FROM itself is proven (SPF pass, or a DKIM signature of that organisation), so a
    notice may go to it."""

    name: str
    proof: Proof = "network"
    shared: bool = False
    first: float = 0.0
    last: float = 0.0
    days: int = 0
    messages: int = 0
    answerable: bool = False
    evidence: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """How stores know it: "spf:example.com" and "name:example.com" are the same organisation, so both are
        "id:example.com"; a network is "net:192.0.2.0/24"."""
        return f"net:{self.name}" if self.proof == "network" else f"id:{self.name}"

    @property
    def proven(self) -> bool:
        """More than an address."""
        return self.proof != "network"
