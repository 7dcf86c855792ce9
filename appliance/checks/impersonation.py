"""impersonation: what a reader takes for somebody else, in the display name or the author's domain (threats A12).

Outcomes: address_in_name (the display name holds an address of another domain than the author's), mixed_scripts (letters
that are mistaken for each other in one word, marks that turn the direction, hidden characters; in name or domain),
lookalike (the author's domain is near one of ours or of `domains`, or the name is that of one of `people` but the domain
is not theirs). Authors in our own domains are own_domain's business. Linear; what it finds is a sign, never certain.
What failure means for the mail: a table of people that cannot answer is table_error (shipped: put off); by all else
nothing but the mark is missing.
"""

from collections.abc import Awaitable, Sequence

from appliance.checks import knobs, knobs_trust
from appliance.mail.context import Context, Stage
from appliance.mail.later import then
from appliance.mail.lookup import Key, opened, search
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict
from appliance.mailauth import author as authors
from appliance.mailauth import lookalike
from appliance.mailauth.registrable import registrable

NAME = "impersonation"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {
    "ok": Action.DUNNO,
    "address_in_name": Action.MARK,
    "mixed_scripts": Action.MARK,
    "lookalike": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
    "table_error": Action.DEFER_IF_PERMIT,
}
REPLIES = {"table_error": "451 4.3.0 The author cannot be checked at the moment, please try again later"}
_OK = Verdict(check=NAME, outcome="ok")


class Policy(knobs.Policy):
    domains: knobs.Texts = ()
    people: knobs.Tables = ()


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    if ctx.content is None or ctx.role != "inbound":
        return Verdict(check=NAME, outcome="skipped")
    author = authors.of(ctx.content)
    if not author.domain:
        return Verdict(check=NAME, outcome="skipped", reason="From has no author")
    known = known_domains(policy, ports)
    return then(named(author.name, policy, ports), lambda theirs: decide(author, known, theirs))


def known_domains(policy: Policy, ports: Ports) -> tuple[str, ...]:
    """Domains that others may want to look like."""
    return tuple(
        sorted({name.lower().rstrip(".") for name in (*ports.site.our_domains, *policy.domains) if ":" not in name})
    )


def named(name: str, policy: Policy, ports: Ports) -> tuple[str, ...] | Awaitable[tuple[str, ...] | None] | None:
    """The domains from which the person of this name writes, None if nobody is called so. Raises TableUnavailable, also
    for an entry that is no list of domains."""
    found = search(opened(policy.people, ports), [Key(key, True) for key in lookalike.person(name)])
    return then(found, lambda hit: None if hit is None else knobs_trust.names_in(hit))


def decide(author: authors.Author, known: tuple[str, ...], theirs: Sequence[str] | None) -> Verdict:
    """The strongest of the signs. `theirs`: domains of the person whose name it is, None if it is nobody's."""
    if theirs is not None and not knobs_trust.names(theirs, author.domain):
        return _found("lookalike", f"{author.name} does not write from {author.domain}", author)
    if near := lookalike.near(author.domain, known):
        return _found("lookalike", f"{author.domain} looks like {near}", author)
    for what, text in (("name", author.name), ("domain", lookalike.shown(author.domain))):
        if mixed := lookalike.mixed_scripts(text):
            return _found("mixed_scripts", f"{what}: {mixed}", author)
    own = registrable(author.domain) or author.domain
    for domain in lookalike.addresses(author.name):
        if (registrable(domain) or domain) != own:
            return _found("address_in_name", f"an address of {domain} in the name of {author.address}", author)
    return _OK


def _found(outcome: str, reason: str, author: authors.Author) -> Verdict:
    return Verdict(check=NAME, outcome=outcome, reason=reason, evidence={"name": author.name, "address": author.address})
