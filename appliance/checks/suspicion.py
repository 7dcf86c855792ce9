"""suspicion: several weak findings added up to one score.

What the checks before it found (also those that are watched or mark nothing) and the signs of the wire have weights; each
finding counts once, whatever the number of recipients. At rcpt it is what is known of the client and the envelope, at
message everything. Negative weights speak for the sender. Greylisting takes `raised` and `high` as reasons; a policy may
do more (`[on] high = "reject"`). A finding that could not be made (temperror, skipped) has no weight unless one is given.
Outcomes: low, raised, high; skipped for relays of ours. The score and what made it are in the verdict.
What failure means for the mail: nothing; the check needs nothing from outside.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "suspicion"
STAGES: tuple[Stage, ...] = ("rcpt", "message")
GATE = False
ENVELOPE = True
OUTCOMES = {
    "low": Action.DUNNO,
    "raised": Action.DUNNO,
    "high": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "high": "550 5.7.1 Message refused: too many things speak against it",
}
#: What is seen on the wire (Context.signs), as findings: "sign:early_talk".
SIGN = "sign"
SIGNS = ("early_talk", "bare_lf", "bare_cr", "nul", "lenient_syntax", "pipelining", "bad_helo")

#: The shipped weights: "check:outcome" or "sign:NAME".
WEIGHTS: dict[str, float] = {
    "sign:early_talk": 3,
    "sign:pipelining": 1,
    "sign:bare_lf": 1,
    "sign:nul": 1,
    "rdns:none": 1,
    "rdns:unconfirmed": 1,
    "helo:malformed": 1,
    "helo:literal_mismatch": 2,
    "spf:softfail": 1,
    "spf:fail": 2,
    "spf:helo_fail": 1,
    "spf:broad": 1,
    "spf:permerror": 1,
    "identity:known": -1,
    "identity:unproven": 1,
    "dnsbl:listed": 3,
    "dnsbl:allowed": -3,
    "dkim:fail": 1,
    "dkim:replayed": 2,
    "dmarc:fail": 1,
    "dmarc:quarantine": 3,
    "dmarc:reject": 4,
    "own_domain:spoofed": 3,
    "impersonation:address_in_name": 2,
    "impersonation:lookalike": 2,
    "impersonation:mixed_scripts": 2,
    "antispam:spam": 3,
}


def spelled(weights: dict[str, float]) -> dict[str, float]:
    """The weights, each of something that may be a finding; which checks make which is known to the engine."""
    for key in weights:
        check, colon, word = key.partition(":")
        if not colon or check == NAME or (check == SIGN and word not in SIGNS):
            raise ValueError(f'{key}: a weight is of "check:outcome", for example "spf:fail", or "sign:{SIGNS[0]}"')
    return weights


_NOTHING = Verdict(check=NAME, outcome="low", evidence={"score": 0.0, "parts": {}})
Weight = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]


class Policy(knobs.Policy):
    weights: Annotated[dict[str, Weight], AfterValidator(spelled), knobs.FINDINGS] = WEIGHTS
    raised_from: Weight = 4.0
    high_from: Weight = 8.0


def add_up(ctx: Context, weights: Mapping[str, float]) -> dict[str, float]:
    """The findings so far that have a weight, heaviest first, each once. At rcpt what was found about other recipients is
    theirs."""
    weighed = {key: weights[key] for sign in ctx.signs if (key := f"{SIGN}:{sign}") in weights}
    mine = ctx.recipient.address.text if ctx.recipient is not None else ""
    for verdict in ctx.trail:
        key = f"{verdict.check}:{verdict.outcome}"
        if key in weights and (not mine or verdict.recipient in ("", mine)):
            weighed[key] = weights[key]
    return dict(sorted(weighed.items(), key=lambda item: (-item[1], item[0]))) if weighed else weighed


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Add up what was found."""
    if ctx.client.trusted_relay:
        return Verdict(check=NAME, outcome="skipped", reason="trusted relay")
    parts = add_up(ctx, policy.weights)
    if not parts and policy.raised_from > 0 and policy.high_from > 0:
        return _NOTHING
    score = round(sum(parts.values()), 3)
    outcome = "high" if score >= policy.high_from else "raised" if score >= policy.raised_from else "low"
    reason = f"{score:g}: {', '.join(f'{key} {weight:+g}' for key, weight in parts.items())}" if parts else ""
    return Verdict(check=NAME, outcome=outcome, score=score, reason=reason, evidence={"score": score, "parts": parts})
