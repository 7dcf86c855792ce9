"""spf: SPF (RFC 7208).

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "spf"
STAGES: tuple[Stage, ...] = ("mail", "rcpt")
GATE = False
OUTCOMES = {
    "pass": Action.DUNNO,
    "none": Action.DUNNO,
    "neutral": Action.DUNNO,
    "softfail": Action.MARK,
    "fail": Action.MARK,
    "permerror": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "fail": "550 5.7.23 Sender address rejected: the domain does not let this client send its mail",
    "softfail": "550 5.7.23 Sender address rejected: the domain does not expect mail from this client",
    "permerror": "550 5.7.24 Sender address rejected: the SPF record of the domain is broken",
}


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
