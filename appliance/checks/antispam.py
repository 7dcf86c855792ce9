"""antispam: the score that spam scanners give a message. Evidence: mail that could not be scored passes, marked.

Every scanner of `scanners` is asked (empty: all that are configured and score spam), the highest score counts. The score
goes into a field X-Postgate-Spam, and from mark_score on, if the operator says so, a tag in front of the Subject of mail
that nobody has signed. Outcomes: clean, spam (from mark_score), high (from reject_score), oversize, error,
skipped (no scanner is configured). What failure means for the mail: no score is made up: `error` (shipped: mark).
"""

import re
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

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
    "oversize": Action.MARK,
    "error": Action.MARK,
    "skipped": Action.DUNNO,
    "temperror": Action.MARK,
}
REPLIES = {"high": "550 5.7.1 Message refused: content looks unsolicited"}
#: Kinds of scanners that score spam.
KINDS = frozenset({"spamd"})
FIELD = "X-Postgate-Spam"
#: Octets of rule names, and stars, in the field.
_RULES, _STARS = 800, 50
_SIGNED = re.compile(
    rb"^(?:(?:x-(?:google-)?)?dkim-signature|domainkey-signature|arc-(?:seal|message-signature))[ \t]*:", re.M | re.I
)
_SUBJECT = re.compile(rb"^subject[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.M | re.I)

Score = Annotated[float, Field(allow_inf_nan=False)]
Tag = Annotated[str, Field(max_length=60, pattern=r"^(?:[!-~]+(?: [!-~]+)*)?$")]


class Policy(knobs.Policy):
    """`header`: which messages get the field: all that were scored, those from mark_score, or none. `subject_tag`: put
    before the Subject from mark_score on; "" = never."""

    scanners: knobs.Scanners = ()
    mark_score: Score = 5.0
    reject_score: Score = 15.0
    header: Literal["always", "spam", "never"] = "always"
    subject_tag: Tag = ""


def decide(results: Sequence[ScanResult], policy: Policy, header: bytes = b"") -> Verdict:
    """The highest score decides; a scanner that gave none counts where no score is bad. `header`: of the message, for
    its Subject."""
    scored = [result for result in results if result.kind in ("clean", "spam")]
    rest = [result for result in results if result.kind not in ("clean", "spam")]
    best = max(scored, key=lambda result: result.score, default=None)
    evidence = {"scanners": [_fact(result) for result in results]}
    score = best.score if best else 0.0
    word = "clean" if best is None or score < policy.mark_score else "spam" if score < policy.reject_score else "high"
    edits: tuple[Edit, ...] = (_field(best, word),) if best and _shown(word, policy) else ()
    if best and word != "clean" and policy.subject_tag:
        edits += tagged(header, policy.subject_tag)
    if best is not None and (word != "clean" or not rest):
        reason = f"score {score:g}" if word != "clean" else ""
        return Verdict(check=NAME, outcome=word, reason=reason, score=score, edits=edits, evidence=evidence)
    word = "oversize" if rest and all(result.kind == "oversize" for result in rest) else "error"
    reason = "; ".join(f"{result.scanner}: {result.why or result.kind}" for result in rest)
    return Verdict(check=NAME, outcome=word, reason=reason, score=score, edits=edits, evidence=evidence)


def _shown(word: str, policy: Policy) -> bool:
    return policy.header == "always" or (policy.header == "spam" and word != "clean")


def _field(result: ScanResult, word: str) -> Edit:
    rules = ",".join(result.names)
    if len(rules) > _RULES:
        rules = rules[:_RULES].rpartition(",")[0] + ",..."
    stars = "*" * min(int(result.score), _STARS)
    level = f" level={stars}" if stars else ""
    value = f"{'yes' if word != 'clean' else 'no'}, score={result.score:.1f}{level} rules={rules or 'none'}"
    return Edit("prepend", FIELD, value)


def tagged(header: bytes, tag: str) -> tuple[Edit, ...]:
    """The tag before the raw value of the Subject (nothing is decoded or encoded anew), or as a Subject of its own. A
    message with any signature keeps its Subject: the signature would break."""
    if not header or _SIGNED.search(header):
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
    if result.why:
        fact["why"] = result.why
    return fact


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
