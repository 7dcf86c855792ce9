"""Every shipped policy file says the truth: each knob once, with the code's default; [on] and [reply] whole."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from appliance.checks import NAMES, Check, catalogue
from appliance.engine import plan
from appliance.engine.policy import compile_policies
from appliance.mail.context import STAGES
from appliance.mail.replies import parse
from appliance.mail.verdict import Action

FOLDER = Path(__file__).resolve().parent.parent / "policies"
CHECKS = list(catalogue().values())
BY_NAME = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
#: A knob stands on a line of its own: `key = value` in force, `#key = default` documented.
_LINE = re.compile(r"^(#?)([a-z_0-9]+) = (.+)$", re.MULTILINE)
#: Knobs that are shipped otherwise than the code's default: the tables of access and content come with the folder.
SHIPPED_OTHERWISE = {("access", key) for key in ("client", "helo", "sender", "recipient")} | {
    ("content", "header"),
    ("content", "body"),
}


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.toml").read_text()


def head(name: str) -> str:
    """What stands before the first table."""
    return re.split(r"^\[", text_of(name), maxsplit=1, flags=re.MULTILINE)[0]


def value(text: str) -> Any:
    return tomllib.loads(f"value = {text}")["value"]


def test_every_check_is_installed_and_has_its_file() -> None:
    assert list(catalogue()) == list(NAMES)
    assert {path.stem for path in FOLDER.glob("*.toml")} == {*NAMES, "stages"}


def test_the_shipped_files_have_no_mistakes_not_even_warnings() -> None:
    parsed = {path.name: tomllib.loads(path.read_text()) for path in FOLDER.glob("*.toml")}
    assert compile_policies(parsed)[1] == []


@BY_NAME
def test_every_knob_stands_once_with_its_default(check: Check) -> None:
    lines = [(mark, key, value(text)) for mark, key, text in _LINE.findall(head(check.name))]
    assert sorted(key for _, key, _ in lines) == sorted(["mode", *check.policy.model_fields])
    default = check.policy()
    for mark, key, written in lines:
        if key == "mode":
            assert written == check.mode
        elif mark or (check.name, key) not in SHIPPED_OTHERWISE:
            told = check.policy(**{key: written})
            assert getattr(told, key) == getattr(default, key), f"{key} is {getattr(default, key)!r} in the code"


@BY_NAME
def test_actions_and_replies_are_the_shipped_ones(check: Check) -> None:
    parsed = tomllib.loads(text_of(check.name))
    assert parsed["on"] == {outcome: str(action) for outcome, action in check.outcomes.items()}
    assert parsed.get("reply", {}) == dict(check.replies)


@BY_NAME
def test_what_a_check_module_promises(check: Check) -> None:
    assert check.name in NAMES and set(check.stages) <= set(STAGES)
    assert check.outcomes["temperror"] is (Action.DEFER_IF_PERMIT if check.gate else Action.MARK)
    assert not check.outcomes.keys() & (check.policy.model_fields.keys() | {"mode"}), (
        "an exception could not tell them apart"
    )
    refusing = {Action.REJECT: True, Action.DEFER: False, Action.DEFER_IF_PERMIT: False, Action.DEFER_IF_REJECT: False}
    for outcome, action in check.outcomes.items():
        if action in refusing:
            assert parse(check.replies[outcome]).permanent is refusing[action], outcome


@BY_NAME
def test_replies_are_bland(check: Check) -> None:
    told = re.compile(r"clam|assassin|spamd|rspam|score|postgate|rule|redis|table|\d+\.\d+\.\d+\.\d+", re.IGNORECASE)
    assert not [text for text in check.replies.values() if told.search(parse(text).text)]


def test_the_shipped_plan() -> None:
    parsed = tomllib.loads(text_of("stages"))
    assert {role: parsed[role] for role in plan.SHIPPED} == plan.SHIPPED
    lines = {key: (mark, value(text)) for mark, key, text in _LINE.findall(head("stages"))}
    assert lines.keys() == {"deadline", "message_deadline"}
    documented = {key: written for key, (_, written) in lines.items()}
    assert plan.compile_plan(documented, catalogue())[0] == plan.compile_plan({}, catalogue())[0]


def test_shipped_tables_are_empty() -> None:
    for path in [*(FOLDER / "access").iterdir(), *(FOLDER / "content").iterdir()]:
        assert all(line.startswith("#") or not line.strip() for line in path.read_text().splitlines()), path


def test_the_grammar_page_names_every_word() -> None:
    page = (FOLDER / "README.md").read_text()
    for word in (*Action, *plan.STAGES, *NAMES, "enforce", "monitor", "off"):
        assert re.search(rf"`{word}\b", page), word
