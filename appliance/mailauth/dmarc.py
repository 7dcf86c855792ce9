"""DMARC (RFC 9989): does a pass of SPF or DKIM belong to the author's domain, and what does its owner ask for if not?

Contract: no IO but the `query` that is handed in; never raises. Only signatures that `counts` count, and SPF only of MAIL
FROM (of HELO for the null sender, threats A6). Names are compared as whole A-labels. What failure means for the mail: a
DNS failure on the only way that could have led to a pass is `temperror`, with the policy if that is known: never fail.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import msgspec

from appliance.mail.auth import DkimReport, DmarcReport, Signature, SpfReport
from appliance.mail.ports import Unavailable
from appliance.mailauth.dmarc_record import Policy, Record, choose
from appliance.mailauth.dmarc_walk import Discovery, Found, Query, Tree
from appliance.protocol.dns import Answer

#: Passing domains of signatures that are compared; a message has at most ten signatures that were verified.
MOST = 10
_WEAKER: dict[Policy, Policy] = {"reject": "quarantine", "quarantine": "none", "none": "none"}
_NONE = SpfReport(result="none")


class Ask(NamedTuple):
    """One message: the author's domain (A-labels), what SPF and DKIM found, whether MAIL FROM is `<>`. `dkim_only`: an
    SPF pass is not enough for this author (a network that many share)."""

    author: str
    spf: SpfReport | None = None
    dkim: DkimReport = DkimReport()
    null_sender: bool = False
    dkim_only: bool = False

    @property
    def usable_spf(self) -> SpfReport:
        """The SPF result that may count: of the identity that this message has."""
        scope = "helo" if self.null_sender else "mfrom"
        usable = self.spf is not None and self.spf.scope == scope and not self.dkim_only
        return self.spf if usable and self.spf is not None else _NONE


class _Path(NamedTuple):
    """A domain that SPF or DKIM speaks for. `alignment`: r or s, as the policy wants it."""

    method: Literal["spf", "dkim"]
    domain: str
    alignment: str


async def evaluate(ask: Ask, query: Query, discovery: Discovery = "treewalk") -> DmarcReport:
    """What DMARC says of one message."""
    tree = Tree(query, discovery)
    try:
        found = await tree.policy(ask.author)
    except Unavailable as error:
        return DmarcReport(result="temperror", domain=ask.author, reason=f"policy of {ask.author}: {error}")
    record = found.record
    if record is None:
        return DmarcReport(
            result="none", domain=ask.author, organizational=found.organizational, reason="no policy is published"
        )
    if record.broken and not record.rua:
        return _report("permerror", ask, found, record, reason="the policy has a wrong p, sp or np and no rua")
    aligned, away = await _aligned(tree, ask, record)
    organizational = tree.known(ask.author)
    found = msgspec.structs.replace(found, organizational=found.organizational or organizational)
    if aligned:
        return _report("pass", ask, found, record, aligned=aligned)
    try:
        policy = await _policy(tree, ask.author, found, record)
    except Unavailable as error:
        return _report("temperror", ask, found, record, reason=f"whether {ask.author} exists: {error}")
    if away:
        return _report("temperror", ask, found, record, policy, reason=away)
    return _report("fail", ask, found, record, policy, reason=_why(ask))


def _plainly_aligned(ask: Ask) -> frozenset[str]:
    """The methods that pass, if each passes for the very author: then no other record is needed, and no walk."""
    spf = ask.usable_spf
    by_spf = [spf.domain] if spf.result == "pass" and spf.domain else []
    signed = [one.domain for one in ask.dkim.signatures if one.result == "pass" and one.counts and one.domain]
    by_dkim = list(dict.fromkeys(signed))[:MOST] if len(signed) > 1 else signed
    methods = [name for name, domains in (("spf", by_spf), ("dkim", by_dkim)) if ask.author in domains]
    return frozenset(methods) if len(methods) == bool(by_spf) + bool(by_dkim) else frozenset()


class _NotAtHand(Exception):
    """A record would have to be asked for."""


def at_once(
    ask: Ask, cached: Callable[[str, str], Answer | None], discovery: Discovery = "treewalk"
) -> DmarcReport | None:
    """As evaluate, if every record that it needs is at hand; else None."""
    answer = cached(f"_dmarc.{ask.author}", "TXT")
    if answer is None:
        return None
    record = choose(answer.records)
    if record is not None and not record.broken and (methods := _plainly_aligned(ask)):
        return _report("pass", ask, Found(record, ask.author), record, aligned=methods)

    async def query(name: str, rtype: str) -> Answer:
        answer = cached(name, rtype)
        if answer is None:
            raise _NotAtHand
        return answer

    evaluation = evaluate(ask, query, discovery)
    try:
        evaluation.send(None)
    except StopIteration as end:
        report: DmarcReport = end.value
        return report
    except _NotAtHand:
        return None
    evaluation.close()
    return None


async def _aligned(tree: Tree, ask: Ask, record: Record) -> tuple[frozenset[str], str]:
    """The methods that pass for the author (reports name both), and what could not be checked of what might have passed
    ("" = nothing). Once a method is known to pass, nothing more is asked for it."""
    passing, open_ = _paths(ask, record)
    aligned: set[str] = {path.method for path in passing if path.domain == ask.author}
    away = ""
    for path in passing:
        try:
            if path.method not in aligned and await _related(tree, ask.author, path):
                aligned.add(path.method)
        except Unavailable as error:
            away = away or f"organizational domain of {path.domain}: {error}"
    if aligned:
        return frozenset(aligned), ""
    for path, why in open_:
        try:
            if path.domain == ask.author or await _related(tree, ask.author, path):
                away = away or why
        except Unavailable as error:
            away = away or f"organizational domain of {path.domain}: {error}"
    return frozenset(), away


def _paths(ask: Ask, record: Record) -> tuple[list[_Path], list[tuple[_Path, str]]]:
    """(what passes, what DNS kept from being known and why)."""
    spf = ask.usable_spf
    of_spf = _Path("spf", spf.domain, record.aspf)
    passing = [of_spf] if spf.result == "pass" and spf.domain else []
    open_ = [(of_spf, f"SPF of {spf.domain}: {spf.reason}")] if spf.result == "temperror" and spf.domain else []
    for signature in _distinct(ask.dkim.signatures):
        path = _Path("dkim", signature.domain or ask.author, record.adkim)
        if signature.result == "pass":
            passing.append(path)
        else:
            what = f"key of {signature.selector}._domainkey.{signature.domain}" if signature.domain else "signatures"
            open_.append((path, f"{what}: {signature.reason}"))
    return passing, open_


def _distinct(signatures: Iterable[Signature]) -> list[Signature]:
    """One a domain: passes that count, then those that were left open (without a domain: of a content that could not be
    read, so they may be anybody's)."""
    good = [found for found in signatures if found.result == "pass" and found.counts and found.domain]
    lost = [found for found in signatures if found.result == "temperror"]
    first: dict[str, Signature] = {}
    for found in (*good, *lost):
        first.setdefault(found.domain, found)
    return list(first.values())[:MOST]


async def _related(tree: Tree, author: str, path: _Path) -> bool:
    """Relaxed alignment: the same organizational domain. Raises Unavailable."""
    if path.alignment == "s" or not path.domain or path.domain.rpartition(".")[2] != author.rpartition(".")[2]:
        return False
    organizational = await tree.organizational(author)
    if path.domain != organizational and not path.domain.endswith(f".{organizational}"):
        return False
    return await tree.organizational(path.domain) == organizational


async def _policy(tree: Tree, author: str, found: Found, record: Record) -> Policy:
    """What the owner asks for; with `t=y` he expects the next weaker one. Raises Unavailable."""
    if record.broken:
        return "none"
    asked: Policy = record.p
    if found.domain != author:
        asked = record.sp or record.p
        if record.np and record.np != asked and not await tree.exists(author):
            asked = record.np
    return _WEAKER[asked] if record.testing else asked


def _why(ask: Ask) -> str:
    """A failure in words."""
    spf = ask.spf or _NONE
    signed = ", ".join(f"dkim={found.result} d={found.domain}" for found in ask.dkim.signatures[:MOST]) or "no signature"
    only = "; a DKIM signature is required" if ask.dkim_only else ""
    return f"nothing passes for {ask.author}: spf={spf.result} {spf.scope} {spf.domain}, {signed}{only}"


def _report(
    result: Literal["pass", "fail", "permerror", "temperror"],
    ask: Ask,
    found: Found,
    record: Record,
    policy: Policy | Literal[""] = "",
    *,
    aligned: frozenset[str] = frozenset(),
    reason: str = "",
) -> DmarcReport:
    return DmarcReport(
        result=result,
        domain=ask.author,
        policy_domain=found.domain,
        organizational=found.organizational,
        policy=policy,
        spf_aligned="spf" in aligned,
        dkim_aligned="dkim" in aligned,
        testing=record.testing,
        record=record.text,
        reason=reason,
        facts={"published": published(found.domain, record)},
    )


def published(domain: str, record: Record) -> dict[str, Any]:
    """The policy as RFC 9990 reports it."""
    return {
        "domain": domain,
        "p": record.p,
        "sp": record.sp or record.p,
        "np": record.np or record.sp or record.p,
        "adkim": record.adkim,
        "aspf": record.aspf,
        "testing": "y" if record.testing else "n",
        "fo": record.fo or "0",
        "rua": list(record.rua),
    }
