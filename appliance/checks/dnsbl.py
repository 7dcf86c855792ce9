"""dnsbl: block and allow lists in DNS (RFC 5782): what they say of the client, its names, the sender and links in a body.

The weights of all lists that hit are added up, over all stages of the connection: what an earlier stage asked is not
asked again, its sum is taken over. A list counts once for each thing it is asked about. Trusted relays, loopback and
private addresses are not asked about (nor are the names that come with them).
Outcomes: listed (the sum is `threshold` or more), allowed (-`allow_threshold` or less), unlisted, skipped (no list is
configured, or nothing that one could be asked about).
What failure means for the mail: a list that does not answer, answers with an error code (127.255.255.x, anything outside
127/8) or is dead counts nothing; where its answer could have made it `listed`, or kept it from that, the outcome is
`temperror`: never listed, never clean.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from appliance.checks import knobs
from appliance.mail.budget import Budget
from appliance.mail.context import Context, Stage
from appliance.mail.dns_list import Kind, Site, address_label, error, host, parse_site
from appliance.mail.later import answered
from appliance.mail.ports import DnsLists, Ports, Resolver, Unavailable
from appliance.mail.verdict import Action, Verdict
from appliance.mailauth.registrable import registrable
from appliance.protocol.dns import Answer

NAME = "dnsbl"
STAGES: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt", "message")
GATE = False
OUTCOMES = {
    "unlisted": Action.DUNNO,
    "allowed": Action.DUNNO,
    "listed": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "listed": "554 5.7.1 Service unavailable: your host, name or message is on a block list",
}
_NONE = Verdict(check=NAME, outcome="skipped", reason="no list is configured")
_NOTHING = Verdict(check=NAME, outcome="skipped", reason="nothing that a list could be asked about")
#: Octets of a list's own words that are kept.
_REASON = 200
#: Hosts of links that are looked at: thousands would hold others up.
_HOSTS = 500


def _lists(value: tuple[str, ...], *, proven: bool) -> tuple[str, ...]:
    for text in value:
        if parse_site(text).weight < 0 and not proven:
            raise ValueError(f"{text!r}: anybody can use any name here, an allow list would prove nothing")
    return value


_Texts = Annotated[tuple[str, ...], knobs.BeforeValidator(knobs.one_or_more)]
Lists = Annotated[_Texts, AfterValidator(partial(_lists, proven=True))]
BlockLists = Annotated[_Texts, AfterValidator(partial(_lists, proven=False))]


class Policy(knobs.Policy):
    """Lists by what they are asked about. `client`: address; the others: registrable domain."""

    client: Lists = ()
    client_name: Lists = ()
    reverse_name: BlockLists = ()
    helo_name: BlockLists = ()
    sender: BlockLists = ()
    links: BlockLists = ()
    threshold: Annotated[int, Field(ge=1)] = 1
    allow_threshold: Annotated[int, Field(ge=1)] = 1
    link_domains: Annotated[int, Field(ge=1, le=200)] = 20
    questions: Annotated[int, Field(ge=1, le=1000)] = 200
    without_test_entry: _Texts = ()


SUBJECTS = ("client", "client_name", "reverse_name", "helo_name", "sender", "links")


class Ask(NamedTuple):
    """One list asked about one thing: `subject` is the knob, `about` what it is ("192.0.2.1")."""

    subject: str
    about: str
    label: str
    site: Site

    @property
    def question(self) -> tuple[str, str]:
        return f"{self.label}.{self.site.zone}", "A"


class Found(NamedTuple):
    """What a list said: codes that are a listing, or why it said nothing."""

    ask: Ask
    codes: tuple[str, ...] = ()
    trouble: str = ""
    ttl: int = 0


def kind_of(subject: str) -> Kind:
    """What lists under this knob hold."""
    return "address" if subject == "client" else "domain"


def subjects(ctx: Context, policy: Policy) -> Iterator[tuple[str, str, str]]:
    """(knob, thing, label) of what is known of the connection and wanted by a list."""
    client = ctx.client
    outside = address_label(client.address) if not client.trusted_relay else ""
    if outside:
        if policy.client:
            yield "client", client.address, outside
        names = ("client_name", client.name), ("reverse_name", client.reverse_name), ("helo_name", ctx.helo)
        for subject, name in names:
            if getattr(policy, subject) and (domain := registrable(host(name))):
                yield subject, name, domain
    if policy.sender and ctx.sender is not None and (domain := registrable(host(ctx.sender.domain))):
        yield "sender", ctx.sender.domain, domain


def earlier(ctx: Context) -> tuple[frozenset[str], float]:
    """What an earlier stage asked about, and the sum it came to."""
    asked: set[str] = set()
    total = 0.0
    for verdict in ctx.trail:
        if verdict.check == NAME and verdict.stage != ctx.stage and verdict.evidence:
            asked.update(verdict.evidence.get("asked", ()))
            total = verdict.score
    return frozenset(asked), total


def asks(things: Iterable[tuple[str, str, str]], policy: Policy, lists: DnsLists | None) -> tuple[list[Ask], list[str]]:
    """The questions, and the lists that are dead."""
    found: list[Ask] = []
    dead: dict[str, None] = {}
    for subject, about, label in things:
        for text in getattr(policy, subject):
            site = parse_site(text)
            if lists is not None and (why := lists.trouble(site.zone, kind_of(subject))):
                dead[f"{site.shown}: {why}"] = None
            elif len(label) + len(site.zone) < 253:
                found.append(Ask(subject, about, label, site))
    return found, list(dead)


def read(ask: Ask, answer: Answer | Unavailable) -> Found:
    """What an answer means."""
    if isinstance(answer, Unavailable):
        return Found(ask, trouble="no answer")
    if wrong := next(filter(None, map(error, answer.records)), ""):
        return Found(ask, trouble=wrong)
    return Found(ask, tuple(code for code in answer.records if ask.site.listed(code)), ttl=answer.ttl)


def weigh(found: Sequence[Found]) -> tuple[int, int, int]:
    """The sum, and what it could be at least and at most if all had answered. Each list counts once a subject."""
    hits = {(one.ask.subject, one.ask.site) for one in found if one.codes}
    silent = {(one.ask.subject, one.ask.site) for one in found if one.trouble} - hits
    total = sum(site.weight for _, site in hits)
    doubt = [site.weight for _, site in silent]
    return total, total + sum(w for w in doubt if w < 0), total + sum(w for w in doubt if w > 0)


def decide(found: Sequence[Found], policy: Policy, before: float) -> tuple[str, float]:
    """The outcome and the sum. `before`: the sum of earlier stages; what is found now must add to it to be a listing."""
    total, least, most = (before + number for number in weigh(found))
    if total > before or not before:
        if least >= policy.threshold:
            return "listed", total
        if most >= policy.threshold:
            return "temperror", total
    elif most > before and most >= policy.threshold:
        return "temperror", total
    return "allowed" if most <= -policy.allow_threshold else "unlisted", total


def _evidence(found: Sequence[Found], policy: Policy, dead: list[str], reasons: dict[Ask, str]) -> dict[str, Any]:
    hits = [
        {
            "list": one.ask.site.shown,
            "subject": one.ask.subject,
            "about": one.ask.about,
            "codes": list(one.codes),
            "weight": one.ask.site.weight,
            "ttl": one.ttl,
            "reason": reasons.get(one.ask, ""),
        }
        for one in found
        if one.codes
    ]
    silent = list(dict.fromkeys(f"{one.ask.site.shown}: {one.trouble}" for one in found if one.trouble))
    facts: dict[str, Any] = {
        "asked": list(dict.fromkeys(one.ask.subject for one in found)),
        "threshold": policy.threshold,
    }
    return facts | {key: value for key, value in (("lists", hits), ("unanswered", silent), ("dead", dead)) if value}


def verdict(
    found: Sequence[Found], policy: Policy, before: float, dead: list[str], reasons: dict[Ask, str] | None = None
) -> Verdict:
    """All answers as a verdict; `reasons` are the lists' own words."""
    evidence = _evidence(found, policy, dead, reasons or {})
    if not found:
        return Verdict(
            check=NAME, outcome="temperror", reason=f"no list can be asked: {'; '.join(dead)}", evidence=evidence
        )
    outcome, total = decide(found, policy, before)
    evidence["sum"] = total
    said = [
        f"{hit['about']} on {hit['list']} ({', '.join(hit['codes'])}, weight {hit['weight']}"
        + (f": {hit['reason']})" if hit["reason"] else ")")
        for hit in evidence.get("lists", ())
    ]
    reason = "; ".join([*said, *evidence.get("unanswered", ())])
    return Verdict(
        check=NAME,
        outcome=outcome,
        reason=f"{reason}; sum {total:g} of {policy.threshold}" if reason else "",
        score=total,
        evidence=evidence,
    )


