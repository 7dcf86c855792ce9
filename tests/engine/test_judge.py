"""judge: list order, what decides, what is remembered, what is never skipped; combine."""

import itertools

import pytest

from appliance.engine.judge import Combined, Group, Judgement, combine, judge
from appliance.engine.rules import Ruling
from appliance.mail.edits import Edit
from appliance.mail.replies import parse
from appliance.mail.verdict import Action, Decision, Verdict

A = Action


def item(action: Action, name: str = "c", *, mode: str = "enforce", stage: str = "rcpt", reply: str = "", **more: object):
    verdict = Verdict(check=name, outcome=f"o_{action}", stage=stage, **more)  # type: ignore[arg-type]
    return verdict, Ruling(action, "", parse(reply) if reply else None, mode)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("actions", "verb", "place"),
    [
        ([], "accept", None),
        ([A.DUNNO, A.MARK], "accept", None),
        ([A.REJECT, A.DEFER], "reject", 0),
        ([A.DEFER, A.REJECT], "defer", 0),
        ([A.MARK, A.DISCARD, A.REJECT], "discard", 1),
        ([A.DISCONNECT, A.REJECT], "disconnect", 0),
        ([A.DEFER_IF_PERMIT], "defer", 0),
        ([A.DEFER_IF_PERMIT, A.DUNNO, A.REJECT], "reject", 2),
        ([A.DEFER_IF_PERMIT, A.DISCARD], "discard", 1),
        ([A.DEFER_IF_PERMIT, A.DEFER_IF_PERMIT], "defer", 0),
        ([A.DEFER_IF_REJECT], "accept", None),
        ([A.DEFER_IF_REJECT, A.MARK, A.REJECT], "defer", 0),
        ([A.DEFER_IF_REJECT, A.DEFER_IF_PERMIT, A.REJECT], "defer", 1),
        ([A.REJECT, A.DEFER_IF_REJECT], "reject", 0),
        ([A.ACCEPT, A.REJECT], "accept", None),
        ([A.DEFER_IF_PERMIT, A.ACCEPT, A.REJECT], "defer", 0),
        ([A.HOLD, A.REJECT], "reject", 1),
    ],
)
def test_what_decides(actions: list[Action], verb: str, place: int | None) -> None:
    items = [item(action) for action in actions]
    decision = judge(items)
    assert decision.verb == verb
    assert decision.deciding is (items[place][0] if place is not None else None)


def test_what_is_put_off_if_permitted_is_not_thrown_away_for_a_policy_service() -> None:
    """As in Postfix, where DISCARD permits: what an operator's own checks throw away is thrown away."""
    pending, gone, gone_of_all = item(A.DEFER_IF_PERMIT), item(A.DISCARD), item(A.DISCARD, shared=True)
    assert judge([pending, gone]).verb == "discard"
    assert judge([gone_of_all, pending]).verb == "discard"
    decision = judge([pending, gone_of_all, item(A.REJECT)])
    assert (decision.verb, decision.deciding, decision.action) == ("defer", pending[0], A.DEFER_IF_PERMIT)


def test_accept_ends_its_own_list_only() -> None:
    early = item(A.ACCEPT, stage="connect")
    assert judge([early, item(A.REJECT, stage="connect")]).verb == "accept"
    assert judge([early, item(A.REJECT, stage="rcpt")]).verb == "reject"


@pytest.mark.parametrize("name", ["relay", "recipient", "antivirus"])
def test_gates_are_never_skipped_by_an_accept(name: str) -> None:
    assert judge([item(A.ACCEPT), item(A.REJECT, name)]).verb == "reject"
    assert judge([item(A.ACCEPT), item(A.REJECT, "greylist")]).verb == "accept"


def test_replies_fit_the_verb_and_end_with_the_id() -> None:
    assert judge([item(A.REJECT, reply="550 5.1.1 No such user")], "ID1").reply == "550 5.1.1 No such user [ID1]"
    assert judge([item(A.DEFER, reply="552 5.3.4 Too big")], "ID1").reply == "452 4.3.4 Too big [ID1]"
    assert judge([item(A.REJECT, reply="451 4.7.1 Later")], "ID1").reply == "550 5.7.1 Later [ID1]"
    assert judge([item(A.DISCONNECT, reply="421 4.7.0 Bye")], "ID1").reply == "421 4.7.0 Bye [ID1]"
    for action in (A.REJECT, A.DEFER, A.DISCONNECT, A.DEFER_IF_PERMIT):
        reply = judge([item(action)], "ID1").reply
        assert reply.endswith(" [ID1]") and reply[0] == ("5" if action is A.REJECT else "4") == reply[4]


