"""identity: who sends, as far as it is proven.

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "identity"
STAGES: tuple[Stage, ...] = ("mail", "message")
GATE = False
OUTCOMES = {
    "known": Action.DUNNO,
    "new": Action.DUNNO,
    "shared": Action.DUNNO,
    "unproven": Action.DUNNO,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES: dict[str, str] = {}


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
