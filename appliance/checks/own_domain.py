"""own_domain: our own domains from outside, and others' from inside (threats A10, A11).

Inbound: MAIL FROM or From of a domain of ours (or below one) from a stranger is `spoofed`, in domains that the operator
lists (`protected`) `forbidden`, unless SPF, DKIM or DMARC passes for that very domain, or a trusted relay brings it (what
dmarc found forwarded or sealed by whom the operator trusts is at most spoofed). Judged at message, when signatures are
known; at mail only what is certain: a protected domain whose own SPF says no.
Outbound: our people send with our domains only, and where `sources` says which client may use which, with those: else
`foreign`, in MAIL FROM as in From. Mail that is passed on with a valid signature of its author is no such thing in From.
What failure means for the mail: where DNS kept a pass from being known, temperror (shipped: mark); where a table cannot
say what is ours, or whose, table_error (shipped: put off).
"""

import operator
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from appliance.checks import knobs, knobs_trust
from appliance.mail.auth import DkimReport, SpfAsk, SpfReport
from appliance.mail.context import Context, Stage
from appliance.mail.later import answered, any_of, then, waits
from appliance.mail.lookup import Found, client_keys, opened, search
from appliance.mail.ports import Content, Ports
from appliance.mail.verdict import Action, Verdict
from appliance.mailauth import author as authors

NAME = "own_domain"
STAGES: tuple[Stage, ...] = ("mail", "message")
GATE = False
OUTCOMES = {
    "ok": Action.DUNNO,
    "spoofed": Action.MARK,
    "forbidden": Action.REJECT,
    "foreign": Action.REJECT,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
    "table_error": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "forbidden": "550 5.7.1 Message refused: you may not use this domain",
    "foreign": "550 5.7.1 Sender address rejected: not owned by you",
    "table_error": "451 4.3.0 Sender address cannot be checked at the moment, please try again later",
}
_OK = Verdict(check=NAME, outcome="ok")


class Policy(knobs.Policy):
    protected: knobs.Texts = ()
    sources: knobs.Tables = ()


class Proof(NamedTuple):
    """What speaks for a domain: SPF of MAIL FROM, signatures, the domain that DMARC passed for ("" = none)."""

    spf: SpfReport = SpfReport(result="none")
    dkim: DkimReport = DkimReport()
    dmarc: str = ""

    def of(self, domain: str) -> str:
        """ "pass", "temperror" (it might) or ""."""
        if self.dmarc == domain or (self.spf.scope == "mfrom" and (self.spf.result, self.spf.domain) == ("pass", domain)):
            return "pass"
        signed = [item for item in self.dkim.signatures if not item.domain or is_below(domain, item.domain)]
        if any(item.result == "pass" and item.counts and item.domain for item in signed):
            return "pass"
        lost = self.spf.result == "temperror" and self.spf.domain == domain
        return "temperror" if lost or any(item.result == "temperror" for item in signed) else ""


def is_below(domain: str, parent: str) -> bool:
    """The domain itself, or a name below it."""
    return domain == parent or domain.endswith(f".{parent}")


def ours(domains: Iterable[str], ports: Ports) -> list[str] | Awaitable[list[str]]:
    """Those that are ours or below one of ours."""
    return chosen(domains, lambda domain: _is_ours(domain, ports))


def chosen(domains: Iterable[str], test: Callable[[str], bool | Awaitable[bool]]) -> list[str] | Awaitable[list[str]]:
    """The domains, each once, for which the test holds."""
    asked = [(domain, test(domain)) for domain in dict.fromkeys(domains) if domain]
    if any(waits(answer) for _, answer in asked):
        return _chosen_later(asked)
    return [domain for domain, answer in asked if answer]


async def _chosen_later(asked: list[tuple[str, bool | Awaitable[bool]]]) -> list[str]:
    return [domain for domain, answer in asked if await answered(answer)]


def _is_ours(domain: str, ports: Ports) -> bool | Awaitable[bool]:
    labels = domain.split(".")
    return any_of(ports.site.is_ours(".".join(labels[start:])) for start in range(len(labels)))


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    if ctx.sender is None or ctx.role == "reinject":
        return Verdict(check=NAME, outcome="skipped")
    if ctx.role == "outbound":
        return _leaving(ctx, ctx.sender.domain, policy, ports)
    if ctx.client.trusted_relay:
        return Verdict(check=NAME, outcome="skipped", reason="brought by a relay of ours")
    if ctx.content is None:
        return _at_mail(ctx, ctx.sender.domain, policy, ports)
    author = authors.of(ctx.content)
    content, used = ctx.content, ours((ctx.sender.domain, *author.domains), ports)
    return then(used, lambda found: _at_message(ctx, found, content, policy, ports) if found else _OK)


