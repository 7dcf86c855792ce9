"""early_talker: a client that spoke before our greeting (RFC 5321 3.1 has it wait; programs that send spam often do not).

Contract: a plain fact of the session, seen by the server. What failure means for the mail: nothing; the check needs
nothing from outside.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "early_talker"
STAGES: tuple[Stage, ...] = ("helo", "mail", "rcpt")
GATE = False
OUTCOMES = {"waited": Action.DUNNO, "talked": Action.MARK, "temperror": Action.MARK}
REPLIES = {"talked": "554 5.5.0 Client rejected: you spoke before the greeting"}
_WAITED = Verdict(check=NAME, outcome="waited")
_TALKED = Verdict(check=NAME, outcome="talked", reason="octets came before the greeting")


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Did the client wait for the greeting?"""
    return _TALKED if "early_talk" in ctx.signs else _WAITED
