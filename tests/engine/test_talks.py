"""Conversations: asked in place of their check, in a session only; closed exactly once; who rewrites comes last and sees
the edits so far."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from appliance.checks import Check
from appliance.engine.plan import compile_plan
from appliance.engine.policy import compile_policies
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.ports import Ports, Unavailable
from appliance.mail.verdict import Verdict
from tests.engine.scripted import Knobs as Scripted
from tests.engine.scripted import check, context, engine, recipient, said


class Knobs(Scripted):
    peers: tuple[str, ...] = ("one",)


class Spoken:
    """A conversation that notes what happens to it."""

    def __init__(self, name: str, outcome: Any = "fine") -> None:
        self.name, self.outcome = name, outcome
        self.heard: list[tuple[str, tuple[Edit, ...]]] = []
        self.resets = self.closed = 0

    def ask(self, ctx: Context, edits: Sequence[Edit]) -> Any:
        self.heard.append((ctx.stage, tuple(edits)))
        found = self.outcome(ctx) if callable(self.outcome) else self.outcome
        return said(self.name, found) if isinstance(found, str) else found

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.closed += 1


def talker(name: str, made: list[Spoken], outcome: Any = "fine", rewrites: bool = True) -> Check:
    def open_(policy: Knobs, ports: Ports) -> Spoken:
        made.append(Spoken(name, outcome))
        return made[-1]

    plain = check(name, "warn")
    return plain._replace(policy=Knobs, open=open_, rewrites=rewrites, idle=lambda knobs, role, stage: not knobs.peers)


TO = (recipient("r@example.com"),)


def test_a_session_holds_one_conversation_and_closes_it_once() -> None:
    made: list[Spoken] = []
    under = engine([check("a"), talker("t", made)], {"rcpt": ["a", "t"], "message": ["a", "t"]})
    talks = under.talks("inbound")
    assert talks is not None and under.talks("outbound") is None
    under.ask(context(), talks)
    under.message(context("message", recipients=TO), talks)
    [spoken] = made
    assert [stage for stage, _ in spoken.heard] == ["rcpt", "message"]
    talks.reset()
    talks.close()
    talks.close()
    assert (spoken.resets, spoken.closed) == (1, 1)
    decision = under.ask(context(), talks)
    assert [v.outcome for v in decision.verdicts] == ["fine", "temperror"]  # type: ignore[union-attr]
    assert len(made) == 1


def test_without_a_session_its_check_answers() -> None:
    made: list[Spoken] = []
    decision = engine([talker("t", made)], {"rcpt": ["t"]}).ask(context())
    assert [v.outcome for v in decision.verdicts] == ["warn"] and not made  # type: ignore[union-attr]


def test_nobody_to_talk_with_costs_nothing() -> None:
    made: list[Spoken] = []
    under = engine([talker("t", made)], {"rcpt": ["t"], "data": ["t"]}, {"t.toml": {"peers": []}})
    assert under.talks("inbound") is None
    assert not under.stands("inbound", "data")


def test_another_policy_begins_another_conversation() -> None:
    made: list[Spoken] = []
    one = engine([talker("t", made)], {"rcpt": ["t"]})
    same = engine([talker("t", made)], {"rcpt": ["t"]})
    other = engine([talker("t", made)], {"rcpt": ["t"]}, {"t.toml": {"peers": ["two"]}})
    talks = one.talks("inbound")
    for each in (one, same, other):
        each.ask(context(), talks)
    assert [spoken.closed for spoken in made] == [1, 0]
    assert talks is not None
    talks.close()
    assert [spoken.closed for spoken in made] == [1, 1]


def test_rewriters_see_the_edits_so_far_one_after_the_other() -> None:
    made: list[Spoken] = []

    def adds(name: str) -> Any:
        return lambda ctx: Verdict(check=name, outcome="fine", edits=(Edit("append", f"X-{name}", "1"),))

    checks = [check("a", lambda ctx, policy: Verdict(check="a", outcome="fine", edits=(Edit("append", "X-a", "1"),)))]
    checks += [talker("t", made, adds("t")), talker("u", made, adds("u"))]
    under = engine(checks, {"message": ["a", "t", "u"]})
    [group] = under.message(context("message", recipients=TO), under.talks("inbound"))  # type: ignore[misc]
    assert [[edit.name for edit in spoken.heard[0][1]] for spoken in made] == [["X-a"], ["X-a", "X-t"]]
    assert [edit.name for edit in group.decision.edits] == ["X-a", "X-t", "X-u"]


def test_nobody_is_told_of_what_is_refused_or_put_off() -> None:
    made: list[Spoken] = []
    for outcome in ("reject", "defer_if_permit"):
        under = engine([check("a", outcome), talker("t", made)], {"rcpt": ["a", "t"]})
        under.ask(context(), under.talks("inbound"))
    assert not made


def test_a_conversation_may_take_its_time_and_fail_alone() -> None:
    made: list[Spoken] = []

    async def fails() -> Verdict:
        await asyncio.sleep(0)
        raise Unavailable("away")

    under = engine([talker("t", made, lambda ctx: fails()), check("b")], {"rcpt": ["t", "b"]})

    async def ask() -> Any:
        return await under.ask(context(), under.talks("inbound"))  # type: ignore[misc]

    assert [v.outcome for v in asyncio.run(ask()).verdicts] == ["temperror", "fine"]


@pytest.mark.parametrize(
    ("listed", "wrong"),
    [
        ([["a", "t"]], "t rewrites the message: it cannot be asked together with others"),
        ([["t"]], "t rewrites the message: it cannot be asked together with others"),
        (["t", "a"], "a stands behind a check that rewrites the message: it would judge what is not sent"),
        (["a", "t", "u"], ""),
    ],
)
def test_the_two_halves_of_the_message_stage(listed: list[Any], wrong: str) -> None:
    known = {item.name: item for item in (check("a"), talker("t", []), talker("u", []))}
    complaints = compile_plan({"inbound": {"message": listed}}, known, {})[1]
    assert [complaint.text for complaint in complaints] == ([wrong] if wrong else [])


def test_an_exception_cannot_change_knobs_of_a_conversation() -> None:

    known = {"t": talker("t", [])}
    entry = {"match": {"client_address": "192.0.2.1"}, "set": {"wait": "5s"}}
    plan = {"inbound": {"rcpt": ["t"]}}
    complaints = compile_policies({"stages.toml": plan, "t.toml": {"exception": [entry]}}, checks=known)[1]
    assert [c.text for c in complaints] == ["t talks with others over the whole session: set its mode or an outcome"]
    entry["set"] = {"mode": "off"}
    assert not compile_policies({"stages.toml": plan, "t.toml": {"exception": [entry]}}, checks=known)[1]
