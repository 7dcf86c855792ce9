"""impersonation: display names and look-alikes.

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "impersonation"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {
    "ok": Action.DUNNO,
    "address_in_name": Action.MARK,
    "mixed_scripts": Action.MARK,
    "lookalike": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES: dict[str, str] = {}


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
