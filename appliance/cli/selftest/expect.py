"""What the policies in force make of a finding: that, and no fixed answer, is what a self-test expects.

Contract: pure. A check that is off or only watched makes nothing happen; `expect` says so.
"""

from typing import Literal, NamedTuple

from appliance.checks import catalogue
from appliance.engine.rules import PolicySet
from appliance.mail.verdict import Action

Kind = Literal["deliver", "refuse", "defer", "keep", "drop", "skip"]


class Expected(NamedTuple):
    """`mark` ("check=outcome") stands in the delivered mail. `words` is for the table. `found`: what checks must find,
    whatever is done about it. `place`: where it must be kept. `loosened`: (check, its line) that lets pass what is not
    let pass as shipped."""

    kind: Kind
    words: str
    code: int = 0
    mark: str = ""
    found: tuple[tuple[str, str], ...] = ()
    place: str = ""
    loosened: tuple[tuple[str, str], ...] = ()


DELIVER = Expected("deliver", "delivered")
KEPT = {Action.HOLD: "hold", Action.QUARANTINE: "quarantine"}
_REFUSING = {Action.REJECT: 550, Action.DISCONNECT: 421}
_PASSING = frozenset({Action.DUNNO, Action.ACCEPT, Action.INFO, Action.WARN})
_DEFERRING = {Action.DEFER: 450, Action.DEFER_IF_PERMIT: 450, Action.DEFER_IF_REJECT: 450}


def off(policies: PolicySet, check: str) -> str:
    """Why nothing is to be expected of a check, or ""."""
    mode = policies.checks[check].mode
    return f"{check} is in mode {mode}" if mode == "monitor" else absent(policies, check)


def absent(policies: PolicySet, check: str) -> str:
    """Why a check does not even look, or ""."""
    if policies.checks[check].mode == "off":
        return f"{check} is in mode off"
    inbound = [steps for (role, _), steps in policies.plan.steps.items() if role == "inbound"]
    if not any(check in step for steps in inbound for step in steps):
        return f"{check} stands in no stage"
    return ""


def expect(policies: PolicySet, *found: tuple[str, str]) -> Expected:
    """The result of findings (check, outcome) in the order of the stages: the first that refuses decides."""
    why = [off(policies, check) for check, _ in found]
    if all(why):
        return Expected("skip", "; ".join(why))
    present = tuple(one for one, absence in zip(found, why, strict=True) if not absence)
    result = DELIVER
    for check, outcome in present:
        one = _one(policies, check, outcome)
        if one.kind in ("refuse", "defer", "drop"):
            return one._replace(found=present)
        if result.kind == "deliver" and (one.kind == "keep" or not result.mark):
            result = one
    lines = (_loosened(policies, *one) for one in present)
    return _told(result._replace(found=present, loosened=tuple(filter(None, lines))))


def only_watched(check: str, outcome: str) -> Expected:
    """The result of a finding about which nothing is done yet (mode "monitor")."""
    return Expected("deliver", f"delivered, {check}:{outcome}", found=((check, outcome),))


def _loosened(policies: PolicySet, check: str, outcome: str) -> tuple[str, str] | None:
    """The check and the line of its policy, if what it finds is delivered as no shipped policy would."""
    action, shipped = policies.checks[check].rulings[outcome].action, catalogue()[check].outcomes[outcome]
    if action is shipped or shipped in _PASSING or _one(policies, check, outcome).kind != "deliver":
        return None
    return check, f'[on] {outcome} = "{action.value}"'


def _told(expected: Expected) -> Expected:
    """With words that do not hide what was found."""
    if expected.kind != "deliver" or expected.mark or not expected.loosened:
        return expected
    return expected._replace(words=f"delivered though {', '.join(':'.join(one) for one in expected.found)}")


def _one(policies: PolicySet, check: str, outcome: str) -> Expected:
    ruling = policies.checks[check].rulings[outcome]
    action, code = ruling.action, ruling.reply.code if ruling.reply is not None else 0
    if action in _REFUSING:
        code = code or _REFUSING[action]
        return Expected("refuse", f"{code} refused", code)
    if action in _DEFERRING:
        code = code or _DEFERRING[action]
        return Expected("defer", f"{code} put off", code)
    if action in KEPT:
        return Expected("keep", f"kept in {KEPT[action]}", place=KEPT[action])
    if action is Action.DISCARD:
        return Expected("drop", "taken and dropped")
    if action is Action.MARK:
        return Expected("deliver", f"delivered, marked {check}={outcome}", mark=f"{check}={outcome}")
    return DELIVER
