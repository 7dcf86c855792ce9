"""own_domain: our own domains from outside, and others' from inside.

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "own_domain"
STAGES: tuple[Stage, ...] = ("mail", "message")
GATE = False
OUTCOMES = {
    "ok": Action.DUNNO,
    "spoofed": Action.MARK,
    "forbidden": Action.REJECT,
    "foreign": Action.REJECT,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "forbidden": "550 5.7.1 Message refused: you may not use this domain",
    "foreign": "550 5.7.1 Sender address rejected: not owned by you",
}


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
