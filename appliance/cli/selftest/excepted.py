"""The operator's [[exception]]s that fit a stranger of the self-test: where they stand, what the policies are by them.

Contract: reads the operator's files for line numbers, changes nothing.
"""

from collections.abc import Iterable

import msgspec

from appliance.checks import catalogue
from appliance.cli.selftest.places import line_of
from appliance.cli.selftest.scene import OURS
from appliance.cli.selftest.who import Finding, Who
from appliance.engine.exceptions import Exemption
from appliance.engine.rules import CheckPolicy, PolicySet
from appliance.mail.verdict import Action

#: Actions that stop a mail, and those of what there is nothing to say against.
STOPPING = frozenset(
    {
        Action.REJECT,
        Action.DISCONNECT,
        Action.DEFER,
        Action.DEFER_IF_PERMIT,
        Action.DEFER_IF_REJECT,
        Action.HOLD,
        Action.QUARANTINE,
        Action.DISCARD,
    }
)
_HARMLESS = frozenset({Action.DUNNO, Action.ACCEPT, Action.INFO})


def under(policies: PolicySet, who: Who, checks: Iterable[str]) -> PolicySet:
    """As they are for this stranger, as far as these checks go."""
    told = {check: by(policies.checks[check], who.fitting(policies.checks[check])) for check in checks}
    return msgspec.structs.replace(policies, checks={**policies.checks, **told})


def by(policy: CheckPolicy, exceptions: tuple[Exemption, ...]) -> CheckPolicy:
    """A policy under exceptions."""
    return policy.derive(exceptions) if exceptions and policy.derive else policy


def stops(policy: CheckPolicy, finding: Finding, who: Who, true: bool) -> tuple[Exemption, ...]:
    """The exceptions by which a stranger is stopped for a finding, none if it is not by them. What is not `true` of it
    must be what nobody is stopped for as shipped."""
    _, outcome = finding
    told = by(policy, found := who.fitting(policy))
    ruling = told.rulings.get(outcome)
    stopped = told.mode == "enforce" and ruling is not None and ruling.action in STOPPING
    harmless = policy.name in catalogue() and catalogue()[policy.name].outcomes.get(outcome) in _HARMLESS
    return tuple(one for one in found if {outcome, "mode"} & set(one.sets)) if stopped and (true or harmless) else ()


def named(policies: PolicySet, exceptions: Iterable[tuple[str, Exemption]], folders: Iterable[str]) -> str:
    """Exceptions (check, exception) with their lines, and the reasons that they give."""
    places, texts = list(folders), []
    for check, one in exceptions:
        ours = sum(other.reason == OURS for other in policies.checks[check].exceptions)  # these stand above
        line = line_of(check, places, ("exception", one.index - ours))
        texts.append(f"[[exception]] {line}{f' ({one.reason})' if one.reason else ''}")
    return ", ".join(texts)
