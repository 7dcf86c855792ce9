"""rdns: whether the client's address has a name that leads back to it (RFC 8601 iprev).

Contract: the name was looked up while the connection was greeted; this check reads the proof and asks nothing. A DNS
failure is `temperror`, never `none`. What failure means for the mail: a mark, and a reason for greylisting; by itself no
refusal.
"""

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "rdns"
STAGES: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt")
GATE = False
OUTCOMES = {
    "ok": Action.DUNNO,
    "none": Action.MARK,
    "unconfirmed": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {
    "none": "550 5.7.25 Client host rejected: your address has no name in DNS",
    "unconfirmed": "550 5.7.25 Client host rejected: the name of your address does not lead back to it",
}
_OUTCOME = {"pass": "ok", "none": "none", "fail": "unconfirmed", "temperror": "temperror"}
_OK = Verdict(check=NAME, outcome="ok")
_OURS = Verdict(check=NAME, outcome="skipped", reason="trusted relay")


class Policy(knobs.Policy):
    """No knobs."""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Read the proof of the client's name; `skipped` where nobody looked it up (a unix socket), and for our relays."""
    client = ctx.client
    if client.trusted_relay:
        return _OURS
    outcome = _OUTCOME.get(client.proof, "skipped")
    if outcome == "ok":
        return _OK
    reason = f"{client.address} claims {client.reverse_name}" if outcome == "unconfirmed" else client.address
    return Verdict(check=NAME, outcome=outcome, reason=reason)
