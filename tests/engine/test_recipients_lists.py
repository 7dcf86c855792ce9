"""Recipients whose exceptions set other knobs are each judged by a check that was asked with their own."""

from typing import Any

from appliance.engine.judge import Group
from tests.engine.scripted import check, context, engine, later, recipient

TO = tuple(recipient(f"r@{name}.example.com") for name in ("a", "b", "c", "d"))
OTHERS = [
    {"match": {"recipient_domain": "b.example.com"}, "set": {"limit": 9}, "reason": "x", "owner": "x"},
    {"match": {"recipient_domain": "c.example.com"}, "set": {"mode": "off"}, "reason": "x", "owner": "x"},
    {"match": {"recipient_domain": "d.example.com"}, "set": {"reject": "dunno"}, "reason": "x", "owner": "x"},
]


def by_limit(ctx: object, policy: Any) -> str:
    return "reject" if policy.limit == 7 else "hold"


def verbs(groups: list[Group]) -> dict[int, str]:
    return {member: f"{group.decision.verb}/{group.decision.keep}" for group in groups for member in group.recipients}


WANTED = {0: "reject/deliver", 1: "accept/hold", 2: "accept/deliver", 3: "accept/deliver"}


def test_each_recipient_has_its_own_list() -> None:
    made = engine([check("a", by_limit), check("b")], {"message": ["a", "b"]}, {"a.toml": {"exception": OTHERS}})
    groups = made.message(context("message", recipients=TO))
    assert isinstance(groups, list) and verbs(groups) == WANTED


async def test_also_where_the_check_has_to_wait() -> None:
    def answer(ctx: Any, policy: Any) -> Any:
        return later("a", by_limit(ctx, policy))(ctx, policy)

    made = engine([check("a", answer), check("b")], {"message": [["b", "a"]]}, {"a.toml": {"exception": OTHERS}})
    groups = made.message(context("message", recipients=TO))
    assert not isinstance(groups, list)
    assert verbs(await groups) == WANTED


def test_a_check_is_asked_once_for_those_who_have_the_same_knobs() -> None:
    asked: list[int] = []

    def answer(ctx: object, policy: Any) -> str:
        asked.append(policy.limit)
        return "mark"

    made = engine([check("a", answer)], {"message": ["a"]}, {"a.toml": {"exception": OTHERS}})
    made.message(context("message", recipients=TO * 3))
    assert sorted(asked) == [7, 9]
    asked.clear()
    made.message(context("message", recipients=TO[2:3]))
    assert asked == [], "off for all"