def test_soft_bounce_refuses_nothing_for_good() -> None:
    decision = judge([item(A.REJECT, reply="554 5.7.1 No")], "ID1", soft_bounce=True)
    assert (decision.verb, decision.reply) == ("defer", "454 4.7.1 No [ID1]")


def test_a_text_from_a_table_is_sent_instead_and_made_safe() -> None:
    text = "554 5.7.1 Sender address rejected: caf\u00e9\r\n250 ok" + "x" * 600
    reply = judge([table(text)], "ID1").reply
    assert reply.startswith("554 5.7.1 Sender address rejected: caf   250 ok")
    assert len(reply) == 510 and reply.endswith(" [ID1]") and reply.isascii() and reply.isprintable()


@pytest.mark.parametrize(
    "text", ["no", "550", "250 2.0.0 Ok", "550 4.7.1 x", "5x0 5.7.1 x", "\u0665\u0665\u0660 5.7.1 x"]
)
def test_a_text_that_is_no_refusal_is_not_sent(text: str) -> None:
    assert judge([table(text)], "ID1").reply == "550 5.7.1 Policy [ID1]"


def table(text: str) -> tuple[Verdict, Ruling]:
    return Verdict(check="access", outcome="reject", reply=text), Ruling(A.REJECT, "", parse("550 5.7.1 Policy"))


def test_monitor_is_noted_and_not_enforced_and_off_is_nothing() -> None:
    decision = judge([item(A.REJECT, "rate", mode="monitor", reason="9 of 5"), item(A.MARK, "x", mode="off")])
    assert decision.verb == "accept" and decision.marks == ()
    assert decision.notes == ("monitor: would reject: rate:o_reject 9 of 5",)
    assert judge([item(A.ACCEPT, mode="monitor"), item(A.REJECT)]).verb == "reject"


def test_effects_are_gathered_in_list_order() -> None:
    first = item(A.MARK, "rdns", edits=(Edit("append", "X-A", "1"),))
    decision = judge(
        [
            first,
            item(A.PREPEND, argument="X-One: 1"),
            item(A.PREPEND, argument="X-Two: 2"),
            item(A.BCC, argument="a@x"),
            item(A.BCC, argument="b@x"),
            item(A.REDIRECT, argument="c@x"),
            item(A.REDIRECT, argument="d@x"),
            item(A.WARN, "w", reason="why"),
            item(A.MARK, "helo"),
        ]
    )
    assert decision.verb == "accept" and decision.marks == ("rdns:o_mark", "helo:o_mark")
    assert decision.edits == (
        Edit("append", "X-A", "1"),
        Edit("prepend", "X-Two", "2"),  # the last edit ends up topmost: X-One stands above X-Two
        Edit("prepend", "X-One", "1"),
    )
    assert decision.bcc == ("a@x", "b@x") and decision.redirect == "d@x"
    both = [item(A.REDIRECT, argument="d@x"), item(A.FILTER, argument="smtp:[::1]:10025")]
    assert {(judge(order).redirect, judge(order).filter) for order in (both, both[::-1])} == {("d@x", "")}
    assert decision.notes == ("warn: w:o_warn why",)


def test_quarantine_is_stronger_than_hold_and_a_filter_keeps_nothing_back() -> None:
    for order in itertools.permutations([item(A.HOLD, "h"), item(A.QUARANTINE, "q")]):
        assert (judge(order).keep, judge(order).keep_reason) == ("quarantine", "q:o_quarantine")
    decision = judge([item(A.FILTER, "f", argument="smtp:[::1]:10025")])
    assert (decision.verb, decision.keep, decision.filter) == ("accept", "deliver", "smtp:[::1]:10025")
    both = judge([item(A.FILTER, "f", argument="smtp:a"), item(A.HOLD, "h"), item(A.FILTER, "g", argument="smtp:b")])
    assert (both.keep, both.filter) == ("hold", "smtp:b")  # as in Postfix: the last one counts


