"""identity: the organisation that provably sends (design section 7). An address is not a sender.

At mail: SPF pass for MAIL FROM (for `<>`: for HELO) proves its domain, unless the record lets in half the Internet;
else the forward-confirmed client name, unless it is that of a subscriber's line; else nothing but the network is known.
At message a valid DKIM signature of the author's organisation may raise what is less or shared. A domain stands for its
registrable domain. Customers of a shared provider are strangers to each other: never limited or trusted as one.
Outcomes: known, new, shared, unproven (only the network), skipped.
What failure means for the mail: a DNS failure that may hide the identity is temperror (shipped: mark); the identity is
then what is left. Without the store nothing is known of its age: temperror too. A list of providers that cannot answer is
table_error (shipped: put off).
"""

from collections.abc import Awaitable, Hashable, Iterable
from functools import lru_cache, partial
from typing import Annotated, Any

import msgspec
from pydantic import Field

from appliance.checks import knobs
from appliance.checks.knobs import Tables
from appliance.mail.auth import DkimReport, SpfAsk, SpfReport
from appliance.mail.context import Context, Stage
from appliance.mail.identity import Identity
from appliance.mail.later import any_of, later, then, waits
from appliance.mail.lookup import heard, opened
from appliance.mail.network import network
from appliance.mail.ports import Ports, Table, Unavailable
from appliance.mail.subscribers import dynamic_name
from appliance.mail.verdict import Action, Verdict, in_millis
from appliance.mailauth import author as authors
from appliance.mailauth.registrable import organisation, same_organisation

NAME = "identity"
STAGES: tuple[Stage, ...] = ("mail", "message")
GATE = False
OUTCOMES = {
    "known": Action.DUNNO,
    "new": Action.DUNNO,
    "shared": Action.DUNNO,
    "unproven": Action.DUNNO,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
    "table_error": Action.DEFER_IF_PERMIT,
}
REPLIES = {"table_error": "451 4.3.0 The sender cannot be checked at the moment, please try again later"}
DAY = 86400.0


class Policy(knobs.Policy):
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = 24
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    shared_providers: Tables = ("postgrey_clients:exempt/shared_providers",)


def proves(report: SpfReport | None) -> bool:
    """Does this result prove who sends?"""
    return report is not None and report.result == "pass" and not report.broad and bool(report.domain)


def identify(ctx: Context, policy: Policy, ports: Ports, report: SpfReport | None) -> Identity | Awaitable[Identity]:
    """Who sends, as far as mail, HELO and the connection prove it. Raises Unavailable if a list cannot be read."""
    client, evidence = ctx.client, _evidence(ctx, report)
    if report is not None and proves(report):
        answerable = report.scope == "mfrom" and ctx.sender is not None and bool(ctx.sender.text)
        return _named(report.domain, "spf", policy, ports, answerable=answerable, evidence=evidence)
    if client.proof == "pass" and client.name != "unknown" and not dynamic_name(client.name, client.address):
        return _named(client.name, "name", policy, ports, evidence=evidence)
    return Identity(name=network(client.address, policy.ipv4_prefix, policy.ipv6_prefix), evidence=evidence)


def _named(domain: str, proof: Any, policy: Policy, ports: Ports, **more: Any) -> Identity | Awaitable[Identity]:
    name = organisation(domain)
    shared = _is_shared(dict.fromkeys((domain.lower(), name)), policy, ports)
    if isinstance(shared, bool):
        return Identity(name=name, proof=proof, shared=shared, **more)
    return later(shared, lambda found: Identity(name=name, proof=proof, shared=found, **more))


def _is_shared(names: Iterable[str], policy: Policy, ports: Ports) -> bool | Awaitable[bool]:
    return any_of(_listed(table, name) for table in opened(policy.shared_providers, ports) for name in names)


class _NotAtHand(Exception):
    """Its argument must be awaited. (What is raised is not remembered by lru_cache.)"""


def _listed(table: Any, name: str) -> bool | Awaitable[bool]:
    try:
        return _remembered(table, name)
    except _NotAtHand as asked:
        return later(heard(asked.args[0]), lambda hit: hit is not None)