def _at_mail(ctx: Context, domain: str, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """A protected domain whose own record says no needs no further look."""
    authentication = ports.authentication
    if authentication is None or not knobs_trust.names(policy.protected, domain):
        return _OK
    ask = _ask(ctx)
    return then(ours((domain,), ports), lambda found: _refused_by_spf(authentication.spf(ask), domain) if found else _OK)


async def _refused_by_spf(answer: SpfReport | Awaitable[SpfReport], domain: str) -> Verdict:
    report = await answered(answer)
    if report.result != "fail":
        return _OK
    return Verdict(
        check=NAME, outcome="forbidden", reason=f"MAIL FROM of {domain}: SPF fails", evidence={"domain": domain}
    )


def _ask(ctx: Context) -> SpfAsk:
    return SpfAsk(ctx.client.address, ctx.helo, ctx.sender.text if ctx.sender else "")


async def _at_message(ctx: Context, used: Sequence[str], content: Content, policy: Policy, ports: Ports) -> Verdict:
    proof = Proof(dmarc=_dmarc(ctx, "pass"))
    if ports.authentication is not None and any(proof.of(domain) != "pass" for domain in used):
        spf = await answered(ports.authentication.spf(_ask(ctx)))
        proof = Proof(spf, await answered(ports.authentication.dkim(content)), proof.dmarc)
    return decide(used, proof, policy, _dmarc(ctx, "forwarded", "sealed"))


def _dmarc(ctx: Context, *outcomes: str) -> str:
    """The author's domain if the check dmarc found one of these, else ""."""
    for verdict in ctx.trail:
        if verdict.check == "dmarc" and verdict.outcome in outcomes:
            return str(verdict.evidence.get("facts", {}).get("header_from", ""))
    return ""


def decide(used: Sequence[str], proof: Proof, policy: Policy, vouched: str = "") -> Verdict:
    """The verdict on domains of ours that a stranger uses. `vouched`: a trusted forwarder stands for this one's mail."""
    results = {domain: proof.of(domain) for domain in used}
    bad = [domain for domain, result in results.items() if not result]
    open_ = [domain for domain, result in results.items() if result == "temperror"]
    if not bad and not open_:
        return _OK
    evidence = {"domains": results, "spf": proof.spf.result, "spf_domain": proof.spf.domain}
    if not bad:
        reason = f"whether {', '.join(open_)} passes cannot be known"
        return Verdict(check=NAME, outcome="temperror", reason=reason, evidence=evidence)
    listed = any(knobs_trust.names(policy.protected, domain) for domain in bad if domain != vouched)
    reason = f"{', '.join(bad)} without a pass: spf={proof.spf.result} {proof.spf.domain}"
    return Verdict(check=NAME, outcome="forbidden" if listed else "spoofed", reason=reason, evidence=evidence)


# -- outbound


def _leaving(ctx: Context, sender: str, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Mail of our own people."""
    return then(assigned(ctx, policy, ports), partial(_assigned, ctx, sender, ports))


def _assigned(ctx: Context, sender: str, ports: Ports, allowed: tuple[str, ...] | None) -> Verdict | Awaitable[Verdict]:
    """Mail of our own people, once it is known which domains are theirs."""
    if ctx.content is None:
        used: Sequence[str] = (sender,)
        return then(foreign(used, allowed, ports), lambda wrong: _foreign(wrong, "MAIL FROM", allowed))
    author, content = authors.of(ctx.content), ctx.content

    def judge(wrong: list[str]) -> Verdict | Awaitable[Verdict]:
        if not wrong or ports.authentication is None:
            return _foreign(wrong, "From", allowed)
        return _passed_on(wrong, content, allowed, ports)

    return then(foreign(author.domains, allowed, ports), judge)


async def _passed_on(wrong: Sequence[str], content: Content, allowed: tuple[str, ...] | None, ports: Ports) -> Verdict:
    """Others' mail with their signature intact is forwarded, not made up."""
    assert ports.authentication is not None
    proof = Proof(dkim=await answered(ports.authentication.dkim(content)))
    return _foreign([domain for domain in wrong if proof.of(domain) != "pass"], "From", allowed)


def assigned(ctx: Context, policy: Policy, ports: Ports) -> tuple[str, ...] | Awaitable[tuple[str, ...] | None] | None:
    """The domains that `sources` has for this client, () for a client that it does not have, None without the knob.
    Raises TableUnavailable if a table cannot be read, or an entry is no list of domains."""
    if not policy.sources:
        return None
    return then(search(opened(policy.sources, ports), client_keys(ctx.client.name, ctx.client.address)), _read_names)


def _read_names(found: Found | None) -> tuple[str, ...]:
    return knobs_trust.names_in(found) if found else ()


def foreign(domains: Iterable[str], allowed: tuple[str, ...] | None, ports: Ports) -> list[str] | Awaitable[list[str]]:
    """The domains that this client may not use, each once."""
    if allowed is not None:
        return [one for one in dict.fromkeys(domains) if one and not knobs_trust.names(allowed, one)]
    return chosen(domains, lambda domain: then(_is_ours(domain, ports), operator.not_))


def _foreign(wrong: Sequence[str], where: str, allowed: tuple[str, ...] | None) -> Verdict:
    if not wrong:
        return _OK
    whose = "ours" if allowed is None else "assigned to this client"
    return Verdict(
        check=NAME,
        outcome="foreign",
        reason=f"{where}: {', '.join(wrong)} is not {whose}",
        evidence={"domains": list(wrong), "where": where, "assigned": list(allowed or ())},
    )
