"""pipeline: the fast path, crashes, deadlines, delay, groups; order never depends on time."""

import asyncio
import inspect
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.pipeline import Engine, combine, future
from appliance.mail.edits import Edit
from appliance.mail.ports import Unavailable
from appliance.mail.promise import Promise
from appliance.mail.verdict import Action, Decision, Verdict
from appliance.protocol import quota
from tests.engine.scripted import ARGUMENTS, check, context, engine, later, recipient, said


class TurnedLoop(asyncio.SelectorEventLoop):
    """Time passes at once when there is nothing to do but to wait."""

    turned = 0.0

    def time(self) -> float:
        return super().time() + self.turned

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.turned += max(0.0, self._scheduled[0]._when - self.time())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(answer: Any) -> Any:
    """What `answer` comes to; waiting costs no time."""
    if not inspect.isawaitable(answer):
        return answer

    async def wait() -> Any:
        return await answer

    loop = TurnedLoop()
    try:
        return loop.run_until_complete(wait())
    finally:
        loop.close()


def outcomes(decision: Decision) -> list[str]:
    return [f"{verdict.check}:{verdict.outcome}" for verdict in decision.verdicts]


def test_what_needs_no_waiting_is_answered_at_once() -> None:
    made = engine([check("a"), check("b", "mark")], {"rcpt": ["a", "b"], "message": [["a", "b"]]})
    decision = made.ask(context())
    assert isinstance(decision, Decision) and outcomes(decision) == ["a:fine", "b:mark"]
    assert isinstance(made.message(context("message", recipients=(recipient("r@example.com"),))), list)


def test_verdicts_know_their_stage_and_recipient() -> None:
    decision = run(engine([check("a"), check("b", later("b", "fine"))], {"rcpt": ["a", "b"]}).ask(context()))
    assert [(v.stage, v.recipient) for v in decision.verdicts] == [("rcpt", "r@example.com")] * 2


def test_a_decided_stage_asks_no_more() -> None:
    made = engine([check("a", "reject"), check("b", RuntimeError("asked"))], {"rcpt": ["a", "b"]})
    assert outcomes(made.ask(context())) == ["a:reject"]
    made = engine([check("a", later("a", "reject")), check("b")], {"rcpt": ["a", "b"]})
    assert outcomes(run(made.ask(context()))) == ["a:reject"]


def test_after_an_accept_only_gates_are_asked() -> None:
    checks = [check("access", "accept"), check("relay", "reject"), check("greylist", "defer")]
    made = engine(checks, {"rcpt": ["access", "greylist", "relay"]})
    decision = made.ask(context())
    assert decision.verb == "reject" and outcomes(decision) == ["access:accept", "relay:reject"]


