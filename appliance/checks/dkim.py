"""dkim: DKIM signatures (RFC 6376, 8463).

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "dkim"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {
    "pass": Action.DUNNO,
    "none": Action.DUNNO,
    "neutral": Action.DUNNO,
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


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
