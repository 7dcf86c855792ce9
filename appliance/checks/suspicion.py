"""suspicion: several weak findings added up.

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "suspicion"
STAGES: tuple[Stage, ...] = ("rcpt", "message")
GATE = False
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


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
