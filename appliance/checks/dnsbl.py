"""dnsbl: DNS lists.

Contract: not built yet; it answers `skipped`. What failure means for the mail: nothing.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "dnsbl"
STAGES: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt", "message")
GATE = False
OUTCOMES = {
    "unlisted": Action.DUNNO,
    "allowed": Action.DUNNO,
    "listed": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "listed": "554 5.7.1 Service unavailable: your host, name or message is on a block list",
}


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Not built yet."""
    return Verdict(check=NAME, outcome="skipped")
