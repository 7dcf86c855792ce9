"""SPF (RFC 7208): may this client send mail for this domain? Evaluated by pyspf, asked through our resolver.

Contract: `evaluate` never raises for what a sender or a record says; it answers at once where all of DNS is at hand, else
with something to await. Limits are those of RFC 7208 4.6.4 (10 terms that ask, 10 MX or PTR names; the number of void
look-ups is a knob) and a cap on questions and octets; the time is bounded by the resolver that is given. What DNS could
not answer is `temperror`, never `none`, `fail` or `permerror`, in ptr and %{p} too (RFC 7208 5.5 lets those fail).
What failure means for the mail: see the check.
"""

from collections.abc import Awaitable
from functools import partial
from ipaddress import ip_address

from appliance.mail.auth import SpfAsk, SpfReport, Word
from appliance.mail.ports import Resolver
from appliance.mailauth import bridge
from appliance.mailauth.spf_lookups import Limits
from appliance.mailauth.spf_query import Query
from appliance.mailauth.spf_terms import plain

__all__ = ["Limits", "evaluate", "identity"]

_WORDS: dict[str, Word] = {
    "none": "none",
    "neutral": "neutral",
    "pass": "pass",
    "fail": "fail",
    "softfail": "softfail",
    "permerror": "permerror",
    "temperror": "temperror",
}
_LDH = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def identity(ask: SpfAsk) -> tuple[str, str, str]:
    """(scope, local part, domain) that is judged: MAIL FROM, or HELO for `<>`. The domain is "" if it is no host name
    of at least two labels (an address literal, say): that has no record."""
    if ask.sender:
        local, _, domain = ask.sender.rpartition("@")
        return "mfrom", local or "postmaster", _domain(domain)
    return "helo", "postmaster", _domain(ask.helo)


def _domain(text: str) -> str:
    domain = text.lower().removesuffix(".")
    labels = domain.split(".")
    fits = (
        len(domain) <= 253 and len(labels) > 1 and all(0 < len(label) < 64 and _LDH.issuperset(label) for label in labels)
    )
    return domain if fits else ""


def evaluate(resolver: Resolver, ask: SpfAsk, limits: Limits) -> SpfReport | Awaitable[SpfReport]:
    """The report on this ask. Raises ValueError if `ask.address` is no IP address."""
    scope, local, domain = identity(ask)
    report = SpfReport(result="none", scope="helo" if scope == "helo" else "mfrom", domain=domain)
    if not domain:
        claimed = ask.sender.rpartition("@")[2] if ask.sender else ask.helo
        return SpfReport(result="none", scope=report.scope, reason=f"not a domain name: {plain(claimed, 80)}")
    address = str(ip_address(ask.address.partition("%")[0]))  # pyspf takes words for addresses, too
    query = Query(resolver, limits, address, ask.helo, local, domain)
    return bridge.run(partial(_judge, query, report))


def _judge(query: Query, start: SpfReport) -> SpfReport:
    word = _WORDS[query.check()[0]]
    explanation = query.explanation() if word == "fail" else ""
    terms = query.trail.report(word)
    return SpfReport(
        result=word,
        scope=start.scope,
        domain=start.domain,
        matched=plain(query.mechanism or "") if word not in ("none", "permerror", "temperror") else "",
        reason=_reason(query, word),
        explanation=explanation,
        record=plain(query.record, 1000),
        terms=terms,
        lookups=query.lookups,
        voids=query.void_lookups,
        ttl=0 if word == "temperror" else query.ttl,
        broad=query.trail.broad,
        personal=query.personal,
    )


def _reason(query: Query, word: Word) -> str:
    if word in ("permerror", "temperror"):
        where = f" ({' '.join(query.mech)})" if query.mech else ""
        return plain(f"{query.prob}{where}", 300)
    if word == "none":
        return "no SPF record"
    return "" if query.mechanism else "no term matches"
