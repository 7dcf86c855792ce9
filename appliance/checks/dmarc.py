"""dmarc: the author's domain (From) and what its owner asks for mail that fails (RFC 9989; threats A4 to A6, A9, A10).

Stands at message, behind dkim and arc. Exactly one From with exactly one mailbox, or `ambiguous` with the reason. A
failure is `fail` (nothing asked), `quarantine` or `reject`; `forwarded` or `sealed` instead of these two where a listed
forwarder or sealer stands for it, never a pass. Authentication-Results says what was found and what was overridden.
Evidence (`facts`) is what an aggregate report needs of this message (RFC 9990).
What failure means for the mail: DNS that does not answer on the only way that could have passed is `temperror` (put off)
for `put_off` from the first attempt on, then `undecided` (marked); at once where the owner asks for nothing. So it is
where DNS hides a listed forwarder or sealer; but a client whose name cannot be looked up is judged without it then:
whoever sends can see to that.
"""

from collections.abc import Awaitable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from appliance.checks import knobs, knobs_trust
from appliance.mail import authres
from appliance.mail.auth import DkimReport, DmarcReport, SpfAsk, SpfReport
from appliance.mail.context import Context, Stage
from appliance.mail.later import answered
from appliance.mail.ports import Authentication, Content, Ports, Resolver
from appliance.mail.verdict import Action, Verdict
from appliance.mailauth import author as authors
from appliance.mailauth import claims, dmarc, dmarc_facts, origin

NAME = "dmarc"
STAGES: tuple[Stage, ...] = ("message",)
GATE = True
OUTCOMES = {
    "pass": Action.DUNNO,
    "none": Action.DUNNO,
    "fail": Action.MARK,
    "quarantine": Action.MARK,
    "reject": Action.REJECT,
    "forwarded": Action.MARK,
    "sealed": Action.MARK,
    "ambiguous": Action.REJECT,
    "undecided": Action.MARK,
    "permerror": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "reject": "550 5.7.26 Message refused: it fails the DMARC policy of the author's domain",
    "ambiguous": "550 5.7.1 Message refused: it needs exactly one author in From",
    "temperror": "451 4.4.3 The author's domain cannot be checked at the moment, please try again later",
}
#: How long a message that was put off is remembered: longer than any sender tries.
REMEMBER = 691200.0


class Policy(knobs.Policy):
    discovery: Literal["treewalk", "psl"] = "treewalk"
    put_off: knobs.Duration = 7200.0
    dkim_only: knobs.Texts = ()
    trusted_forwarders: knobs.Tables = ()
    trusted_sealers: knobs.Tables = ()


class Found(NamedTuple):
    """All that was found out about one message. `client`: the address that SPF was asked for, "" if it is not known.
    `doubt`: who might stand for a failure, if DNS answered; `own`: the sender himself may have seen to it."""

    author: authors.Author
    spf: SpfReport
    dkim: DkimReport
    report: DmarcReport
    client: str
    override: str = ""
    reason: str = ""
    doubt: str = ""
    own: bool = False


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    content, authentication, resolver = ctx.content, ports.authentication, ports.resolver
    if content is None or ctx.sender is None or authentication is None or resolver is None:
        return Verdict(check=NAME, outcome="skipped", reason="no content, or no authentication configured")
    author = authors.of(content)
    if author.flaws:
        return ambiguous(author)
    sender, client = ctx.sender.text, _client(ctx, content, ports)
    spf: SpfReport | Awaitable[SpfReport] = _unknown(ctx, author.domain)
    if client is not None:
        spf = authentication.spf(SpfAsk(client.address, client.helo, sender))
    dkim = authentication.dkim(content)
    dkim_only = bool(policy.dkim_only) and knobs_trust.names(policy.dkim_only, author.domain)
    if isinstance(spf, SpfReport) and isinstance(dkim, DkimReport):
        report = dmarc.at_once(
            dmarc.Ask(author.domain, spf, dkim, not sender, dkim_only), resolver.cached, policy.discovery
        )
        if report is not None and report.result in ("pass", "none"):
            found = Found(author, spf, dkim, report, client.address if client else "")
            return decide(ctx, found, False, policy.discovery)
    return _judge(ctx, policy, ports, author, content, authentication, resolver, client, spf, dkim)


