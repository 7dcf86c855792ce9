"""What a self-test expects of two findings is what the engine makes of them."""

import itertools

import pytest

from appliance.checks import catalogue
from appliance.cli.selftest.expect import KEPT, expect
from appliance.engine.judge import Judgement
from appliance.engine.policy import compile_policies
from appliance.engine.rules import PolicySet
from appliance.mail.context import STAGES
from appliance.mail.verdict import Action, Decision, Verdict

#: Of actions that need an argument, or concern refusals by others, a finding cannot say what comes of it.
ACTIONS = sorted(set(Action) - {Action.PREPEND, Action.BCC, Action.REDIRECT, Action.FILTER, Action.DEFER_IF_REJECT})
KINDS = {"reject": "refuse", "disconnect": "refuse", "defer": "defer", "discard": "drop"}
#: Findings at two stages, and two at one.
FOUND = [(("spf", "fail"), ("dmarc", "reject")), (("dmarc", "reject"), ("antivirus", "infected"))]


def engine(policies: PolicySet, found: tuple[tuple[str, str], ...]) -> Decision:
    """The last decision over findings in the order of their stages; what refuses ends it."""
    past: list[Verdict] = []
    decision = Decision(verb="accept")
    for stage in STAGES:
        names = [name for step in policies.plan.steps.get(("inbound", stage), ()) for name in step]
        here = sorted((names.index(check), check, outcome) for check, outcome in found if check in names)
        if not here:
            continue
        judgement = Judgement()
        for verdict in past:
            judgement.add(verdict, policies.checks[verdict.check].rulings[verdict.outcome], past=True)
        for _, check, outcome in here:
            past.append(Verdict(check=check, outcome=outcome, stage=stage))
            judgement.add(past[-1], policies.checks[check].rulings[outcome])
        decision = judgement.decision(())
        if decision.verb not in ("accept", "discard"):
            break
    return decision


@pytest.mark.parametrize("found", FOUND, ids=["two stages", "one stage"])
def test_as_the_engine_decides(found: tuple[tuple[str, str], ...]) -> None:
    seen = set()
    for actions in itertools.product(ACTIONS, repeat=2):
        files = {
            f"{check}.toml": {"on": {outcome: action.value}}
            for (check, outcome), action in zip(found, actions, strict=True)
        }
        policies, complaints = compile_policies(files)
        assert not [one for one in complaints if one.fatal], complaints
        assert all(outcome in catalogue()[check].outcomes for check, outcome in found)
        decision, expected = engine(policies, found), expect(policies, *found)
        kind = KINDS.get(decision.verb, "deliver" if decision.keep == "deliver" else "keep")
        place = decision.keep if kind == "keep" else ""
        assert (expected.kind, expected.place) == (kind, place), actions
        seen.add((kind, place))
    assert {("keep", place) for place in KEPT.values()} < seen and len(seen) == 6
