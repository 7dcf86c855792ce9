"""Greylisting (RFC 6647): a stranger is asked to come back in a minute or two; who never comes back was a bot.

Stands at rcpt, after `recipient` (nobody waits for an address that does not exist). Exempt without a question: `<>`,
postmaster and abuse, trusted relays, DNS allow lists, the lists of `exempt_clients` and `exempt_recipients`. With
`when = "suspicious"` only clients that give a reason are greylisted: no confirmed name, a name that looks dynamic, an odd
HELO, signs of the wire, SPF other than pass, a DNS list, a sender never seen before, a raised suspicion; what could not
be looked up is no reason. A proven sender that is well known does not wait.
Outcomes: early (asked to come back), pass (came back: the first time), known, auto (this origin passed often enough),
loop (its retries kept coming from other addresses: let in), proven, exempt, not_suspicious, skipped (no store).
What failure means for the mail: without the store the outcome is temperror (shipped: mark), never early; without a list
of those who are exempt table_error (shipped: put off), never pass.
"""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Annotated, Literal

import msgspec
from pydantic import Field

from appliance.checks import knobs
from appliance.checks.knobs import Duration, Tables
from appliance.checks.knobs_exempt import listed
from appliance.checks.knobs_reasons import REASONS, Reason, suspicion
from appliance.mail.binding import StepBind
from appliance.mail.context import Context, Stage
from appliance.mail.greylisting import Greylist, GreylistAnswer, GreylistAsk, first_attempt
from appliance.mail.later import later, then, waits
from appliance.mail.lookup import Key, opened, search
from appliance.mail.network import network
from appliance.mail.ports import Ports
from appliance.mail.promise import Promise
from appliance.mail.subscribers import dynamic_name
from appliance.mail.triplet import recipient_key, sender_key
from appliance.mail.verdict import Action, Verdict, in_millis
from appliance.protocol.smtp.address import NULL_SENDER, Address

NAME = "greylist"
STAGES: tuple[Stage, ...] = ("rcpt",)
GATE = False
OUTCOMES = {
    "early": Action.DEFER_IF_PERMIT,
    "pass": Action.DUNNO,
    "known": Action.DUNNO,
    "auto": Action.DUNNO,
    "loop": Action.DUNNO,
    "proven": Action.DUNNO,
    "exempt": Action.DUNNO,
    "not_suspicious": Action.DUNNO,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
    "table_error": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "early": "451 4.7.1 Greylisted, please try again in a minute or two",
    "table_error": "451 4.3.0 Recipient address cannot be checked at the moment, please try again later",
}

#: RFC 5321 4.5.1 and RFC 2142: these must be reachable at once.
REQUIRED = frozenset({"postmaster", "abuse"})
DAY = 86400.0
_replace = msgspec.structs.replace


class Policy(knobs.Policy):
    when: Literal["suspicious", "always"] = "suspicious"
    reasons: tuple[Reason, ...] = REASONS
    proven_after: Duration = 1209600.0
    delay: Duration = 90.0
    window: Duration = 172800.0
    remember: Duration = 3110400.0
    auto_accept: Annotated[int, Field(ge=0)] = 5
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = 24
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    exempt_clients: Tables = ("postgrey_clients:exempt/clients",)
    exempt_recipients: Tables = ("postgrey_recipients:exempt/recipients",)


def proof(ctx: Context, policy: Policy) -> str:
    """Why the sender is well known, in words; "" = it is not. The proof is of today, the name leads back to the address,
    and its mail has been accepted for a while; a shared provider is nobody."""
    who, client = ctx.identity, ctx.client
    if who is None or who.shared or not who.first or who.proof not in ("spf", "dkim") or client.proof != "pass":
        return ""
    known = ctx.now - who.first
    if known < policy.proven_after or dynamic_name(client.name, client.address):
        return ""
    return f"{who.name} by {who.proof}, known for {known / DAY:.0f} days"