def hear(found: Iterable[Found], lists: DnsLists | None) -> None:
    """Tell the watch over the lists what came of the questions."""
    if lists is not None:
        for one in found:
            lists.heard(one.ask.site.zone, kind_of(one.ask.subject), one.trouble)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Ask every list at once; what is at hand costs no waiting."""
    if ports.resolver is None or not any(getattr(policy, subject) for subject in SUBJECTS):
        return _NONE
    known, before = earlier(ctx)
    things = [thing for thing in subjects(ctx, policy) if thing[0] not in known]
    if ctx.stage == "message" and policy.links and ctx.content is not None and ports.inspector is not None:
        return _with_links(ctx, policy, ports, things, before)
    if not things:
        return _NOTHING
    questions, dead = asks(things, policy, ports.dns_lists)
    found = []
    for ask in questions:
        answer = ports.resolver.cached(*ask.question)
        if answer is None or answer.records:
            return _ask(questions, dead, policy, ports, before)
        found.append(Found(ask))
    return verdict(found, policy, before, dead)


async def _with_links(
    ctx: Context, policy: Policy, ports: Ports, things: list[tuple[str, str, str]], before: float
) -> Verdict:
    """The domains of links in text and HTML too, as far as there are not too many of them."""
    assert ports.inspector is not None and ctx.content is not None
    report = (await ports.inspector.inspect(ctx.content)).report
    domains = await link_domains(report.hosts, ports.site.is_ours)
    things += [("links", domain, domain) for domain in domains[: policy.link_domains]]
    if not things:
        return _NOTHING
    questions, dead = asks(things, policy, ports.dns_lists)
    found = await _ask(questions, dead, policy, ports, before)
    if len(domains) > policy.link_domains or len(report.hosts) > _HOSTS:
        found.evidence["more_links"] = True
    return found


async def link_domains(hosts: Sequence[str], is_ours: Callable[[str], bool | Awaitable[bool]]) -> list[str]:
    """The registrable domains of strangers among the hosts, each once, in their order."""
    domains = dict.fromkeys(registrable(host(name)) for name in hosts[:_HOSTS])
    return [domain for domain in domains if domain and not await answered(is_ours(domain))]


async def _ask(questions: list[Ask], dead: list[str], policy: Policy, ports: Ports, before: float) -> Verdict:
    assert ports.resolver is not None
    budget = Budget(ports.resolver, policy.questions)
    distinct = list(dict.fromkeys(ask.question for ask in questions))
    answers = dict(zip(distinct, await budget.query_all(distinct), strict=True))
    found = [read(ask, answers[ask.question]) for ask in questions]
    hear(found, ports.dns_lists)
    return verdict(found, policy, before, dead, await _reasons(found, budget))


async def _reasons(found: Sequence[Found], resolver: Resolver) -> dict[Ask, str]:
    """The lists' own words (TXT) about what they list, for the operator's log; nobody depends on them."""
    hits = [one.ask for one in found if one.codes]
    if not hits:
        return {}
    distinct = list(dict.fromkeys((ask.question[0], "TXT") for ask in hits))
    answers = dict(zip(distinct, await resolver.query_all(distinct), strict=True))
    heard = {ask: answers[ask.question[0], "TXT"] for ask in hits}
    return {ask: said.records[0][:_REASON] for ask, said in heard.items() if isinstance(said, Answer) and said.records}
