"""loop: mail that goes round (RFC 5321 section 6.3): too many Received fields, or our own name in them too often.

Contract: linear in the header. Lists and forwards bring our users' mail back once or twice, so our own name may stand
there a few times. What failure means for the mail: refused with 554, so the last sender reports it, not we.
"""

import re

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "loop"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {"ok": Action.DUNNO, "loop": Action.REJECT, "temperror": Action.MARK}
REPLIES = {"loop": "554 5.4.6 Too many hops"}
_OK = Verdict(check=NAME, outcome="ok")
_RECEIVED = re.compile(rb"^received[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*", re.MULTILINE | re.IGNORECASE)
_BY = re.compile(rb"\bby[ \t\r\n]+([^ \t\r\n;()]+)", re.IGNORECASE)


class Policy(knobs.Policy):
    """`received_limit`: Received fields, our own for this message among them; `own_limit`: those that are by us."""

    received_limit: knobs.Count = 50
    own_limit: knobs.Count = 10


def decide(header: bytes, hostname: str, policy: Policy) -> tuple[str, str]:
    """(outcome, reason)."""
    if header.lower().count(b"received") <= min(policy.received_limit, policy.own_limit):
        return "ok", ""
    fields = _RECEIVED.findall(header)
    if len(fields) > policy.received_limit:
        return "loop", f"{len(fields)} Received fields, limit {policy.received_limit}"
    ours = hostname.lower().encode()
    own = sum(1 for field in fields if (by := _BY.search(field)) and by[1].lower().rstrip(b".") == ours)
    if own > policy.own_limit:
        return "loop", f"{own} times through {hostname}, limit {policy.own_limit}"
    return "ok", ""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Count the hops of the message."""
    if ctx.content is None:
        return Verdict(check=NAME, outcome="temperror", reason="no content")
    outcome, reason = decide(ctx.content.header, ports.site.hostname, policy)
    return _OK if outcome == "ok" else Verdict(check=NAME, outcome=outcome, reason=reason)