def exemption(ctx: Context, recipient: Address, policy: Policy, ports: Ports) -> str | Awaitable[str]:
    """Why nobody waits here, in words; "" = no exemption. Raises Unavailable if a list cannot be read."""
    if ctx.client.trusted_relay:
        return "trusted relay"
    if ctx.sender is not None and not ctx.sender.text:
        return "null sender"
    if recipient.local.lower() in REQUIRED:
        return f"recipient {recipient.local.lower()}"
    for verdict in ctx.trail:
        if verdict.check == "dnsbl" and verdict.outcome == "allowed":
            return "on a DNS allow list"
    found = listed(policy.exempt_clients, client_names(ctx), ports)
    if waits(found):
        return then(found, lambda why: why or listed(policy.exempt_recipients, [recipient.text], ports))
    return found or listed(policy.exempt_recipients, [recipient.text], ports)


def client_names(ctx: Context) -> list[str]:
    """What the list of clients is asked for: a name only if it is confirmed (anybody can claim one)."""
    client = ctx.client
    return [client.address] if client.name == "unknown" else [client.name, client.address]


def question(ctx: Context, sender: Address, recipient: Address, policy: Policy, delimiter: str) -> GreylistAsk:
    """One step of the store: the identity first where there is one, then the network. A provider's pool passes by its
    identity like any other, but nobody is accepted for what its other customers do."""
    who = ctx.identity
    net = f"net:{network(ctx.client.address, policy.ipv4_prefix, policy.ipv6_prefix)}"
    return GreylistAsk(
        keys=(who.key, net) if who is not None and who.proven else (net,),
        sender=sender_key(sender),
        recipient=recipient_key(recipient, delimiter),
        client=ctx.client.address,
        now=ctx.now,
        delay=policy.delay,
        window=policy.window,
        remember=policy.remember,
        auto_accept=policy.auto_accept,
        shared=who is not None and who.shared,
    )


_OUTCOME_OF = {"new": "early", "early": "early", "passed": "pass", "known": "known", "auto": "auto", "loop": "loop"}
#: In words, of the answer and the seconds since the first attempt.
_REASON_OF: dict[str, Callable[[GreylistAnswer, float], str]] = {
    "new": lambda answer, _: f"first attempt, {max(0.0, answer.wait):.0f} s to wait",
    "early": lambda answer, _: f"attempt {answer.attempts}, {max(0.0, answer.wait):.0f} s too early",
    "passed": lambda answer, waited: f"came back after {waited:.0f} s, attempt {answer.attempts}",
    "known": lambda answer, _: f"known by {answer.key}",
    "auto": lambda answer, _: f"{answer.key} passed {answer.passes} times",
    "loop": lambda _, waited: f"retries kept coming from other addresses for {waited:.0f} s: let in",
}


def decide(
    ask: GreylistAsk, answer: GreylistAnswer, reasons: Sequence[str], recipient: Address, tried: Sequence[str] = ()
) -> Verdict:
    """The store's answer as a verdict; `tried` are the keys that no exempt list had."""
    wait, attempts = max(0.0, answer.wait), answer.attempts
    evidence = {
        "state": answer.state,
        "key": answer.key,
        "keys": list(ask.keys),
        "sender": ask.sender,
        "recipient": ask.recipient,
        "first": in_millis(answer.first),
        "attempts_before": attempts - 1 if attempts > 1 else 0,
        "attempts": attempts,
        "passes": answer.passes,
        "wait": round(wait, 3),
        "suspicion": list(reasons),
        "not_exempt": list(tried),
    }
    reason = _REASON_OF[answer.state](answer, max(0.0, ask.now - answer.first))
    return Verdict(
        check=NAME,
        outcome=_OUTCOME_OF[answer.state],
        reason=f"{reason}; {', '.join(reasons)}" if reasons else reason,
        recipient=recipient.text,
        evidence=evidence,
        until=answer.until,
    )


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    if ctx.recipient is None or ctx.sender is None:
        return Verdict(check=NAME, outcome="skipped", reason="no envelope")
    recipient = ctx.recipient.address
    reasons = suspicion(ctx, policy.reasons)
    if policy.when == "suspicious" and not reasons:
        return Verdict(check=NAME, outcome="not_suspicious", recipient=recipient.text)
    if why := proof(ctx, policy):
        return Verdict(check=NAME, outcome="proven", reason=why, recipient=recipient.text)
    ask = question(ctx, ctx.sender, recipient, policy, ports.site.recipient_delimiter)

    def step(why: str) -> Verdict | Awaitable[Verdict]:
        if why:
            return Verdict(check=NAME, outcome="exempt", reason=why, recipient=recipient.text)
        if ports.greylist is None:
            return Verdict(check=NAME, outcome="skipped", reason="no store configured", recipient=recipient.text)
        answer = ports.greylist.step(ask)

        def heard(answer: GreylistAnswer) -> Verdict:
            return decide(ask, answer, reasons, recipient, [*client_names(ctx), recipient.text])

        if isinstance(answer, GreylistAnswer):
            return heard(answer)
        return answer.map(heard) if isinstance(answer, Promise) else later(answer, heard)

    return then(exemption(ctx, recipient, policy, ports), step)


