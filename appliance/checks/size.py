"""size: messages over the limit, as declared (SIZE=, RFC 1870) and as counted, and headers over theirs.

Contract: linear in the header, independent of the body. What failure means for the mail: refused with 552 before or after
the data; nothing of it is kept.
"""

import re

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.own_trace import own_trace
from appliance.mail.ports import Content, Ports
from appliance.mail.verdict import ALWAYS, Action, Verdict

NAME = "size"
STAGES: tuple[Stage, ...] = ("mail", "message")
GATE = False
ENVELOPE = True
OUTCOMES = {
    "ok": Action.DUNNO,
    "over": Action.REJECT,
    "header_over": Action.REJECT,
    "temperror": Action.MARK,
}
REPLIES = {
    "over": "552 5.3.4 Message size exceeds fixed limit",
    "header_over": "552 5.3.4 Message header is too large",
}
_OK = Verdict(check=NAME, outcome="ok", until=ALWAYS)
_FIELD = re.compile(rb"^[^\s]", re.MULTILINE)


class Policy(knobs.Policy):
    """Octets. `limit` 0: the wiring's `[smtp] size_limit`, which is also what EHLO offers."""

    limit: knobs.Count = 0
    header_limit: knobs.Count = 524288
    fields_limit: knobs.Count = 10000


def decide(size: int, content: Content | None, policy: Policy, offered: int) -> tuple[str, str]:
    """(outcome, reason); a limit of 0 is none."""
    limit = policy.limit or offered
    if limit and size > limit:
        return "over", f"{size} octets, limit {limit}"
    if content is None:
        return "ok", ""
    header = content.header
    if not content.header_complete or (policy.header_limit and len(header) > policy.header_limit):
        return "header_over", f"header of {len(header)} octets or more"
    if policy.fields_limit and header.count(b"\n") > policy.fields_limit:
        fields = len(_FIELD.findall(header))
        if fields > policy.fields_limit:
            return "header_over", f"{fields} header fields, limit {policy.fields_limit}"
    return "ok", ""


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Judge the declared size before the data, the real one after."""
    content = ctx.content if ctx.stage == "message" else None
    # our own field does not count against the client
    size = ctx.declared_size if content is None else content.size - own_trace(content.header)
    outcome, reason = decide(size, content, policy, ports.site.size_limit)
    return _OK if outcome == "ok" else Verdict(check=NAME, outcome=outcome, reason=reason)
