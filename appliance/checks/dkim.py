"""dkim: what the DKIM signatures of a message prove (RFC 6376, 8301, 8463), and whether one is sent to the whole world.

Stands at message, before dmarc and identity. All who ask share one evaluation. Outcomes: pass (a signature counts: valid,
the whole body, From signed, nothing doubled that may stand once); replayed (one that counts was seen from more client
networks than `replay_networks` within `replay_period`: someone sends a good message to the world; direct mail of the
signer and of trusted relays is not counted); policy (valid, but weak, expired or signed in part: it does not count);
fail, permerror (none counts; the best of them did not verify, or could not); neutral (the header is too long to be
verified); none; skipped (nothing to verify with). One result a signature goes into Authentication-Results.
What failure means for the mail: temperror if none counts and DNS could not give a key, or if the store is away.
"""

from collections.abc import Awaitable, Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from pydantic import Field

from appliance.checks import knobs
from appliance.checks.knobs import Duration
from appliance.mail import authres
from appliance.mail.auth import DkimReport, Signature
from appliance.mail.context import Context, Stage
from appliance.mail.network import network
from appliance.mail.ports import Ports, RateAsk, Rates, Unavailable
from appliance.mail.verdict import Action, Verdict

NAME = "dkim"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {
    "pass": Action.DUNNO,
    "none": Action.DUNNO,
    "neutral": Action.MARK,
    "policy": Action.MARK,
    "fail": Action.MARK,
    "permerror": Action.MARK,
    "replayed": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "fail": "550 5.7.20 No passing DKIM signature found",
    "replayed": "550 5.7.1 Message refused: it has been seen too often",
}
#: Signatures of one message whose replay is counted.
COUNTED = 3
#: What stands for all signatures if none counts: the first of these that one of them has.
_BEST = ("temperror", "policy", "fail", "permerror", "neutral")


class Policy(knobs.Policy):
    min_bits: Annotated[int, Field(ge=512, le=8192)] = 1024
    signatures: Annotated[int, Field(ge=1, le=50)] = 10
    skew: Duration = 300.0
    testing_counts: bool = False
    replay_networks: knobs.Count = 50
    replay_period: Duration = 86400.0


def decide(report: DkimReport) -> tuple[str, str]:
    """(outcome, reason) of all signatures together."""
    signatures = report.signatures
    if not signatures:
        return "none", ""
    if counting := [one for one in signatures if one.counts]:
        return "pass", f"signature of {counting[0].domain}"
    results = {"policy" if one.result == "pass" else one.result: one for one in reversed(signatures)}
    best = next(word for word in _BEST if word in results)
    return best, f"signature of {results[best].domain or 'nobody'}: {results[best].reason}"


def result(one: Signature) -> str:
    """One signature for Authentication-Results (RFC 8601 2.7.1, 6008)."""
    # What went wrong in DNS names our own servers: that is for the log.
    reason = one.reason if one.result != "temperror" else ""
    steady = _steady(one.result, one.domain, one.identity, one.selector, one.algorithm, reason)
    octets = authres.value(one.signature)
    return f"{steady} header.b={octets}" if octets else steady


@lru_cache(maxsize=1024)
def _steady(word: str, domain: str, identity: str, selector: str, algorithm: str, reason: str) -> str:
    """What is the same in each message of a signer."""
    properties = {"header.d": domain, "header.i": identity, "header.s": selector, "header.a": algorithm}
    return authres.result("dkim", word, properties, reason)


def evidence(report: DkimReport) -> dict[str, Any]:
    """What was found of each signature."""
    listed = [
        {
            "result": one.result,
            "d": one.domain,
            "s": one.selector,
            "i": one.identity,
            "a": one.algorithm,
            "bits": one.bits,
            "counts": one.counts,
            "reason": one.reason,
            "digest": one.digest,
        }
        for one in report.signatures
    ]
    return {"signatures": listed, "unread": report.unread}


