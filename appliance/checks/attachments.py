"""attachments: the structure of a message and what hangs on it. scand reads hostile content, in a process of its own.

Mail that is plainly a single part is not sent there. Outcomes: ok, too_complex (deeper, more parts, longer headers than
the limits: what nobody can read to its end, nobody has checked), skipped (no scand). What failure means for the mail: a
message that could not be inspected is temperror (shipped: mark), never ok.
"""

import re
from collections.abc import Awaitable

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.inspection import Inspection
from appliance.mail.ports import Content, Inspector, Ports
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.mime import LIMITS, Limits

NAME = "attachments"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {
    "ok": Action.DUNNO,
    "too_complex": Action.QUARANTINE,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES: dict[str, str] = {}
_OK = Verdict(check=NAME, outcome="ok")
_TYPE = b"\ncontent-type"
_SINGLE = re.compile(rb"[ \t]*:[ \t]*(?:text|image|audio|video|font|application)/[a-z0-9.+_-]+[ \t]*(?:;|\r\n[^ \t])")


class Policy(knobs.Policy):
    """Parts, levels of nesting; octets and fields of one header block (the message's own, or a part's)."""

    depth_limit: knobs.Count = LIMITS.depth
    parts_limit: knobs.Count = LIMITS.parts
    header_limit: knobs.Count = LIMITS.header
    fields_limit: knobs.Count = LIMITS.fields

    @property
    def limits(self) -> Limits:
        return Limits(self.depth_limit, self.parts_limit, self.header_limit, self.fields_limit)


def is_single(content: Content, limits: Limits) -> bool:
    """Whether the header says, beyond any reading, that there is one part only. Anything odd says no."""
    header = content.header
    if not content.header_complete or len(header) > limits.header or header.count(b"\n") > limits.fields:
        return False
    header = header.lower()
    at = header.find(_TYPE)
    if at < 0:
        return not header.startswith(_TYPE[1:])
    if header.find(_TYPE, at + 1) >= 0:
        return False
    after = at + len(_TYPE)
    return _SINGLE.match(header, after) is not None


def decide(inspection: Inspection) -> Verdict:
    """What scand says of the structure."""
    found = inspection.report
    evidence = {"parts": found.count, "depth": found.depth, "names": list(inspection.names)}
    if not found.over:
        return Verdict(check=NAME, outcome="ok", evidence=evidence)
    reason = f"over the limit of {found.over} ({found.count} parts, depth {found.depth} so far)"
    return Verdict(check=NAME, outcome="too_complex", reason=reason, evidence=evidence)


async def _inspect(inspector: Inspector, content: Content, limits: Limits) -> Verdict:
    return decide(await inspector.inspect(content, limits))


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Look at the structure; at once where the header leaves no doubt."""
    if ctx.content is None:
        return Verdict(check=NAME, outcome="temperror", reason="no content")
    limits = policy.limits
    if is_single(ctx.content, limits):
        return _OK
    if ports.inspector is None:
        return Verdict(check=NAME, outcome="skipped", reason="there is no inspector")
    return _inspect(ports.inspector, ctx.content, limits)
