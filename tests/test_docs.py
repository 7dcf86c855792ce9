"""What the documentation shows works as shown."""

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from appliance.checks import Check
from appliance.engine.pipeline import Engine
from appliance.engine.policy import compile_policies
from appliance.mail.verdict import Decision
from tests.engine.scripted import PORTS, context

ROOT = Path(__file__).resolve().parent.parent
SUNDAY, MONDAY = 1_700_395_200.0, 1_700_481_600.0


@pytest.fixture
def weekday() -> Check:
    """The check of docs/new-check.md."""
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/new-check.md").read_text(), re.DOTALL)
    module = ModuleType("appliance.checks.weekday")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, "new-check.md", "exec"), module.__dict__)
        facts = (module.NAME, module.STAGES, module.GATE, module.OUTCOMES, module.REPLIES)
        return Check(*facts, "enforce", module.Policy, module.check)
    finally:
        del sys.modules[module.__name__]


def test_the_check_of_the_page_is_a_check(weekday: Check) -> None:
    checks = {weekday.name: weekday}
    plan = {"inbound": {stage: ["weekday"] if stage == "rcpt" else [] for stage in ("mail", "rcpt")}}
    exception = {"match": {"sender": "friend@example.net"}, "set": {"closed_on": [5]}}
    policies, complaints = compile_policies(
        {"stages.toml": plan, "weekday.toml": {"exception": [exception]}}, checks=checks
    )
    assert not complaints
    engine = Engine(policies, PORTS, checks=checks)
    closed = engine.ask(context(now=SUNDAY))
    assert isinstance(closed, Decision)
    assert closed.reply == "450 4.7.1 We are closed today, please try again tomorrow [ID1]"
    assert engine.ask(context(now=MONDAY)).verb == "accept"  # type: ignore[union-attr]


def test_the_example_of_the_grammar_page_is_valid() -> None:
    page = (ROOT / "policies/README.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    policies, complaints = compile_policies({"greylist.toml": tomllib.loads(example)})
    assert not complaints and len(policies.checks["greylist"].exceptions) == 1
