"""content: the operator's rules over header and body decide (Postfix header_checks(5)).

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "content"
STAGES: tuple[Stage, ...] = ("message",)
GATE = True
OUTCOMES = {
    "dunno": Action.DUNNO,
    "reject": Action.REJECT,
    "discard": Action.DISCARD,
    "hold": Action.HOLD,
    "quarantine": Action.QUARANTINE,
    "filter": Action.FILTER,
    "redirect": Action.REDIRECT,
    "bcc": Action.BCC,
    "prepend": Action.PREPEND,
    "edited": Action.DUNNO,
    "warn": Action.WARN,
    "info": Action.INFO,
    "skipped": Action.DUNNO,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "reject": "550 5.7.1 Message content rejected",
    "temperror": "451 4.3.5 The content cannot be checked at the moment, please try again later",
}


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
