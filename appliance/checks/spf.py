"""spf: may this client send for the domain of MAIL FROM (RFC 7208)? For `<>` the HELO name is judged (threats A6).

Stands at mail. Outcomes: the seven results of RFC 7208; `broad`: a pass by a record that lets in so much of the Internet
(`+all`, huge networks) that it proves nobody; `helo_fail`: with `judge_helo`, MAIL FROM did not fail but the HELO name's
own record says no; `skipped`: trusted relays and unix sockets, whose address says nothing about the sender, and mail of
our own people. Each result goes into Authentication-Results and, that of the judged identity, into Received-SPF.
Exceptions may set `judge_helo` and `received_spf`; the other knobs are those of the file: results are shared.
What failure means for the mail: what DNS did not answer in time is temperror (shipped: mark), never none or fail.
"""

from collections.abc import Awaitable, Hashable
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from pydantic import Field

from appliance.checks import knobs
from appliance.mail import authres
from appliance.mail.auth import SpfAsk, SpfReport
from appliance.mail.context import Context, Stage
from appliance.mail.edits import Edit
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "spf"
STAGES: tuple[Stage, ...] = ("mail",)
GATE = False
OUTCOMES = {
    "pass": Action.DUNNO,
    "broad": Action.DUNNO,
    "none": Action.DUNNO,
    "neutral": Action.DUNNO,
    "softfail": Action.MARK,
    "fail": Action.MARK,
    "helo_fail": Action.MARK,
    "permerror": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "fail": "550 5.7.23 Sender address rejected: the domain does not let this client send its mail",
    "helo_fail": "550 5.7.23 Access denied: the domain of your HELO name does not let this client use it",
    "softfail": "550 5.7.23 Sender address rejected: the domain does not expect mail from this client",
    "permerror": "550 5.7.24 Sender address rejected: the SPF record of the domain is broken",
}

#: What the comment in Received-SPF says, by result (RFC 7208 9.1 shows some of them).
_SAYS = {
    "pass": "domain of {0} designates {1} as permitted sender",
    "fail": "domain of {0} does not designate {1} as permitted sender",
    "softfail": "domain of {0} does not designate {1} as permitted sender, but does not insist",
    "neutral": "domain of {0} says nothing about {1}",
    "none": "domain of {0} has no SPF record",
    "permerror": "the SPF record of {0} cannot be understood",
    "temperror": "DNS did not answer about {0}",
}


class Policy(knobs.Policy):
    judge_helo: bool = False
    received_spf: bool = True
    void_limit: knobs.Count = 2
    deadline: knobs.Duration = 20.0
    broad_ipv4_prefix: Annotated[int, Field(ge=1, le=32)] = 10
    broad_ipv6_prefix: Annotated[int, Field(ge=1, le=128)] = 24


@lru_cache(maxsize=4096)
def result(word: str, scope: str, domain: str) -> str:
    """One result for Authentication-Results."""
    return authres.result("spf", word, {"smtp.helo" if scope == "helo" else "smtp.mailfrom": domain})


@lru_cache(maxsize=4096)
def received_spf(receiver: str, ask: SpfAsk, word: str, scope: str, domain: str, term: str) -> Edit:
    """The Received-SPF field (RFC 7208 9.1); `term` is what decided it, or what is wrong."""
    pairs = {
        "client-ip": ask.address,
        "envelope-from": ask.sender,
        "helo": ask.helo,
        "receiver": receiver,
        "identity": "helo" if scope == "helo" else "mailfrom",
        "problem" if word in ("permerror", "temperror") else "mechanism": term,
    }
    says = _SAYS[word].format(domain or "the sender", ask.address)
    return authres.received_spf(word, pairs, f"{receiver}: {says}")


def outcome_of(report: SpfReport, helo: SpfReport | None) -> str:
    """The outcome of the identity judged, and of the HELO name where that is judged too."""
    if helo is not None and helo.result == "fail" and report.result != "fail":
        return "helo_fail"
    return "broad" if report.result == "pass" and report.broad else report.result


def decide(ask: SpfAsk, report: SpfReport, helo: SpfReport | None, policy: Policy, receiver: str) -> Verdict:
    """What was found, as a verdict; `helo` is the report on the HELO name beside that on MAIL FROM."""
    outcome = outcome_of(report, helo)
    deciding = helo if helo is not None and outcome == "helo_fail" else report
    evidence = {"address": ask.address, "helo": ask.helo, "sender": ask.sender, **_plain(report)}
    results = [result(report.result, report.scope, report.domain)]
    if helo is not None:
        results.append(result(helo.result, helo.scope, helo.domain))
        evidence["of_helo"] = _plain(helo)
    edits: tuple[Edit, ...] = ()
    if policy.received_spf:
        term = report.matched or report.reason
        edits = (received_spf(receiver, ask, report.result, report.scope, report.domain, term),)
    return Verdict(
        check=NAME,
        outcome=outcome,
        reason=in_words(deciding),
        edits=edits,
        authres=tuple(results),
        evidence=evidence,
        until=report.until if helo is None else min(report.until, helo.until),
    )


def _plain(report: SpfReport) -> dict[str, Any]:
    """What an evaluation found."""
    found: dict[str, Any] = msgspec.to_builtins(report)
    found.pop("until", None)
    return found


def in_words(report: SpfReport) -> str:
    """For the log: "fail of example.org by -all"."""
    why = f" by {report.matched}" if report.matched else f": {report.reason}" if report.reason else ""
    return f"{report.result} of {report.domain or 'no domain'}{' (HELO)' if report.scope == 'helo' else ''}{why}"


def _skipped(why: str) -> Verdict:
    return Verdict(check=NAME, outcome="skipped", reason=why)


def key(ctx: Context) -> Hashable:
    """See checks."""
    client, sender = ctx.client, ctx.sender
    return None if sender is None else (client.address, client.trusted_relay, ctx.role, ctx.helo, sender.text)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    client, sender, port = ctx.client, ctx.sender, ports.authentication
    if sender is None or ctx.role != "inbound" or port is None:
        return _skipped("no mail of a stranger")
    if client.trusted_relay or client.address == "local":
        return _skipped("the client is no stranger, and its address is not the sender's")
    ask = SpfAsk(client.address, ctx.helo, sender.text)
    answer = port.spf(ask)
    helo = port.spf(SpfAsk(client.address, ctx.helo, "")) if policy.judge_helo and ask.sender else None
    if isinstance(answer, SpfReport) and (helo is None or isinstance(helo, SpfReport)):
        return decide(ask, answer, helo, policy, ports.site.hostname)
    return _decide_later(ask, answer, helo, policy, ports.site.hostname)


async def _decide_later(
    ask: SpfAsk,
    answer: SpfReport | Awaitable[SpfReport],
    helo: SpfReport | Awaitable[SpfReport] | None,
    policy: Policy,
    receiver: str,
) -> Verdict:
    report = answer if isinstance(answer, SpfReport) else await answer
    other = helo if helo is None or isinstance(helo, SpfReport) else await helo
    return decide(ask, report, other, policy, receiver)
