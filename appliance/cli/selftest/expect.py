"""What the policies in force make of a finding: that, and no fixed answer, is what a self-test expects.

Contract: pure. A check that is off or only watched makes nothing happen; `expect` says so.
"""

from typing import Literal, NamedTuple

from appliance.checks import catalogue
from appliance.engine.judge import PUT_OFF
from appliance.engine.rules import PolicySet
from appliance.mail.context import STAGES as ALL_STAGES
from appliance.mail.replies import as_class
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
_PASSING = frozenset({Action.DUNNO, Action.ACCEPT, Action.INFO, Action.WARN})
#: Without defer_if_reject: it puts off only what something else refuses.
_DEFERRING = frozenset({Action.DEFER, Action.DEFER_IF_PERMIT})


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
    """The result of findings (check, outcome): the first, in the order of the stages, that refuses or puts off decides;
    what puts off if nothing refuses waits for the end of its stage. Of those that keep it back quarantine is the
    stronger, as for the engine."""
    why = [off(policies, check) for check, _ in found]
    if all(why):
        return Expected("skip", "; ".join(why))
    present = tuple(one for one, absence in zip(found, why, strict=True) if not absence)
    result, waiting, until = DELIVER, None, 0
    for (stage, _), check, outcome in sorted((_place(policies, check), check, outcome) for check, outcome in present):
        if waiting and stage != until:
            break
        one = _one(policies, check, outcome)
        if policies.checks[check].rulings[outcome].action is Action.DEFER_IF_PERMIT:
            waiting, until = waiting or one, stage
        elif one.kind in ("refuse", "defer", "drop"):
            return one._replace(found=present)
        elif _outdoes(one, result):
            result = one
    if waiting:
        return waiting._replace(found=present)
    lines = (_loosened(policies, *one) for one in present)
    return _told(result._replace(found=present, loosened=tuple(filter(None, lines))))


def _outdoes(one: Expected, result: Expected) -> bool:
    """Whether what a further finding does to a message that is taken shows more than `result`."""
    if result.kind == "deliver":
        return one.kind == "keep" or not result.mark
    return (result.place, one.place) == (KEPT[Action.HOLD], KEPT[Action.QUARANTINE])


def _place(policies: PolicySet, check: str) -> tuple[int, int]:
    """The stage where a check is asked first, and its place in the list."""
    for number, stage in enumerate(ALL_STAGES):
        names = [name for step in policies.plan.steps.get(("inbound", stage), ()) for name in step]
        if check in names:
            return number, names.index(check)
    return len(ALL_STAGES), 0


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
    action, reply = ruling.action, ruling.reply or PUT_OFF
    if action is Action.DISCONNECT:
        code = ruling.reply.code if ruling.reply else 421
        return Expected("refuse", f"{code} refused", code)
    if action is Action.REJECT:
        code = as_class(reply, permanent=True).code
        return Expected("refuse", f"{code} refused", code)
    if action in _DEFERRING:
        code = as_class(reply, permanent=False).code
        return Expected("defer", f"{code} put off", code)
    if action in KEPT:
        return Expected("keep", f"kept in {KEPT[action]}", place=KEPT[action])
    if action is Action.DISCARD:
        return Expected("drop", "taken and dropped")
    if action is Action.MARK:
        return Expected("deliver", f"delivered, marked {check}={outcome}", mark=f"{check}={outcome}")
    return DELIVER
