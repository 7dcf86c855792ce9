"""dmarc: DMARC (RFC 9989).

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

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


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
