"""Policy files to rules: the grammar of policies/*.toml (policies/README.md).

Contract: every mistake is reported at once, with its TOML path; the set is always whole (where a value is wrong the
shipped one stands in). What failure means for the mail: none here; a set with fatal complaints is never put in force.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

from appliance.checks import Check, catalogue, knobs
from appliance.engine.plan import FILE, GATES, Complaint, compile_plan, did_you_mean
from appliance.engine.reader import FileReader
from appliance.engine.rules import CheckPolicy, PolicySet

__all__ = ["Complaint", "PolicySet", "compile_policies"]


def compile_policies(
    parsed: Mapping[str, Mapping[str, Any]],
    *,
    checks: Mapping[str, Check] | None = None,
    delay_reject: bool = True,
    today: date | None = None,
) -> tuple[PolicySet, list[Complaint]]:
    """`parsed`: file name below policies/ ("greylist.toml") to its TOML. An absent file means the shipped values.

    `checks`: the installed ones, gates and all, unless a test brings its own. `delay_reject` as in the wiring: it says
    when early verdicts are judged, hence which facts exceptions may match. `today` is for the warning about exceptions
    past their end; a running one ends by Context.now.
    """
    known = catalogue() if checks is None else checks
    files = {f"{name}.toml": name for name in known}
    gates = {place: tuple(name for name in names if checks is None or name in checks) for place, names in GATES.items()}
    plan, complaints = compile_plan(parsed.get(FILE, {}), known, gates)
    for file in parsed:
        if file not in files and file != FILE:
            complaints.append(Complaint(file, (), f"no check has this name{did_you_mean(file, files)}"))
    compiled = {}
    for file, name in files.items():
        reader = FileReader(file, known[name], plan, delay_reject, today or datetime.now(UTC).date())
        compiled[name] = reader.read(parsed.get(file, {}))
        complaints += reader.complaints
    complaints += _unknown_findings(compiled, known)
    return PolicySet(
        checks=compiled,
        plan=plan,
        tables=frozenset(_named(compiled, knobs.TABLE)),
        scanners=frozenset(_named(compiled, knobs.SCANNER)),
    ), complaints


def _unknown_findings(compiled: Mapping[str, CheckPolicy], known: Mapping[str, Check]) -> Iterator[Complaint]:
    """Knobs that name findings ("spf:fail") which no check makes."""
    for name, policy in compiled.items():
        for key, field in type(policy.knobs).model_fields.items():
            if knobs.FINDINGS not in field.metadata:
                continue
            for finding in getattr(policy.knobs, key).keys() - field.default.keys():
                check, _, outcome = finding.partition(":")
                if check in known and outcome not in known[check].outcomes:
                    hint = did_you_mean(outcome, known[check].outcomes)
                    yield Complaint(f"{name}.toml", (key, finding), f"{check} has no outcome {outcome}{hint}")
                elif check not in known and check != "sign":
                    yield Complaint(
                        f"{name}.toml", (key, finding), f"no check is called {check}{did_you_mean(check, known)}"
                    )


def _named(compiled: Mapping[str, CheckPolicy], kind: knobs.Naming) -> Iterator[str]:
    """What the knobs of this kind name, under any exception."""
    for policy in compiled.values():
        derived = [policy.derive((item,)) for item in policy.exceptions if policy.derive]
        for told in (policy, *derived):
            for key, field in type(told.knobs).model_fields.items():
                if kind in field.metadata:
                    yield from getattr(told.knobs, key)
