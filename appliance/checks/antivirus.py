"""antivirus: what the virus scanners find in a message. A gate: mail that could not be scanned does not pass as clean.

Every scanner of `scanners` is asked (empty: all that are configured and scan for viruses), one after the other until one
finds something: about the message as it came, then about each part as scand decoded it in any reading (threats C1), but
for mail that is plainly one text. Outcomes: clean, infected, suspicious, unscannable, oversize, undecoded (the message is
clean as it came, not all its parts could be offered), error, skipped (no scanner is configured).
What failure means for the mail: no answer, an unknown answer, a scanner that is away: `error` (shipped: put off); scand
away: `temperror` (put off) for `put_off` from the first try of the message on, then `undecoded` (marked): what was not
looked at is neither clean nor bad.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator

from appliance.checks import knobs, knobs_put_off
from appliance.mail.context import Context, Stage
from appliance.mail.plain import is_plain
from appliance.mail.ports import Content, Ports, Scanner, Unavailable
from appliance.mail.scan import ScanResult
from appliance.mail.verdict import Action, Verdict

NAME = "antivirus"
STAGES: tuple[Stage, ...] = ("message",)
GATE = True
OUTCOMES = {
    "clean": Action.DUNNO,
    "infected": Action.REJECT,
    "suspicious": Action.QUARANTINE,
    "unscannable": Action.QUARANTINE,
    "oversize": Action.MARK,
    "undecoded": Action.MARK,
    "error": Action.DEFER_IF_PERMIT,
    "skipped": Action.DUNNO,
    "temperror": Action.DEFER_IF_PERMIT,
}
_LATER = "451 4.3.2 Message content cannot be checked just now, please try again later"
REPLIES = {
    "infected": "550 5.7.1 Message refused: malicious content",
    "error": _LATER,
    "temperror": _LATER,
}
#: Kinds of scanners that scan for viruses.
KINDS = frozenset({"clamd", "icap", "command", "amavis", "yara"})
#: The worst first: what any scanner says so is said of the message.
_ORDER = ("infected", "error", "suspicious", "unscannable", "oversize", "undecoded", "clean")
#: Results that stand in the reason.
_TOLD = 20

Found = Literal["infected", "suspicious", "unscannable", "clean"]


def patterns(value: dict[str, Found]) -> dict[str, Found]:
    """A star may stand at the end or at the beginning of each."""
    for pattern in value:
        if not pattern.strip("*") or "*" in pattern.strip("*") or (pattern[0] == pattern[-1] == "*"):
            raise ValueError(f'"{pattern}": write a name, "Prefix*" or "*Suffix"')
    return value


Names = Annotated[dict[str, Found], AfterValidator(patterns)]
_NAMES: dict[str, Found] = {
    "Heuristics.*": "suspicious",
    "Heuristics.Limits.Exceeded*": "unscannable",
    "PUA.*": "suspicious",
    "(null)": "unscannable",
}


class Policy(knobs.Policy):
    """`names`: what a found name means, by pattern; the longest that fits counts, what fits none is infected. Parts and
    octets of them that are offered on their own, at most; 0: none."""

    scanners: knobs.Scanners = ()
    parts_limit: knobs.Count = 500
    parts_octets: knobs.Count = 67108864
    put_off: knobs.Duration = knobs_put_off.PUT_OFF
    names: Names = _NAMES


def meaning(name: str, names: Mapping[str, Found]) -> Found:
    """What it means that `name` was found."""
    fitting = [pattern for pattern in names if fits(name, pattern)]
    return names[max(fitting, key=len)] if fitting else "infected"


def fits(name: str, pattern: str) -> bool:
    """`Prefix*`, `*Suffix`, or the name itself."""
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    if pattern.startswith("*"):
        return name.endswith(pattern[1:])
    return name == pattern


def outcome(result: ScanResult, names: Mapping[str, Found]) -> str:
    """One scanner's answer as an outcome; what we do not know is an error."""
    if result.kind == "infected":
        found = {meaning(name, names) for name in result.names} or {"infected"}
        return next(word for word in _ORDER if word in found)
    if result.kind == "spam" and result.action:  # amavisd judges both; that is for antispam
        return "clean"
    return result.kind if result.kind in _ORDER else "error"


def decide(results: Sequence[ScanResult], names: Mapping[str, Found], undecoded: Sequence[ScanResult] = ()) -> Verdict:
    """The worst answer decides. `undecoded`: what says that not all was offered."""
    outcomes = [outcome(result, names) for result in results] + ["undecoded"] * len(undecoded)
    results = [*results, *undecoded]
    word = next((word for word in _ORDER if word in outcomes), "error")
    counted = [result for result, said in zip(results, outcomes, strict=True) if said == word and word != "clean"]
    reason = "; ".join(map(_words, counted[:_TOLD]))
    return Verdict(check=NAME, outcome=word, reason=reason, evidence={"scanners": [_fact(result) for result in results]})


def _words(result: ScanResult) -> str:
    return f"{result.scanner}: {result.why or ', '.join(result.names) or result.kind}"


def _fact(result: ScanResult) -> dict[str, Any]:
    fact: dict[str, Any] = {"scanner": result.scanner, "kind": result.kind, "seconds": result.seconds}
    if result.names:
        fact["names"] = list(result.names)
    if result.why:
        fact["why"] = result.why
    return fact | result.evidence


def chosen(policy: Policy, ports: Ports) -> list[Scanner]:
    """The scanners to ask. Raises KeyError for one that is not configured (the configuration check finds it before)."""
    if policy.scanners:
        return [ports.scanners[name] for name in policy.scanners]
    return [scanner for scanner in ports.scanners.values() if scanner.kind in KINDS]


async def _ask(scanners: Sequence[Scanner], content: Content, ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    results: list[ScanResult] = []
    undecoded: list[ScanResult] = []
    inspector = ports.inspector if policy.parts_limit and not is_plain(content) else None
    away = False
    for scanner in scanners:
        results.append(await scanner.scan(content, ctx))
        if inspector is not None and outcome(results[-1], policy.names) not in ("infected", "error"):
            try:
                inspection = await inspector.inspect(content)
                found = await scanner.scan_parts(inspection, ctx, policy.parts_limit, policy.parts_octets)
            except Unavailable as error:
                away = True
                found = [ScanResult(kind="skipped", scanner=scanner.name, why=f"parts not offered: {error}")]
            results += [result for result in found if result.kind != "skipped"]
            undecoded += [result for result in found if result.kind == "skipped"]
        if any(outcome(result, policy.names) == "infected" for result in results):
            break
    verdict = decide(results, policy.names, undecoded)
    if away and verdict.outcome == "undecoded" and await knobs_put_off.waits(ctx, NAME, policy.put_off, ports):
        return msgspec.structs.replace(verdict, outcome="temperror")
    return verdict


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Have the message scanned."""
    scanners = chosen(policy, ports)
    if not scanners:
        return Verdict(check=NAME, outcome="skipped", reason="no virus scanner is configured")
    if ctx.content is None:
        return Verdict(check=NAME, outcome="error", reason="no content")
    return _ask(scanners, ctx.content, ctx, policy, ports)