@lru_cache(maxsize=8192)
def _remembered(table: Table, name: str) -> bool:
    """The same senders come again and again; a table that changed is another one. Raises Unavailable."""
    found = table.get(name)
    if waits(found):
        raise _NotAtHand(found)
    return found is not None


def _evidence(ctx: Context, report: SpfReport | None) -> dict[str, Any]:
    """What decided it, and what tells the customers of one provider apart (threats A10)."""
    if report is None:
        return {"client_name": ctx.client.name, "helo": ctx.helo}
    found: dict[str, Any] = {
        "client_name": ctx.client.name,
        "helo": ctx.helo,
        "spf": report.result,
        "spf_scope": report.scope,
        "spf_domain": report.domain,
        "spf_term": report.matched,
    }
    if report.broad:
        found["broad"] = True
    return found


def hidden(ctx: Context, identity: Identity, report: SpfReport | None) -> str:
    """Why there may be more to it than what was found; "" = no doubt."""
    if report is not None and report.result == "temperror":
        return f"SPF could not be checked: {report.reason}"
    if identity.proof == "network" and ctx.client.proof == "temperror":
        return "the client's name could not be looked up"
    return ""


def decide(identity: Identity, now: float, doubt: str = "", until: float = 0.0) -> Verdict:
    """The verdict about an identity whose age is known, or `doubt`; it holds `until` then."""
    if doubt:
        outcome = "temperror"
    elif identity.shared:
        outcome = "shared"
    elif not identity.proven:
        outcome = "unproven"
    else:
        outcome = "known" if identity.first else "new"
    history = "never seen"
    if identity.first:
        days = max(0.0, now - identity.first) / DAY
        history = f"known for {days:.1f} days, {identity.messages} messages on {identity.days} days"
    evidence = {
        **identity.evidence,
        "identity": identity.name,
        "proof": identity.proof,
        "shared": identity.shared,
        "first": in_millis(identity.first),
        "last": in_millis(identity.last),
        "days": identity.days,
        "messages": identity.messages,
    }
    reason = f"{identity.name} by {identity.proof}{', shared' if identity.shared else ''}, {history}"
    return Verdict(
        check=NAME,
        outcome=outcome,
        reason=f"{doubt}; {reason}" if doubt else reason,
        evidence=evidence,
        identity=identity,
        until=until,
    )


def signed(
    ctx: Context, report: DkimReport, author: str, policy: Policy, ports: Ports
) -> Identity | Awaitable[Identity | None] | None:
    """What the signatures add to the identity at hand; None: nothing."""
    now = ctx.identity
    domains = [one.domain for one in report.signatures if one.result == "pass" and one.counts]
    sender = ctx.sender.domain if ctx.sender is not None else ""
    answerable = (now is not None and now.answerable) or any(same_organisation(one, sender) for one in domains)
    aligned = next((one for one in domains if same_organisation(one, author)), "")
    better = _named(aligned, "dkim", policy, ports) if aligned else None
    if better is None or isinstance(better, Identity):
        return _raise(ctx, better, answerable, aligned)
    return later(better, lambda found: _raise(ctx, found, answerable, aligned))


def _raise(ctx: Context, better: Identity | None, answerable: bool, aligned: str) -> Identity | None:
    now = ctx.identity
    if better is not None and _is_better(better, now):
        evidence = {**(now.evidence if now is not None else {}), "dkim_domain": aligned}
        return msgspec.structs.replace(better, answerable=answerable, evidence=evidence)
    if now is not None and answerable != now.answerable:
        return msgspec.structs.replace(now, answerable=answerable)
    return None


def _is_settled(now: Identity | None) -> bool:
    """Can no signature add anything?"""
    return now is not None and now.answerable and now.proven and not now.shared and now.proof != "name"


def _is_better(found: Identity, now: Identity | None) -> bool:
    if now is None or not now.proven:
        return True
    return not found.shared and (now.shared or now.proof == "name")


