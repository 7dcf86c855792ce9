"""content: the operator's rules over header and body decide (Postfix header_checks(5), body_checks).

Contract: each logical field, each line of a body is looked up once, in the tables of its kind; the first rule that
matches counts, what several lines bring adds up, until REJECT, DISCARD or PASS. What is edited is exactly the field or
line that was hit. A rule that takes too long, a table that cannot be read, a value that is no action: `temperror`.
With `decoded`, scand being away is `temperror`, too.
What failure means for the mail: put off with 451, the log names the rule; a broken gate does not stand open.
"""

import re
from collections.abc import Awaitable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from appliance.checks import knobs
from appliance.mail.actions import parted
from appliance.mail.apply import folded
from appliance.mail.context import Context, Stage
from appliance.mail.edits import Edit
from appliance.mail.inspection import Inspection
from appliance.mail.lines import Ask, Found, Hit, Kind
from appliance.mail.plain import is_plain
from appliance.mail.ports import Content, Inspector, LineRules, Ports
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.smtp.address import is_address

NAME = "content"
STAGES: tuple[Stage, ...] = ("message",)
GATE = True
OUTCOMES = {
    "dunno": Action.DUNNO,
    "pass": Action.DUNNO,
    "reject": Action.REJECT,
    "defer": Action.DEFER,
    "discard": Action.DISCARD,
    "hold": Action.HOLD,
    "quarantine": Action.QUARANTINE,
    "filter": Action.FILTER,
    "redirect": Action.REDIRECT,
    "bcc": Action.BCC,
    "edited": Action.DUNNO,
    "warn": Action.WARN,
    "info": Action.INFO,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "reject": "550 5.7.1 Message content rejected",
    "defer": "451 4.7.1 Service unavailable, please try again later",
    "temperror": "451 4.3.5 The content cannot be checked at the moment, please try again later",
}
_NOTHING = Verdict(check=NAME, outcome="dunno")
_ENHANCED = re.compile(r"([245])(\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|\Z)")
_FIELD = re.compile(r"[!-9;-~]+[ \t]*:")
#: The words of header_checks(5), and QUARANTINE, which is ours.
WORDS = {"ok": "dunno", "strip": "edited", "ignore": "edited", "replace": "edited", "prepend": "edited"} | {
    word: word for word in OUTCOMES if word not in ("edited", "defer", "temperror")
}
_ENDS = frozenset({"reject", "discard", "pass"})
#: Findings that are told one by one.
_TOLD = 20
#: Decoded texts that are looked at.
_TEXTS = 100


class Policy(knobs.Policy):
    """Tables by what they are asked about; without `mime_header`, `nested_header` those of `header`. `body_limit`: octets
    of each part. `decoded`: rules for bodies are asked about the lines of decoded texts, too."""

    header: knobs.Tables = ()
    mime_header: knobs.Tables = ()
    nested_header: knobs.Tables = ()
    body: knobs.Tables = ()
    body_limit: knobs.Count = 51200
    decoded: bool = False


class Entry(NamedTuple):
    """A rule's result, read: the outcome, its word, the reply ("" = the policy's), the text behind the word."""

    outcome: str
    word: str
    reply: str = ""
    text: str = ""


def read_entry(value: str, kind: Kind) -> Entry:
    """The right-hand side of a header_checks(5) rule. Raises ValueError that says what is wrong with it."""
    word, text = parted(value)
    outcome = WORDS.get(word, "")
    if not outcome:
        raise ValueError(f"{word or 'nothing'} is no action of header_checks(5)")
    if wrong := _wrong_argument(word, text, kind):
        raise ValueError(f"{word} needs {wrong}")
    return _refusal(text) if word == "reject" else Entry(outcome, word, "", text)


def _wrong_argument(word: str, text: str, kind: Kind) -> str:
    if word == "filter" and ":" not in text:
        return "transport:destination"
    if word in ("redirect", "bcc") and not is_address(text):
        return "an address"
    if word in ("prepend", "replace"):
        if not text:
            return "a text"
        if kind not in ("body", "decoded") and not _FIELD.match(text):
            return "a header field"
    return ""


def _refusal(text: str) -> Entry:
    """REJECT with an enhanced code of class 4 puts off."""
    found = _ENHANCED.match(text)
    digit, rest = (found[1], found[2]) if found else ("5", ".7.1")
    if digit == "2":
        raise ValueError(f"{digit}{rest} does not refuse")
    outcome = "defer" if digit == "4" else "reject"
    words = text[found.end() :] if found else text
    if not words and not found:
        return Entry(outcome, "reject")
    return Entry(
        outcome, "reject", f"{'451' if digit == '4' else '550'} {digit}{rest} {words or 'Message content rejected'}", text
    )