@given(
    st.lists(st.sampled_from([str(action) for action in Action]), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_the_order_of_arrival_changes_nothing(found: list[str], random: Any) -> None:
    names = [f"c{number}" for number in range(len(found))]
    delays = [float(number) for number in range(len(found))]
    random.shuffle(delays)
    at_once = engine([check(n, o) for n, o in zip(names, found, strict=True)], {"rcpt": [names]})
    slow = [check(n, later(n, o, d)) for n, o, d in zip(names, found, delays, strict=True)]
    mixed = [check(n, o if d > 2 else later(n, o, d)) for n, o, d in zip(names, found, delays, strict=True)]
    expected = at_once.ask(context())
    assert run(engine(slow, {"rcpt": [names]}).ask(context())) == expected
    assert run(engine(mixed, {"rcpt": [names]}).ask(context())) == expected


@given(st.lists(st.sampled_from([str(action) for action in Action]), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_asking_together_or_one_by_one_decides_alike(found: list[str], data: Any) -> None:
    """Inner lists change when checks are asked, never what is decided."""
    names = [f"c{number}" for number in range(len(found))]
    checks = [check(n, o) for n, o in zip(names, found, strict=True)]
    cut = data.draw(st.integers(0, len(names)))
    one = engine(checks, {"rcpt": list(names)}).ask(context())
    two = engine(checks, {"rcpt": [*names[:cut], names[cut:]] if names[cut:] else names}).ask(context())
    assert (one.verb, one.reply, one.keep, one.edits) == (two.verb, two.reply, two.keep, two.edits)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "trouble",
    ["raises", "raises later", "given up", "wrong", "undeclared", "nothing", "away", "stolen name"],
)
def test_whatever_a_check_does_costs_itself_only(place: int, trouble: str) -> None:
    answer: Any = {
        "raises": ValueError("secret path /etc"),
        "raises later": later("bad", KeyError("x"), 1.0),
        "given up": later("bad", asyncio.CancelledError(), 1.0),
        "wrong": 42,
        "undeclared": "no such word",
        "nothing": None,
        "away": Unavailable("state is away"),
        "stolen name": said("good0", "accept"),
    }[trouble]
    names = ["good0", "good1"]
    names.insert(place, "bad")
    bad = check("bad", lambda ctx, policy: answer if not callable(answer) else answer(ctx, policy))
    for stages in ({"rcpt": names}, {"rcpt": [names]}):
        decision = run(engine([bad, check("good0"), check("good1", "mark")], stages).ask(context()))
        assert sorted(outcomes(decision)) == ["bad:temperror", "good0:fine", "good1:mark"]
        assert decision.verb == "accept" and set(decision.marks) == {"bad:temperror", "good1:mark"}
        assert "secret" not in decision.reply


async def test_a_promise_that_is_given_up_costs_its_check_only() -> None:
    def promised(ctx: object, policy: object) -> Any:
        promise: Promise[Verdict] = Promise(future)
        asyncio.get_running_loop().call_soon(promise.set_exception, asyncio.CancelledError())
        return promise

    asked = engine([check("bad", promised), check("good", "mark")], {"rcpt": ["bad", "good"]}).ask(context())
    assert not isinstance(asked, Decision)
    async with asyncio.timeout(10):
        assert sorted(outcomes(await asked)) == ["bad:temperror", "good:mark"]


def test_a_broken_gate_puts_off_and_says_nothing_of_why() -> None:
    files = {"bad.toml": {"on": {"temperror": "defer_if_permit"}}}
    decision = engine([check("bad", ValueError("secret"))], {"rcpt": ["bad"]}, files).ask(context())
    assert decision.verb == "defer" and decision.reply.startswith("451 4.") and decision.reply.endswith(" [ID1]")
    assert "secret" not in decision.reply
    deciding = decision.deciding
    assert deciding is not None and deciding.reason == "failed: ValueError"


def test_one_deadline_for_a_step_and_the_late_are_cancelled() -> None:
    ended: list[str] = []

    def slow(ctx: object, policy: object) -> Any:
        async def forever() -> Verdict:
            try:
                await asyncio.sleep(1e6)
            finally:
                ended.append("cancelled")
            return said("slow", "reject")

        return forever()

    checks = [check("slow", slow), check("quick", later("quick", "mark", 2.0)), check("after", "info")]
    for stages in ({"rcpt": [["slow", "quick"], "after"]}, {"rcpt": ["slow", "quick", "after"]}):
        decision = run(engine(checks, stages, deadline="5s").ask(context()))
        assert outcomes(decision) == ["slow:temperror", "quick:mark", "after:info"]
        assert decision.verdicts[0].reason == "no answer within 5 s"
        assert ended == ["cancelled"]
        ended.clear()


def test_the_message_stage_has_its_own_deadline() -> None:
    made = engine(
        [check("a", later("a", "mark", 20.0))], {"rcpt": ["a"], "message": ["a"]}, deadline="5s", message_deadline="60s"
    )
    assert outcomes(run(made.ask(context()))) == ["a:temperror"]
    groups = run(made.message(context("message", recipients=(recipient("r@example.com"),))))
    assert outcomes(groups[0].decision) == ["a:mark"]


def test_a_check_whose_knobs_say_how_long_it_waits_is_waited_for() -> None:
    patient = check("a", later("a", "mark", 20.0))._replace(patience=lambda knobs, stage: 20.0 if stage == "rcpt" else 0)
    quick = check("b", later("b", "mark", 1.0))
    stages = {"rcpt": ["a"], "data": [["a", "b"]]}
    made = engine([patient, quick], stages, deadline="5s")
    assert outcomes(run(made.ask(context()))) == ["a:mark"]
    assert outcomes(run(made.ask(context("data")))) == ["a:temperror", "b:mark"]


def test_a_client_that_is_gone_cancels_the_checks() -> None:
    ended: list[str] = []

    def slow(name: str) -> Any:
        async def forever() -> Verdict:
            try:
                await asyncio.sleep(1e6)
            finally:
                ended.append(name)
            raise AssertionError

        return lambda ctx, policy: forever()

    async def leave(made: Engine) -> None:
        task = asyncio.ensure_future(made.ask(context()))  # type: ignore[arg-type]
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    run(leave(engine([check("a", slow("a")), check("b", slow("b"))], {"rcpt": [["a", "b"]]})))
    assert sorted(ended) == ["a", "b"]
    run(leave(engine([check("a", slow("c"))], {"rcpt": ["a"]})))
    assert ended[2:] == ["c"]


# -- delay ----------------------------------------------------------------------------------------------------------


def early(outcome: str, **more: Any) -> tuple[Engine, Decision]:
    made = engine([check("a", outcome), check("b")], {"connect": ["a"], "helo": ["b"], "rcpt": ["b"]}, **more)
    return made, made.ask(context("connect"))


def test_delayed_verdicts_are_judged_at_rcpt() -> None:
    made, decision = early("reject")
    assert decision.verb == "accept" and outcomes(decision) == ["a:reject"]
    at_rcpt = made.ask(context(trail=decision.verdicts))
    assert at_rcpt.verb == "reject" and at_rcpt.verdicts == () and at_rcpt.deciding == decision.verdicts[0]


def test_a_delayed_check_does_not_stop_the_others_before_rcpt() -> None:
    made = engine([check("a", "reject"), check("b")], {"connect": ["a", "b"]})
    assert outcomes(made.ask(context("connect"))) == ["a:reject", "b:fine"]


def test_a_disconnect_acts_at_once() -> None:
    assert early("disconnect")[1].verb == "disconnect"


def test_without_delay_early_verdicts_are_judged_where_they_are_found() -> None:
    made, decision = early("reject", delay_reject=False)
    assert decision.verb == "reject"
    assert made.ask(context(trail=decision.verdicts)).verb == "accept"
    assert early("defer_if_permit", delay_reject=False)[1].verb == "defer"


def test_an_early_exception_sees_the_recipient_when_judged_at_rcpt() -> None:
    files = {"a.toml": {"exception": [{"match": {"recipient": "r@example.com"}, "set": {"reject": "dunno"}}]}}
    made = engine([check("a", "reject")], {"connect": ["a"]}, files)
    trail = made.ask(context("connect")).verdicts
    assert made.ask(context(trail=trail)).verb == "accept"
    assert made.ask(context(trail=trail, recipient=recipient("x@example.com"))).verb == "reject"


# -- modes and exceptions --------------------------------------------------------------------------------------------


def test_off_is_not_run_and_monitor_is_run_without_effect() -> None:
    boom = check("a", RuntimeError("run"))
    assert engine([boom], {"rcpt": ["a"]}, {"a.toml": {"mode": "off"}}).ask(context()).verdicts == ()
    decision = engine([check("a", "reject")], {"rcpt": ["a"]}, {"a.toml": {"mode": "monitor"}}).ask(context())
    assert decision.verb == "accept" and decision.notes and outcomes(decision) == ["a:reject"]


def test_exceptions_change_mode_action_and_knob() -> None:
    match = {"client_address": "192.0.2.0/24"}
    for sets, expected in (
        ({"mode": "off"}, []),
        ({"mode": "monitor"}, ["a:reject"]),
        ({"reject": "mark"}, ["a:reject"]),
        ({"answer": "warn"}, ["a:warn"]),
    ):
        made = engine([check("a", "reject")], {"rcpt": ["a"]}, {"a.toml": {"exception": [{"match": match, "set": sets}]}})
        decision = made.ask(context())
        assert decision.verb == "accept" and outcomes(decision) == expected
        elsewhere = context(client=context().client.__class__(address="198.51.100.1"))
        assert made.ask(elsewhere).verb == "reject"


# -- message ---------------------------------------------------------------------------------------------------------


class Letter:
    header_complete = True

    def __init__(self, header: bytes) -> None:
        self.header = header
        self.size = len(header)


def letter(header: bytes = b"Subject: x\r\n\r\n", *names: str, **more: Any) -> Any:
    return context(
        "message", content=Letter(header), recipients=tuple(recipient(n) for n in names or ("r@example.com",)), **more
    )


def test_like_recipients_are_one_group() -> None:
    made = engine([check("a", "mark")], {"message": ["a"]})
    groups = made.message(letter(b"\r\n", *(f"u{n}@example.com" for n in range(50))))
    assert [group.recipients for group in groups] == [tuple(range(50))]
    assert groups[0].decision.edits == (Edit("prepend", "X-Postgate-Mark", "a=mark"),)


def test_an_exception_for_a_recipient_makes_a_group_of_its_own() -> None:
    files = {
        "a.toml": {"exception": [{"match": {"recipient": ["b@example.com", "d@example.com"]}, "set": {"reject": "mark"}}]}
    }
    made = engine([check("a", "reject")], {"message": ["a"]}, files)
    groups = made.message(letter(b"\r\n", "a@example.com", "b@example.com", "c@example.com", "d@example.com"))
    assert [(group.recipients, group.decision.verb) for group in groups] == [((0, 2), "reject"), ((1, 3), "accept")]
    combined = combine(groups)
    assert [(g.recipients, g.decision.keep) for g in combined.store] == [((0, 2), "quarantine"), ((1, 3), "deliver")]


def test_what_rcpt_found_for_one_recipient_acts_on_its_copy_only() -> None:
    outcomes_of = {"a@example.com": "fine", "b@example.com": "hold", "c@example.com": "discard", "d@example.com": "bcc"}
    made = engine(
        [check("a", lambda ctx, policy: outcomes_of[ctx.recipient.address.text]), check("m")],
        {"rcpt": ["a"], "message": ["m"]},
    )
    trail: tuple[Verdict, ...] = ()
    for name in outcomes_of:
        trail += made.ask(context(recipient=recipient(name), trail=trail)).verdicts
    groups = made.message(letter(b"\r\n", *outcomes_of, trail=trail))
    found = {group.recipients: group.decision for group in groups}
    assert found[(0,)].keep == "deliver" and found[(0,)].verb == "accept" and not found[(0,)].bcc
    assert found[(1,)].keep == "hold"
    assert found[(2,)].verb == "discard"
    assert found[(3,)].bcc == (ARGUMENTS["bcc"],)
    assert [group.recipients for group in combine(groups).store] == [(0,), (1,), (3,)]


def test_early_marks_reach_every_copy_once() -> None:
    made = engine([check("a", "mark"), check("m", "mark")], {"connect": ["a"], "rcpt": ["m"], "message": ["m"]})
    trail = made.ask(context("connect")).verdicts
    for name in ("a@example.com", "b@example.com"):
        trail += made.ask(context(recipient=recipient(name), trail=trail)).verdicts
    (group,) = made.message(letter(b"\r\n", "a@example.com", "b@example.com", trail=trail))
    assert group.decision.marks == ("a:mark", "m:mark")
    assert [edit.value for edit in reversed(group.decision.edits)] == ["a=mark", "m=mark"]


def test_nothing_is_scanned_for_what_is_discarded() -> None:
    made = engine([check("a", "discard"), check("m", RuntimeError("asked"))], {"rcpt": ["a"], "message": ["m"]})
    (group,) = made.message(letter(trail=made.ask(context()).verdicts))
    assert group.decision.verb == "discard" and group.decision.verdicts == ()


def test_forged_marks_are_taken_out() -> None:
    header = b"From: a@b\r\nx-postgate-mark: spf=pass\r\nX-Postgate-Other : 1\r\nX-PostGate-Mark: 2\r\n\r\n"
    made = engine([check("a", "mark")], {"message": ["a"]})
    (group,) = made.message(letter(header))
    assert group.decision.edits == (
        Edit("delete", "x-postgate-*"),
        Edit("prepend", "X-Postgate-Mark", "a=mark"),
    )


def test_ten_thousand_forged_names_cost_one_edit() -> None:
    header = b"".join(b"X-Postgate-%d: 1\r\n" % n for n in range(10000)) + b"X-Postgate-Mark: 1\r\n\r\n"
    (group,) = engine([check("a")], {"message": ["a"]}).message(letter(header))
    assert group.decision.edits == (Edit("delete", "x-postgate-*"),)


def test_the_message_is_judged_while_it_waits() -> None:
    checks = [check("a", later("a", "quarantine", 3.0)), check("b", later("b", "reject", 1.0)), check("c", "info")]
    made = engine(checks, {"message": [["a", "b"], "c"]})
    (group,) = run(made.message(letter()))
    assert group.decision.verb == "reject" and outcomes(group.decision) == ["a:quarantine", "b:reject"]


def test_d4_all_checks_of_a_stage_share_one_quota_of_dns_questions() -> None:
    taken: list[str] = []

    def asks(name: str, number: int, own_task: bool) -> Any:
        async def ask() -> Verdict:
            for _ in range(number):
                await asyncio.sleep(0)
                allowed = quota.current.get()
                assert allowed is not None
                allowed.take()
                taken.append(name)
            return said(name, "fine")

        return check(name, lambda ctx, policy: asyncio.ensure_future(ask()) if own_task else ask())

    checks = [asks("one", 3, False), asks("two", 3, True), asks("three", 3, False)]
    made = engine(checks, {"message": ["one", ["two", "three"]]}, questions=7)

    async def run() -> list[str]:
        groups = made.message(context("message", recipients=(recipient("a@example.com"),)))
        assert inspect.isawaitable(groups)
        found = [verdict.outcome for verdict in (await groups)[0].decision.verdicts]
        assert quota.current.get() is None
        return found

    assert sorted(asyncio.run(run())) == ["fine", "temperror", "temperror"] and len(taken) == 7
    taken.clear()
    asyncio.run(run())
    assert len(taken) == 7, "each message has its own"
