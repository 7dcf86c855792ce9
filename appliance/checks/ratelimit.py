"""Rates: token buckets for messages, recipients, connections and errors, a minute and an hour.

Who is counted: the client's network (/24, /64), the identity where it is proven (a hundred addresses of one SPF record
are one sender; shared providers are nobody), the sender, the recipient. connect asks for connections and errors of the
network, mail for messages of network, identity and sender, rcpt for their recipients and for messages to the recipient.
Each knob is [a minute, an hour], 0 = no limit. What is over takes nothing from any bucket, so a client that is put off
comes through at the rate that is allowed. Trusted relays do not count by network; `<>` counts for no sender.
Outcomes: over, within. Shipped in monitor.
What failure means for the mail: without the store the outcome is temperror (shipped: mark); rates do not hold then.
"""

from collections.abc import Awaitable, Iterator, Sequence
from typing import Annotated

from pydantic import Field

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.network import network
from appliance.mail.ports import Ports, RateAsk, Rates
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.smtp.address import Address

NAME = "ratelimit"
STAGES: tuple[Stage, ...] = ("connect", "mail", "rcpt")
GATE = False
MODE = "monitor"
OUTCOMES = {"over": Action.DEFER, "within": Action.DUNNO, "temperror": Action.MARK}
REPLIES = {"over": "450 4.7.0 Too much for now, please try again later"}

Count = Annotated[int, Field(ge=0)]
#: At most so many a minute and so many an hour; 0 = no limit.
Limit = tuple[Count, Count]
PERIODS = (60, 3600)


class Policy(knobs.Policy):
    network_connections: Limit = (120, 3000)
    network_errors: Limit = (30, 300)
    network_messages: Limit = (120, 3000)
    network_recipients: Limit = (600, 12000)
    identity_messages: Limit = (240, 6000)
    identity_recipients: Limit = (1200, 24000)
    sender_messages: Limit = (60, 1000)
    sender_recipients: Limit = (300, 5000)
    recipient_messages: Limit = (120, 2000)


#: What is asked at each stage: knob, what is counted, who counts, cost.
ASKED: dict[Stage, tuple[tuple[str, str, str, float], ...]] = {
    "connect": (
        ("network_connections", "connections", "net", 1.0),
        ("network_errors", "errors", "net", 0.0),  # they are charged where they happen (stores.remote)
    ),
    "mail": (
        ("network_messages", "messages", "net", 1.0),
        ("identity_messages", "messages", "id", 1.0),
        ("sender_messages", "messages", "from", 1.0),
    ),
    "rcpt": (
        ("network_recipients", "recipients", "net", 1.0),
        ("identity_recipients", "recipients", "id", 1.0),
        ("sender_recipients", "recipients", "from", 1.0),
        ("recipient_messages", "messages", "to", 1.0),
    ),
}


def who(ctx: Context, scope: str) -> str:
    """The subject of a scope, "" where nobody is counted."""
    if scope == "net":
        return "" if ctx.client.trusted_relay else network(ctx.client.address)
    if scope == "id":
        found = ctx.identity
        return found.name if found is not None and found.proven and not found.shared else ""
    if scope == "from":
        return _mailbox(ctx.sender)
    return _mailbox(ctx.recipient.address if ctx.recipient is not None else None)


def _mailbox(address: Address | None) -> str:
    return f"{address.local.lower()}@{address.domain}" if address is not None and address.text else ""


def asks(ctx: Context, policy: Policy) -> Iterator[RateAsk]:
    """The buckets of this stage: "messages/60/net:192.0.2.0/24"."""
    for knob, what, scope, cost in ASKED.get(ctx.stage, ()):
        subject = who(ctx, scope)
        limits: Limit = getattr(policy, knob)
        for limit, period in zip(limits, PERIODS, strict=True):
            if limit and subject:
                yield RateAsk(f"{what}/{period}/{scope}:{subject}", cost, float(limit), float(period))


def decide(asked: Sequence[RateAsk], left: Sequence[float]) -> Verdict:
    """Over if one bucket is; the evidence has all of them."""
    evidence = {ask.key: {"limit": ask.limit, "left": round(rest, 3)} for ask, rest in zip(asked, left, strict=True)}
    over = [ask for ask, rest in zip(asked, left, strict=True) if rest < 0]
    if not over:
        return Verdict(check=NAME, outcome="within", evidence=evidence)
    reason = ", ".join(f"{ask.key}: more than {ask.limit:.0f}" for ask in over)
    return Verdict(check=NAME, outcome="over", reason=reason, evidence=evidence)


async def _ask(store: Rates, asked: Sequence[RateAsk], now: float) -> Verdict:
    return decide(asked, await store.take(asked, now))


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    asked = tuple(asks(ctx, policy))
    if not asked or ports.rates is None:
        return Verdict(check=NAME, outcome="within", reason="nothing to count" if ports.rates else "no store configured")
    return _ask(ports.rates, asked, ctx.now)
