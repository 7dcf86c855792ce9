"""antispam: the score that spam scanners give a message. Evidence: mail that could not be scored passes, marked.

Every scanner of `scanners` is asked (empty: all that are configured and score spam); the worst word counts, then the
highest score. A scanner that only scores is judged by mark_score and reject_score, one that says what is to be done
(rspamd) by `actions`. The score goes into a field X-Postgate-Spam, and from mark_score on, if the operator says so, a tag
in front of the Subject of mail that nobody has signed; what the scanner wants changed follows, if `scanner_edits`.
Outcomes: clean, spam, high, greylist, later, quarantine, discard, oversize, error, skipped (no scanner is configured).
What failure means for the mail: no score is made up: `error` (shipped: mark).
"""

import re
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.edits import Edit
from appliance.mail.ports import Content, Ports, Scanner
from appliance.mail.scan import ScanResult
from appliance.mail.verdict import Action, Verdict

NAME = "antispam"
STAGES: tuple[Stage, ...] = ("message",)
GATE = False
OUTCOMES = {
    "clean": Action.DUNNO,
    "spam": Action.MARK,
    "high": Action.REJECT,
    "greylist": Action.DUNNO,
    "later": Action.DEFER_IF_PERMIT,
    "quarantine": Action.QUARANTINE,
    "discard": Action.DISCARD,
    "oversize": Action.MARK,
    "error": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
_LATER = "451 4.7.1 Message not taken just now, please try again later"
REPLIES = {"high": "550 5.7.1 Message refused: content looks unsolicited", "later": _LATER, "greylist": _LATER}
#: Kinds of scanners that score spam.
KINDS = frozenset({"spamd", "rspamd", "amavis"})
FIELD = "X-Postgate-Spam"
#: Octets of rule names, and stars, in the field.
_RULES, _STARS = 800, 50
_SIGNED = re.compile(
    rb"^(?:(?:x-(?:google-)?)?dkim-signature|domainkey-signature|arc-(?:seal|message-signature))[ \t]*:", re.M | re.I
)
_SUBJECT = re.compile(rb"^subject[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.M | re.I)

Word = Literal["clean", "spam", "high", "greylist", "later", "quarantine", "discard"]
#: The worst first: what any scanner says so is said of the message.
_ORDER: tuple[Word, ...] = ("high", "discard", "quarantine", "later", "spam", "greylist", "clean")
#: Those that say that the content is bad.
_BAD = frozenset({"spam", "high", "quarantine", "discard"})
#: Those that say nothing against it: a scanner that gave no answer counts for more.
_PASSING = frozenset({"clean", "greylist"})
#: Actions of rspamd and amavisd in our words.
_ACTIONS: dict[str, Word] = {
    "no action": "clean",
    "continue": "clean",
    "accept": "clean",
    "greylist": "greylist",
    "add header": "spam",
    "rewrite subject": "spam",
    "soft reject": "later",
    "reject": "high",
    "quarantine": "quarantine",
    "discard": "discard",
}
Score = Annotated[float, Field(allow_inf_nan=False)]
Tag = Annotated[str, Field(max_length=60, pattern=r"^(?:[!-~]+(?: [!-~]+)*)?$")]


class Policy(knobs.Policy):
    """`header`: which messages get the field: all that were scored, those from mark_score, or none. `subject_tag`: put
    before the Subject from mark_score on; "" = never. `actions`: what a scanner's action means; one that does not stand
    here is an error."""

    scanners: knobs.Scanners = ()
    mark_score: Score = 5.0
    reject_score: Score = 15.0
    header: Literal["always", "spam", "never"] = "always"
    subject_tag: Tag = ""
    actions: dict[str, Word] = _ACTIONS
    scanner_edits: Annotated[bool, Strict()] = True


def word(result: ScanResult, policy: Policy) -> str:
    """What one scanner's answer means; "error" for an action that nobody knows."""
    if result.action and result.kind in ("clean", "spam", "infected", "unscannable"):
        return policy.actions.get(result.action, "error")
    if result.kind not in ("clean", "spam"):
        return result.kind
    return "clean" if result.score < policy.mark_score else "spam" if result.score < policy.reject_score else "high"


def decide(results: Sequence[ScanResult], policy: Policy, header: bytes = b"") -> Verdict:
    """The worst word decides; a scanner that gave none counts where the others say nothing bad. `header`: of the message,
    for its Subject."""
    said = {id(result): word(result, policy) for result in results}
    scored = [result for result in results if said[id(result)] in _ORDER]
    rest = [result for result in results if said[id(result)] not in _ORDER]
    evidence = {"scanners": [_fact(result) for result in results]}
    best = min(scored, key=lambda result: (_rank(said[id(result)]), -result.score), default=None)
    found = said[id(best)] if best else "clean"
    score = best.score if best else 0.0
    changes = edits(scored, best, found, policy, header) if best else ()
    if best is not None and (found not in _PASSING or not rest):
        reason = _reason(best) if found != "clean" else ""
        return Verdict(check=NAME, outcome=found, reason=reason, score=score, edits=changes, evidence=evidence)
    outcome = "oversize" if rest and all(result.kind == "oversize" for result in rest) else "error"
    reason = "; ".join(f"{result.scanner}: {_why(result)}" for result in rest)
    return Verdict(check=NAME, outcome=outcome, reason=reason, score=score, edits=changes, evidence=evidence)


def _rank(found: str) -> int:
    return next(place for place, name in enumerate(_ORDER) if name == found)


def _reason(result: ScanResult) -> str:
    action = f", {result.action}" if result.action else ""
    return f"score {result.score:g}{action}{f': {result.why}' if result.why else ''}"


def _why(result: ScanResult) -> str:
    if result.action:
        return f"the action {result.action!r} is not in `actions`"
    return result.why or result.kind


def edits(scored: Sequence[ScanResult], best: ScanResult, found: str, policy: Policy, header: bytes) -> tuple[Edit, ...]:
    """Our own field, the tag, and what the scanners want changed."""
    changes: tuple[Edit, ...] = (_field(best, found),) if _shown(found, policy) else ()
    if found in _BAD and policy.subject_tag:
        changes += tagged(header, policy.subject_tag)
    for result in scored if policy.scanner_edits else ():
        changes += tuple(edit for edit in result.edits if not _is_subject(edit) or may_change_subject(header))
    return changes


def _is_subject(edit: Edit) -> bool:
    return edit.name.lower() == "subject"


def may_change_subject(header: bytes) -> bool:
    """A message with any signature keeps its Subject: the signature would break."""
    return bool(header) and not _SIGNED.search(header)


def _shown(found: str, policy: Policy) -> bool:
    return policy.header == "always" or (policy.header == "spam" and found in _BAD)


def _field(result: ScanResult, found: str) -> Edit:
    rules = ",".join(result.names)
    if len(rules) > _RULES:
        rules = rules[:_RULES].rpartition(",")[0] + ",..."
    stars = "*" * min(int(result.score), _STARS)
    level = f" level={stars}" if stars else ""
    value = f"{'yes' if found in _BAD else 'no'}, score={result.score:.1f}{level} rules={rules or 'none'}"
    return Edit("prepend", FIELD, value)


def tagged(header: bytes, tag: str) -> tuple[Edit, ...]:
    """The tag before the raw value of the Subject (nothing is decoded or encoded anew), or as a Subject of its own."""
    if not may_change_subject(header):
        return ()
    found = _SUBJECT.search(header)
    if found is None:
        return (Edit("append", "Subject", tag),)
    value = found[1].decode("utf-8", "surrogateescape").lstrip(" \t")
    if value.startswith(tag):
        return ()
    return (Edit("change", "Subject", f"{tag} {value}", 1),)


def _fact(result: ScanResult) -> dict[str, Any]:
    fact: dict[str, Any] = {"scanner": result.scanner, "kind": result.kind, "seconds": result.seconds}
    if result.kind in ("clean", "spam"):
        fact |= {"score": result.score, "threshold": result.threshold, "rules": list(result.names)}
        if result.action:
            fact["action"] = result.action
    if result.why:
        fact["why"] = result.why
    return fact | result.evidence


def chosen(policy: Policy, ports: Ports) -> list[Scanner]:
    """The scanners to ask. Raises KeyError for one that is not configured (the configuration check finds it before)."""
    if policy.scanners:
        return [ports.scanners[name] for name in policy.scanners]
    return [scanner for scanner in ports.scanners.values() if scanner.kind in KINDS]


async def _ask(scanners: Sequence[Scanner], content: Content, ctx: Context, policy: Policy) -> Verdict:
    return decide(
        [await scanner.scan(content, ctx) for scanner in scanners],
        policy,
        content.header if content.header_complete else b"",
    )


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Have the message scored."""
    scanners = chosen(policy, ports)
    if not scanners:
        return Verdict(check=NAME, outcome="skipped", reason="no spam scanner is configured")
    if ctx.content is None:
        return Verdict(check=NAME, outcome="error", reason="no content")
    return _ask(scanners, ctx.content, ctx, policy)
