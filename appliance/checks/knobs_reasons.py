"""Reasons to greylist a client: the kinds that an operator may name, and what the other checks found that is one.

Contract: pure; what could not be looked up is no reason. What failure means for the mail: none.
"""

from collections.abc import Collection
from typing import Literal, get_args

from appliance.mail.context import Context
from appliance.mail.subscribers import dynamic_name

#: What may be a reason: signs of the wire, the client's name, its HELO, SPF other than pass, a DNS list, a sender never
#: seen before, a sum of weak findings.
Reason = Literal["wire", "no_name", "dynamic_name", "helo", "spf", "dnsbl", "new_identity", "suspicion"]
REASONS: tuple[Reason, ...] = get_args(Reason)
#: What SPF says other than a pass that proves something.
NOT_PASS = ("none", "neutral", "softfail", "fail", "permerror", "broad", "helo_fail")
#: Findings of other checks that are a reason: its kind, and what it is called. What could not be found out is none.
FINDINGS: dict[tuple[str, str], tuple[Reason, str]] = {
    **{
        ("helo", word): ("helo", "odd_helo")
        for word in ("malformed", "literal_mismatch", "claims_our_name", "unresolvable")
    },
    **{("spf", word): ("spf", f"spf_{word}") for word in NOT_PASS},
    ("dnsbl", "listed"): ("dnsbl", "dnsbl_listed"),
    ("suspicion", "raised"): ("suspicion", "suspicion_raised"),
    ("suspicion", "high"): ("suspicion", "suspicion_high"),
}


def suspicion(ctx: Context, counts: Collection[str] = REASONS) -> tuple[str, ...]:
    """Why this client is greylisted, of the kinds that count; empty = no reason. Sorted."""
    client, found = ctx.client, [("wire", sign) for sign in ctx.signs]
    if client.proof in ("none", "fail"):
        found.append(("no_name", "no_confirmed_name"))
    if dynamic_name(client.name, client.address):
        found.append(("dynamic_name", "dynamic_name"))
    found += [FINDINGS[it] for verdict in ctx.trail if (it := (verdict.check, verdict.outcome)) in FINDINGS]
    if _is_new(ctx):
        found.append(("new_identity", "new_identity"))
    return tuple(sorted({name for kind, name in found if kind in counts})) if found else ()


def _is_new(ctx: Context) -> bool:
    """Was no mail of this identity ever accepted? A shared provider has no history that counts for one customer."""
    who = ctx.identity
    if who is None or who.shared or who.first:
        return False
    return any(verdict.check == "identity" and verdict.outcome in ("new", "unproven") for verdict in ctx.trail)
