"""tls: mandatory TLS by sender domain or network.

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "tls"
STAGES: tuple[Stage, ...] = ("mail", "rcpt")
GATE = True
OUTCOMES = {
    "ok": Action.DUNNO,
    "missing": Action.REJECT,
    "weak": Action.REJECT,
    "skipped": Action.DUNNO,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "missing": "530 5.7.0 Must issue a STARTTLS command first",
    "weak": "550 5.7.10 Encryption that is stronger than this is needed",
    "temperror": "451 4.7.0 Encryption cannot be checked at the moment, please try again later",
}


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