def test_the_past_acts_on_the_message_only() -> None:
    judgement = Judgement()
    for action in (A.MARK, A.WARN, A.REJECT, A.DEFER, A.DEFER_IF_PERMIT, A.DEFER_IF_REJECT, A.HOLD):
        judgement.add(*item(action), past=True)
    decision = judgement.decision(())
    assert (decision.verb, decision.keep, decision.marks, decision.notes) == ("accept", "hold", ("c:o_mark",), ())
    judgement.add(*item(A.DISCARD), past=True)
    assert judgement.decision(()).verb == "discard"


def group(verb: str, *members: int, **more: object) -> Group:
    reply = {"defer": "451 4.7.1 Later [ID1]", "reject": "550 5.7.1 No [ID1]", "disconnect": "421 4.7.0 Bye [ID1]"}
    return Group(members, Decision(verb=verb, reply=reply.get(verb, ""), **more))  # type: ignore[arg-type]


def test_combine() -> None:
    yes, no, later, gone, bye = (
        group(v, n) for n, v in enumerate(("accept", "reject", "defer", "discard", "disconnect"))
    )
    assert combine([yes]) == Combined("accept", "", (yes,), (yes,))
    assert combine([no]) == Combined("reject", "550 5.7.1 No [ID1]", (), (no,))
    assert combine([no, bye]).verb == "reject" and combine([bye]).verb == "disconnect"
    assert combine([later]) == Combined("defer", "451 4.7.1 Later [ID1]", (), (later,))
    assert combine([yes, no, later]) == Combined("defer", "451 4.7.1 Later [ID1]", (), (yes, no, later))
    assert combine([gone]) == Combined("discard", "", (), (gone,))
    assert combine([yes, gone]) == Combined("accept", "", (yes,), (yes, gone))


def test_the_verdict_that_decided_is_told_also_where_nothing_is_stored() -> None:
    found, other = Verdict(check="antivirus", outcome="infected"), Verdict(check="size", outcome="over")
    no, later = group("reject", 0, deciding=found), group("defer", 1, deciding=other)
    assert combine([no]).deciding is found
    assert combine([no, later]).deciding is other
    assert combine([group("accept", 0)]).deciding is None
    assert (combine([no]).done, combine([no, later]).done, combine([group("accept", 0)]).done) == (
        "reject",
        "defer",
        "accept",
    )
    mixed = combine([group("accept", 0), no])
    assert (mixed.verb, mixed.deciding, mixed.done) == ("accept", found, "quarantine")
    held = combine([group("accept", 0, keep="hold", deciding=other)])
    assert (held.verb, held.deciding, held.done) == ("accept", other, "hold")


def test_the_verdict_that_keeps_a_message_back_is_told() -> None:
    first, second = Verdict(check="access", outcome="hold"), Verdict(check="attachments", outcome="too_complex")
    held = judge([(first, Ruling(Action.HOLD))])
    assert (held.verb, held.keep, held.deciding) == ("accept", "hold", first)
    both = judge([(first, Ruling(Action.HOLD)), (second, Ruling(Action.QUARANTINE))])
    assert (both.keep, both.deciding) == ("quarantine", second)
    refused = judge([(first, Ruling(Action.HOLD)), (second, Ruling(Action.REJECT))])
    assert refused.deciding is second


@pytest.mark.parametrize("verb", ["reject", "disconnect"])
def test_the_refusing_groups_copy_goes_to_quarantine(verb: str) -> None:
    deciding = Verdict(check="antispam", outcome="spam")
    mixed = combine([group("accept", 0), group(verb, 1, deciding=deciding, bcc=("c@x",), redirect="d@x")])
    assert mixed.verb == "accept" and mixed.reply == ""
    kept = mixed.store[1]
    assert kept.recipients == (1,) and (kept.decision.bcc, kept.decision.redirect) == ((), "")
    assert (kept.decision.verb, kept.decision.keep, kept.decision.reply) == ("accept", "quarantine", "")
    assert kept.decision.keep_reason == "antispam:spam, accepted for other recipients"
