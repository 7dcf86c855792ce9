"""arc: does the chain of ARC seals hold (RFC 8617), and whose are they?

Stands at message. It reports; what a chain is good for is the dmarc check's (`trusted_sealers` there): anybody can seal,
so a pass by itself proves nothing. Outcomes: pass, fail, none, skipped (nothing to verify with).
What failure means for the mail: temperror if DNS could not give a key; a chain that fails counts as none.
"""

from collections.abc import Awaitable

from appliance.checks import knobs
from appliance.mail import authres
from appliance.mail.auth import ArcReport
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "arc"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {
    "pass": Action.DUNNO,
    "none": Action.DUNNO,
    "fail": Action.DUNNO,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "fail": "550 5.7.29 ARC validation failure",
}

#: Of what the newest sets claim, so much is evidence: sets, and characters of each.
CLAIMS = 3
CLAIM = 500


class Policy(knobs.Policy):
    """No knobs: bits and clocks are those of the dkim check, trusted sealers those of dmarc."""


def judged(report: ArcReport) -> Verdict:
    """The report as a verdict."""
    outcome = report.result if report.result in OUTCOMES else "fail"
    reason = report.reason or (f"sealed by {report.sealers[-1]}" if report.sealers else "")
    shown = reason if outcome != "temperror" else ""  # what went wrong in DNS names our own servers
    return Verdict(
        check=NAME,
        outcome=outcome,
        reason=reason,
        authres=(authres.result("arc", outcome, reason=shown),) if outcome != "none" else (),
        evidence={
            "instances": report.instances,
            "sealers": list(report.sealers),
            "claims": [claim[:CLAIM] for claim in report.claims[-CLAIMS:]],
        },
    )


async def _later(asked: Awaitable[ArcReport]) -> Verdict:
    return judged(await asked)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    if ports.authentication is None or ctx.content is None:
        return Verdict(check=NAME, outcome="skipped", reason="nothing to verify")
    report = ports.authentication.arc(ctx.content)
    return judged(report) if isinstance(report, ArcReport) else _later(report)
