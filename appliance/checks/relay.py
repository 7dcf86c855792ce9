"""relay: mail is taken for our own domains only, and for no address that an inner server could read as another's.

Contract: what is judged is Address.domain, the very value that is relayed to; only exact names are ours. `%`, `!`, a
quoted @ and a source route in the local part are refused even for our domains: an older server inside might obey them.
What failure means for the mail: refused at RCPT with 550; this check cannot fail for want of anything.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports, Site
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.smtp.address import Address, relay_tricks

NAME = "relay"
STAGES: tuple[Stage, ...] = ("rcpt",)
GATE = True
OUTCOMES = {
    "ours": Action.DUNNO,
    "not_ours": Action.REJECT,
    "trick": Action.REJECT,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "not_ours": "550 5.7.1 Relaying denied",
    "trick": "550 5.7.1 Relaying denied, address syntax",
    "temperror": "451 4.3.0 Recipient cannot be checked at the moment, please try again later",
}
_OURS = Verdict(check=NAME, outcome="ours")


class Policy(knobs.Policy):
    """No knobs: the domains stand in the wiring, `[relay] domains`."""


def decide(address: Address, site: Site) -> tuple[str, str]:
    """(outcome, reason)."""
    if not address.domain:
        if address.local.lower() == "postmaster":
            return "ours", ""
        return "not_ours", "an address without a domain"
    if not site.is_ours(address.domain):
        return "not_ours", f"{address.domain} is not one of [relay] domains"
    trick = relay_tricks(address)
    return ("trick", f"{trick} in {address.text}") if trick else ("ours", "")


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Judge the recipient of this RCPT."""
    if ctx.recipient is None:
        return Verdict(check=NAME, outcome="temperror", reason="no recipient")
    outcome, reason = decide(ctx.recipient.address, ports.site)
    return _OURS if outcome == "ours" else Verdict(check=NAME, outcome=outcome, reason=reason)