def ambiguous(author: authors.Author) -> Verdict:
    """Nobody can say who the author is: that fails."""
    flaws = ", ".join(author.flaws)
    return Verdict(
        check=NAME,
        outcome="ambiguous",
        reason=f"From is ambiguous: {flaws}",
        authres=(authres.result("dmarc", "fail", {"header.from": author.domain}, "From is ambiguous"),),
        evidence={"from_ambiguous": list(author.flaws), "domains": list(author.domains)},
    )


async def _judge(
    ctx: Context,
    policy: Policy,
    ports: Ports,
    author: authors.Author,
    content: Content,
    authentication: Authentication,
    resolver: Resolver,
    client: origin.Client | None,
    asked_spf: SpfReport | Awaitable[SpfReport],
    asked_dkim: DkimReport | Awaitable[DkimReport],
) -> Verdict:
    """With all that has to be waited for."""
    sender = ctx.sender.text if ctx.sender else ""
    spf, dkim = await answered(asked_spf), await answered(asked_dkim)
    ask = dmarc.Ask(author.domain, spf, dkim, not sender, knobs_trust.names(policy.dkim_only, author.domain))
    report = await dmarc.evaluate(ask, resolver.query, policy.discovery)
    found = Found(author, spf, dkim, report, client.address if client else "")
    if report.result == "fail" and report.policy in ("quarantine", "reject"):
        found = await _excused(found, ctx, policy, ports, content, authentication)
    waits, open_ = False, report.result == "temperror" and report.policy != "none"
    if client is not None and (open_ or found.doubt) and ports.firsts is not None:
        key = f"dmarc:{origin.fingerprint(sender, content.header)}"
        waits = await ports.firsts.age(key, max(REMEMBER, policy.put_off)) < policy.put_off
    return decide(ctx, found, waits, policy.discovery)


def _client(ctx: Context, content: Content, ports: Ports) -> origin.Client | None:
    """Whom SPF is asked about: the client, or the one behind a relay of ours; None if that one is not known."""
    if ctx.client.trusted_relay or ctx.client.address == "local":
        return origin.behind(content.header, ports.site.is_relay)
    return origin.Client(ctx.client.address, ctx.helo)


def _unknown(ctx: Context, author: str) -> SpfReport:
    """SPF of a client that is not known: what it might have said cannot be told."""
    if ctx.sender and ctx.sender.domain:
        return SpfReport(result="temperror", domain=ctx.sender.domain, reason="the client is not known")
    return SpfReport(result="temperror", scope="helo", domain=author, reason="the client is not known")


async def _excused(
    found: Found, ctx: Context, policy: Policy, ports: Ports, content: Content, authentication: Authentication
) -> Found:
    """With the forwarder or sealer that stands for a failure, or might."""
    sender = ctx.sender.text if ctx.sender else ""
    if policy.trusted_forwarders:
        traits = origin.traits(content.header, sender, found.author.domain, found.dkim)
        if traits:
            found = await _forwarded(found, ctx, policy, ports, traits)
    if policy.trusted_sealers and not found.override:
        report = await answered(authentication.arc(content))
        trusted = {name: await _sealer(name, ctx, policy, ports) for name in dict.fromkeys(report.sealers)}

        def listed(name: str) -> bool:
            return trusted.get(name, False)

        if sealer := claims.vouched(report, found.author.domain, listed):
            return found._replace(override="local_policy", reason=f"sealed by {sealer}")
        if report.result == "temperror" and report.sealers and listed(report.sealers[-1]):
            return found._replace(doubt=f"the seal of {report.sealers[-1]}: {report.reason}", own=False)
    return found


