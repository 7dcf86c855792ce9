"""relay: mail is taken for our own domains only, and for no address that an inner server could read as another's.

Contract: what is judged is Address.domain, the very value that is relayed to; only exact names are ours. `%`, `!`, a
quoted @ and a source route in the local part are refused even for our domains: an older server inside might obey them.
What failure means for the mail: refused at RCPT with 550; a table of domains that cannot answer is temperror (shipped:
defer_if_permit).
"""

from collections.abc import Awaitable, Hashable
from functools import partial

from appliance.checks import knobs
from appliance.mail.binding import Bind
from appliance.mail.context import Context, Stage
from appliance.mail.later import later
from appliance.mail.ports import Ports
from appliance.mail.verdict import ALWAYS, Action, Verdict
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
_OURS = Verdict(check=NAME, outcome="ours", until=ALWAYS)


class Policy(knobs.Policy):
    """No knobs: the domains stand in the wiring, `[relay] domains`."""


def decide(address: Address, ours: bool) -> tuple[str, str]:
    """(outcome, reason). `ours`: whether the domain is."""
    if not address.domain:
        if address.local.lower() == "postmaster":
            return "ours", ""
        return "not_ours", "an address without a domain"
    if not ours:
        return "not_ours", f"{address.domain} is not one of [relay] domains"
    trick = relay_tricks(address)
    return ("trick", f"{trick} in {address.text}") if trick else ("ours", "")


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Judge the recipient of this RCPT."""
    if ctx.recipient is None:
        return Verdict(check=NAME, outcome="temperror", reason="no recipient")
    address = ctx.recipient.address
    ours = ports.site.is_postmaster(address) or ports.site.is_ours(address.domain)
    return _verdict(address, ours) if isinstance(ours, bool) else later(ours, partial(_verdict, address))


def key(ctx: Context) -> Hashable:
    """See checks."""
    return ctx.recipient.address if ctx.recipient is not None else None


class _Bound(Bind):
    __slots__ = ("_is_ours",)

    def __init__(self, ports: Ports) -> None:
        self._is_ours = ports.site.is_ours

    def ask(self, address: Address, now: float) -> Verdict | None:
        ours = address.domain and self._is_ours(address.domain) is True
        return _OURS if ours and not relay_tricks(address) else None

    def usual(self, address: Address) -> bool:
        return True


def bind(ctx: Context, policy: Policy, ports: Ports) -> Bind:
    """See checks."""
    return _Bound(ports)


def _verdict(address: Address, ours: bool) -> Verdict:
    outcome, reason = decide(address, ours)
    return _OURS if outcome == "ours" else Verdict(check=NAME, outcome=outcome, reason=reason)
