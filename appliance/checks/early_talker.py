"""early_talker: a client that does not keep to the order of the conversation (RFC 5321 3.1, RFC 2920; threats B5).

Plain facts of the session, seen by the server: it spoke before our greeting was complete, sent commands ahead where it
must wait for our answer, or ended lines of content with a bare LF. Programs that only send spam often do one of these.
`wait`: the server sends the first line of its greeting at once and the last one so much later to clients that it does
not know (daemons/smtpd/greeting.py); who did not talk in between need not wait again for `again_after`.
Outcomes: talked, pipelined (at helo, mail, rcpt), bare_lf (at message), waited (none of these).
What failure means for the mail: nothing; the check needs nothing from outside.
"""

from typing import Annotated

from pydantic import Field

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "early_talker"
STAGES: tuple[Stage, ...] = ("helo", "mail", "rcpt", "message")
GATE = False
WIRE = True
OUTCOMES = {
    "waited": Action.DUNNO,
    "talked": Action.MARK,
    "pipelined": Action.DUNNO,
    "bare_lf": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "talked": "554 5.5.0 Client rejected: you spoke before the greeting",
    "pipelined": "554 5.5.0 Client rejected: you did not wait for our answers",
    "bare_lf": "554 5.6.0 Message rejected: its lines do not end as they must",
}
_WAITED = Verdict(check=NAME, outcome="waited")
_TALKED = Verdict(check=NAME, outcome="talked", reason="octets came before the greeting was complete")
_PIPELINED = Verdict(check=NAME, outcome="pipelined", reason="commands came where the client must wait for our answer")
_BARE_LF = Verdict(check=NAME, outcome="bare_lf", reason="lines of content ended with a bare LF")


class Policy(knobs.Policy):
    wait: Annotated[knobs.Duration, Field(le=60.0)] = 0.0
    again_after: knobs.Duration = 86400.0


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """What the server saw."""
    signs = ctx.signs
    if not signs:
        return _WAITED
    if ctx.stage == "message":
        return _BARE_LF if "bare_lf" in signs else _WAITED
    if "early_talk" in signs:
        return _TALKED
    return _PIPELINED if "pipelining" in signs else _WAITED