def key(ctx: Context) -> Hashable:
    """See checks."""
    client, who, to = ctx.client, ctx.identity, ctx.recipient
    where = client.address, client.name, client.proof, client.trusted_relay
    known = who and (who.name, who.proof, who.shared, bool(who.first))
    found = tuple([(verdict.check, verdict.outcome) for verdict in ctx.trail])
    return where, known, ctx.sender, to and to.address, ctx.signs, found


class _Bound(StepBind):
    """Who is greylisted whomever they write to, but for exempt recipients."""

    __slots__ = ("_delimiter", "_lists", "_names", "_question", "_reasons", "_store", "_strangers")

    def __init__(
        self, usual: GreylistAsk, names: list[str], reasons: Sequence[str], policy: Policy, ports: Ports, store: Greylist
    ) -> None:
        self._question, self._names, self._reasons, self._store = usual, names, reasons, store
        self._strangers = ports.strangers.strangers(usual) if ports.strangers is not None else None
        self._delimiter = ports.site.recipient_delimiter
        self._lists = opened(policy.exempt_recipients, ports)

    def ask(self, address: Address, now: float) -> Verdict | Awaitable[Verdict] | None:
        if not self.usual(address):
            return None
        answer = self._store.step(self._about(address, now))
        if isinstance(answer, GreylistAnswer):
            return self.heard(address, now, answer)
        heard = partial(self.heard, address, now)
        return answer.map(heard) if isinstance(answer, Promise) else later(answer, heard)

    def usual(self, address: Address) -> bool:
        if address.local.lower() in REQUIRED:
            return False
        return not self._lists or search(self._lists, [Key(address.text, True)]) is None

    def step(self, address: Address, now: float) -> GreylistAnswer | Awaitable[GreylistAnswer]:
        return self._store.step(_replace(self._question, recipient=address.text, now=now))  # a usual one is its own key

    def first(self, address: Address) -> bool:
        return self._strangers is not None and self._strangers.first(address.text)

    def first_answer(self, now: float) -> GreylistAnswer:
        return first_attempt(self._question, now)

    def heard(self, address: Address, now: float, answer: GreylistAnswer) -> Verdict:
        tried = [*self._names, address.text]
        return decide(self._about(address, now), answer, self._reasons, address, tried)

    def _about(self, address: Address, now: float) -> GreylistAsk:
        return _replace(self._question, recipient=recipient_key(address, self._delimiter), now=now)


def bind(ctx: Context, policy: Policy, ports: Ports) -> StepBind | None:
    """See checks. Lists that must be awaited are check()'s business, as those that cannot answer are."""
    sender, store = ctx.sender, ports.greylist
    lists = opened((*policy.exempt_clients, *policy.exempt_recipients), ports)
    if not all(table.at_once for table in lists):
        return None
    if sender is None or not sender.text or store is None or ctx.client.trusted_relay or proof(ctx, policy):
        return None
    reasons, names = suspicion(ctx, policy.reasons), client_names(ctx)
    allowed = any(verdict.check == "dnsbl" and verdict.outcome == "allowed" for verdict in ctx.trail)
    if allowed or (policy.when == "suspicious" and not reasons) or listed(policy.exempt_clients, names, ports):
        return None
    usual = question(ctx, sender, NULL_SENDER, policy, ports.site.recipient_delimiter)
    return _Bound(usual, names, reasons, policy, ports, store)