def judged(report: DkimReport) -> Verdict:
    """The report as a verdict."""
    outcome, reason = decide(report)
    results = tuple(result(one) for one in report.signatures) or ("dkim=none",)
    return Verdict(check=NAME, outcome=outcome, reason=reason, authres=results, evidence=evidence(report))


def replayable(ctx: Context, signatures: Iterable[Signature]) -> list[Signature]:
    """Those that could be replays: that count and do not come from their signer directly (its confirmed host name, or a
    MAIL FROM of its domain with SPF pass)."""
    if ctx.client.trusted_relay:
        return []
    return [one for one in signatures if one.counts and not _is_direct(ctx, one.domain)][:COUNTED]


def _is_direct(ctx: Context, signer: str) -> bool:
    if ctx.client.proof == "pass" and _below(ctx.client.name, signer):
        return True
    if ctx.sender is None or not _below(ctx.sender.domain, signer):
        return False
    return any(one.check == "spf" and one.outcome == "pass" for one in ctx.trail)


def _below(name: str, domain: str) -> bool:
    return f".{name.lower()}".endswith(f".{domain}")


def replay_asks(one: Signature, net: str, policy: Policy) -> tuple[RateAsk, RateAsk, RateAsk]:
    """Taken together or not at all: a network that has been counted is over its limit of one, so its repeats take nothing
    from the signature's bucket. The third only shows whether there was one network too many before."""
    key = f"dkim:{one.domain}:{one.digest}"
    return (
        RateAsk(f"{key}/{net}", 1.0, 1.0, policy.replay_period),
        RateAsk(key, 1.0, float(policy.replay_networks), policy.replay_period),
        RateAsk(f"{key}/over", 0.0, 1.0, policy.replay_period),
    )


async def _is_replayed(store: Rates, asks: tuple[RateAsk, RateAsk, RateAsk], now: float) -> bool:
    """A new network over the limit makes every later copy a replay, until the period has passed."""
    new, room, over = await store.take(asks, now)
    if over < 1.0:
        return True
    if new < 0 or room >= 0:
        return False
    await store.take([msgspec.structs.replace(asks[2], cost=1.0)], now)
    return True


async def _counted(store: Rates, found: Sequence[Signature], verdict: Verdict, ctx: Context, policy: Policy) -> Verdict:
    net = network(ctx.client.address)
    try:
        for one in found:
            if await _is_replayed(store, replay_asks(one, net, policy), ctx.now):
                return replayed(verdict, one, policy)
    except Unavailable as error:
        return msgspec.structs.replace(verdict, outcome="temperror", reason=f"{verdict.reason}; not counted: {error}")
    return verdict


def replayed(verdict: Verdict, one: Signature, policy: Policy) -> Verdict:
    reason = f"signature of {one.domain} seen from more than {policy.replay_networks} networks"
    seen = {"d": one.domain, "digest": one.digest, "limit": policy.replay_networks, "period": policy.replay_period}
    found = {**verdict.evidence, "replay": seen}
    return msgspec.structs.replace(verdict, outcome="replayed", reason=reason, evidence=found)


def finish(report: DkimReport, ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """The verdict, after a question to the store if a signature could be replayed."""
    verdict = judged(report)
    if not policy.replay_networks or ports.rates is None or not (found := replayable(ctx, report.signatures)):
        return verdict
    return _counted(ports.rates, found, verdict, ctx, policy)


async def _later(asked: Awaitable[DkimReport], ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    answer = finish(await asked, ctx, policy, ports)
    return answer if isinstance(answer, Verdict) else await answer


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    if ports.authentication is None or ctx.content is None:
        return Verdict(check=NAME, outcome="skipped", reason="nothing to verify")
    report = ports.authentication.dkim(ctx.content)
    return finish(report, ctx, policy, ports) if isinstance(report, DkimReport) else _later(report, ctx, policy, ports)