def edit(hit: Hit, entry: Entry) -> Edit:
    """PREPEND, REPLACE, IGNORE, STRIP: of exactly that field or line."""
    length = 0 if entry.word == "prepend" else hit.end - hit.start
    text = ""
    if entry.word in ("prepend", "replace"):
        text = folded(entry.text) if hit.kind != "body" else entry.text.replace("\n", " ")
        text += "\r\n" if hit.whole or entry.word == "prepend" else ""
    return Edit("splice", value=text, index=hit.start, length=length)


def decide(found: Found) -> Verdict:
    """What the hits come to: one verdict for all edits, and one for each rule and what it asks for."""
    edits: list[Edit] = []
    edited: list[Hit] = []
    told: dict[tuple[str, ...], list[Hit]] = {}
    for hit in found.hits:
        try:
            entry = read_entry(hit.value, hit.kind)
        except ValueError as error:
            entry = Entry("temperror", "", "", str(error))
        if entry.outcome == "edited":
            if hit.kind == "decoded":  # what is not there as octets cannot be edited
                continue
            edits.append(edit(hit, entry))
            edited.append(hit)
        elif entry.outcome != "dunno":
            told.setdefault((entry.outcome, entry.reply, entry.text, hit.place), []).append(hit)
    verdicts = list(_verdicts(edits, edited, told))
    if found.trouble:
        verdicts.append(Verdict(check=NAME, outcome="temperror", reason=found.trouble))
    if not verdicts:
        return _NOTHING
    return verdicts[0] if len(verdicts) == 1 else _with(verdicts[0], tuple(verdicts[1:]))


def _verdicts(edits: list[Edit], edited: list[Hit], told: dict[tuple[str, ...], list[Hit]]) -> Iterator[Verdict]:
    if edits:
        yield Verdict(
            check=NAME, outcome="edited", reason=_reason(edited), edits=tuple(edits), evidence=_evidence(edited)
        )
    for (outcome, reply, text, _), hits in told.items():
        argument = text if outcome in ("filter", "redirect", "bcc") else ""
        reason = f"{_reason(hits)}{f': {text}' if outcome == 'temperror' else ''}"
        yield Verdict(
            check=NAME, outcome=outcome, reason=reason, reply=reply, argument=argument, evidence=_evidence(hits)
        )


def _with(first: Verdict, more: tuple[Verdict, ...]) -> Verdict:
    return Verdict(
        check=NAME,
        outcome=first.outcome,
        reason=first.reason,
        reply=first.reply,
        argument=first.argument,
        edits=first.edits,
        evidence=first.evidence,
        more=more,
    )


def _reason(hits: list[Hit]) -> str:
    hit = hits[0]
    more = f" (and {len(hits) - 1} more)" if len(hits) > 1 else ""
    return f"{hit.place}: {hit.kind} {hit.text[:80]!r}: {hit.value}{more}"


def _evidence(hits: list[Hit]) -> dict[str, Any]:
    rules = [{"rule": hit.place, "kind": hit.kind, "text": hit.text, "value": hit.value} for hit in hits[:_TOLD]]
    return {"hits": len(hits), "rules": rules}


def asked(policy: Policy, decoded: tuple[tuple[bytes, str], ...] = ()) -> Ask:
    """The tables of each kind."""
    return Ask(
        header=policy.header,
        mime=policy.mime_header or policy.header,
        nested=policy.nested_header or policy.header,
        body=policy.body,
        body_limit=policy.body_limit,
        ends=_ENDS,
        decoded=decoded,
    )


def texts(inspection: Inspection, limit: int) -> Iterator[tuple[bytes, str]]:
    """The beginning of each text, and its charset."""
    found = (part for part in inspection.report.parts if part.body[1] and any(t.startswith("text/") for t in part.types))
    for part in islice(found, _TEXTS):
        yield next(inspection.chunks(part, limit or part.body[1])), part.charset


async def _decoded(content: Content, policy: Policy, inspector: Inspector, rules: LineRules) -> Verdict:
    inspection = await inspector.inspect(content)
    found = rules.search(content, asked(policy, tuple(texts(inspection, policy.body_limit))))
    return decide(found if isinstance(found, Found) else await found)


async def _later(found: Awaitable[Found]) -> Verdict:
    return decide(await found)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Look up every line."""
    if not (policy.header or policy.mime_header or policy.nested_header or policy.body):
        return _NOTHING
    if ctx.content is None or ports.lines is None:
        return Verdict(check=NAME, outcome="temperror", reason="no content")
    if policy.decoded and policy.body and not is_plain(ctx.content):
        if ports.inspector is None:
            return Verdict(check=NAME, outcome="temperror", reason="there is no inspector")
        return _decoded(ctx.content, policy, ports.inspector, ports.lines)
    found = ports.lines.search(ctx.content, asked(policy))
    return decide(found) if isinstance(found, Found) else _later(found)