def key(ctx: Context) -> Hashable:
    """See checks."""
    client, sender = ctx.client, ctx.sender
    if sender is None:
        return None
    return client.address, client.name, client.proof, client.trusted_relay, ctx.helo, sender.text


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Find out who sends; at message whether the content proves more."""
    if ctx.stage == "message":
        return _at_message(ctx, policy, ports)
    if ctx.sender is None or ctx.client.trusted_relay:
        why = "trusted relay: who is behind it is not known" if ctx.client.trusted_relay else "no envelope"
        return Verdict(check=NAME, outcome="skipped", reason=why)
    if ports.authentication is None or ctx.client.address == "local":
        return _judge(ctx, policy, ports, None)
    report = ports.authentication.spf(SpfAsk(ctx.client.address, ctx.helo, ctx.sender.text))
    if isinstance(report, SpfReport):
        return _judge(ctx, policy, ports, report)
    return _await_spf(ctx, policy, ports, report)


async def _await_spf(ctx: Context, policy: Policy, ports: Ports, asked: Awaitable[SpfReport]) -> Verdict:
    found = _judge(ctx, policy, ports, await asked)
    return found if isinstance(found, Verdict) else await found


def _judge(ctx: Context, policy: Policy, ports: Ports, report: SpfReport | None) -> Verdict | Awaitable[Verdict]:
    identity = identify(ctx, policy, ports, report)
    if isinstance(identity, Identity):
        return _aged(ctx, ports, identity, hidden(ctx, identity, report), report.until if report is not None else 0.0)
    return later(identity, lambda found: _aged(ctx, ports, found, hidden(ctx, found, report)))


def _aged(ctx: Context, ports: Ports, identity: Identity, doubt: str, until: float = 0.0) -> Verdict | Awaitable[Verdict]:
    """The verdict, with what the store knows of the identity; it holds `until` then, if that is at hand."""
    if ports.identities is None:
        return decide(identity, ctx.now, doubt)
    known = ports.identities.known(identity)
    if isinstance(known, Identity):
        return decide(known, ctx.now, doubt, until)
    return _await_age(ctx, identity, known, doubt)


async def _await_age(ctx: Context, identity: Identity, asked: Awaitable[Identity], doubt: str) -> Verdict:
    try:
        return decide(await asked, ctx.now, doubt)
    except Unavailable as error:
        return decide(identity, ctx.now, doubt or f"its age is not known: {error}")


def _at_message(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    if ctx.content is None or ports.authentication is None:
        return Verdict(check=NAME, outcome="skipped", reason="no content")
    report = ports.authentication.dkim(ctx.content)
    if isinstance(report, DkimReport):
        return _raised(ctx, policy, ports, report)
    return _await_dkim(ctx, policy, ports, report)


async def _await_dkim(ctx: Context, policy: Policy, ports: Ports, asked: Awaitable[DkimReport]) -> Verdict:
    found = _raised(ctx, policy, ports, await asked)
    return found if isinstance(found, Verdict) else await found


def _raised(ctx: Context, policy: Policy, ports: Ports, report: DkimReport) -> Verdict | Awaitable[Verdict]:
    if _is_settled(ctx.identity):
        return _with_signed(ctx, ports, None)
    return then(signed(ctx, report, _author(ctx), policy, ports), partial(_with_signed, ctx, ports))


def _with_signed(ctx: Context, ports: Ports, found: Identity | None) -> Verdict | Awaitable[Verdict]:
    if found is not None:
        return _aged(ctx, ports, found, "")
    if ctx.identity is not None:
        return _said(ctx, ctx.identity) or decide(ctx.identity, ctx.now)
    return Verdict(check=NAME, outcome="skipped", reason="no signature of the author's organisation")


def _said(ctx: Context, identity: Identity) -> Verdict | None:
    """What was found of the very same identity at mail, without a doubt."""
    for verdict in ctx.trail:
        if verdict.check == NAME and verdict.identity is identity and verdict.outcome != "temperror":
            return verdict
    return None


def _author(ctx: Context) -> str:
    """The author's domain, as the one strict parser of From has it; "" where nobody can say who the author is."""
    found = authors.of(ctx.content) if ctx.content is not None else None
    return found.domain if found is not None and not found.flaws else ""
