"""arc: ARC chains (RFC 8617).

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
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


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