async def _forwarded(found: Found, ctx: Context, policy: Policy, ports: Ports, traits: tuple[str, ...]) -> Found:
    """With the listed forwarder that the client is proven to be, or might be."""
    client, spf = ctx.client, found.spf
    if client.name != "unknown" and client.proof == "pass":
        entry = await _entry("name", client.name, ctx, policy, ports)
        if entry is not None:
            return _by(found, "name", client.name, entry, traits)
    if spf.scope == "mfrom" and spf.result in ("pass", "temperror") and not spf.broad and spf.domain:
        entry = await _entry("spf", spf.domain, ctx, policy, ports)
        if entry is not None and spf.result == "pass":
            return _by(found, "spf", spf.domain, entry, traits)
        if entry is not None:
            return found._replace(doubt=f"SPF of {spf.domain} could not be checked: {spf.reason}")
    if client.proof == "temperror":
        return found._replace(doubt="the client's name could not be looked up", own=True)
    return found


async def _entry(proof: str, name: str, ctx: Context, policy: Policy, ports: Ports) -> knobs_trust.Listed | None:
    entry = await knobs_trust.find(policy.trusted_forwarders, name, ports, ctx.now, True)
    return entry if entry is not None and entry.valid and entry.trust.proof == proof else None


def _by(found: Found, proof: str, name: str, entry: knobs_trust.Listed, traits: tuple[str, ...]) -> Found:
    why = f"forwarded by {name}, proof {proof} ({entry.place}); {', '.join(traits)}"
    return found._replace(override="trusted_forwarder", reason=why)


async def _sealer(name: str, ctx: Context, policy: Policy, ports: Ports) -> bool:
    entry = await knobs_trust.find(policy.trusted_sealers, name, ports, ctx.now, False)
    return entry is not None and entry.valid


def decide(ctx: Context, found: Found, waits: bool, discovery: str) -> Verdict:
    """The verdict. `waits`: what DNS did not answer may still be put off."""
    report = found.report
    outcome, reason = str(report.result), report.reason
    if report.result == "temperror" and not (waits and report.policy != "none"):
        outcome = "undecided"
    elif report.result == "fail":
        outcome = report.policy if report.policy in ("quarantine", "reject") else "fail"
        if found.override:
            outcome = "forwarded" if found.override == "trusted_forwarder" else "sealed"
            reason = f"{found.reason}; asked: {report.policy}; {reason}"
        elif found.doubt and (waits or not found.own):
            outcome = "temperror" if waits else "undecided"
            reason = f"{found.doubt}; asked: {report.policy}; {reason}"
    override = found.override, found.reason
    facts = dmarc_facts.facts(ctx, found.client, found.spf, found.dkim, report, discovery, outcome, override)
    return Verdict(
        check=NAME,
        outcome=outcome,
        reason=reason,
        authres=(*_spf_behind(ctx, found), result_text(found)),
        evidence={"facts": facts, "record": report.record},
    )


def _spf_behind(ctx: Context, found: Found) -> tuple[str, ...]:
    """The SPF result of the client behind a relay of ours: the check spf could not know it."""
    if not found.client or found.client == ctx.client.address:
        return ()
    of = "smtp.helo" if found.spf.scope == "helo" else "smtp.mailfrom"
    return (authres.result("spf", found.spf.result, {of: found.spf.domain}),)


def result_text(found: Found) -> str:
    """Our result, with what the policy is and what we did instead."""
    report = found.report
    published: dict[str, Any] = report.facts.get("published", {})
    policy = report.policy if report.result in ("fail", "temperror") else ""
    above = report.policy_domain if report.policy_domain != report.domain else ""
    reason = found.reason.partition(" (")[0]
    return _result(report.result, report.domain, published.get("p", ""), above, policy, found.override, reason)


@lru_cache(maxsize=1024)
def _result(word: str, domain: str, asked: str, above: str, policy: str, override: str, reason: str) -> str:
    """The same for many messages of an author's domain."""
    properties = {"header.from": domain, "polrec.p": asked, "polrec.domain": above}
    properties |= {"policy.dmarc": policy, "policy.override": override}
    return authres.result("dmarc", word, properties, reason)
