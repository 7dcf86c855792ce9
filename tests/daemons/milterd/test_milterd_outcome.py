"""What a milter answers where recipients are treated differently: nothing is lost, nothing dangerous passes."""

import pytest

from appliance.daemons.milterd.outcome import CANNOT, conclude
from appliance.engine.pipeline import Group, combine
from appliance.mail.edits import Edit
from appliance.mail.verdict import Decision, Verdict
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.negotiation import Agreement
from appliance.protocol.milter.words import Actions, Steps, Word

ALL = Agreement(6, Actions(0x1FF), Steps(0), frozenset(), frozenset())
TO = (b"<a@example.com>", b"<b@example.com>", b"<c@example.com>")
MARK, TAG = Edit("prepend", "X-Postgate-Mark", "spf=fail"), Edit("change", "Subject", "[spam] x", 1)
TAKE = Decision(verb="accept", edits=(MARK,))
TAGGED = Decision(verb="accept", edits=(TAG, MARK))
REFUSE = Decision(verb="reject", reply="550 5.7.1 no [ID]", deciding=Verdict(check="attachments", outcome="forbidden"))
LATER = Decision(verb="defer", reply="451 4.7.1 later [ID]")
DROP = Decision(verb="discard")
HELD = Decision(verb="accept", keep="hold", keep_reason="access:hold a list")
SET_ASIDE = Decision(verb="accept", keep="quarantine", keep_reason="antivirus:suspicious x")
COPIED = Decision(verb="accept", bcc=("audit@example.com",))
ELSEWHERE = Decision(verb="accept", redirect="abuse@example.com")
CLOSE = Decision(verb="disconnect", reply="421 4.7.0 bye [ID]")


def groups(*decisions: Decision) -> list[Group]:
    return [Group((at,), decision) for at, decision in enumerate(decisions)]


def outcome(*decisions: Decision, agreement: Agreement = ALL, mixed: str = "quarantine", thrown: tuple[bytes, ...] = ()):
    return conclude(combine(groups(*decisions)), TO[: len(decisions)], thrown, agreement, mixed)


def test_all_alike() -> None:
    assert outcome(TAKE, TAKE).edits == (MARK,) and outcome(TAKE).reply == p.Reply(Word.ACCEPT)
    assert outcome(REFUSE, REFUSE).reply == p.Reply(Word.REPLY_CODE, b"550 5.7.1 no [ID]")
    assert outcome(CLOSE).reply == p.Reply(Word.REPLY_CODE, b"421 4.7.0 bye [ID]")
    assert outcome(DROP, DROP).reply == p.Reply(Word.DISCARD)
    assert outcome(HELD).more == (p.Quarantine(b"hold: access:hold a list"),)


def test_one_defers_all_wait() -> None:
    assert outcome(TAKE, LATER).text == LATER.reply and not outcome(TAKE, LATER).edits


def test_refused_for_some_goes_to_quarantine_for_all() -> None:
    found = outcome(TAKE, REFUSE, TAKE)
    (kept,) = found.more
    assert isinstance(kept, p.Quarantine) and b"refused for 1 of 3 recipients: attachments:forbidden" in kept.reason
    assert found.reply == p.Reply(Word.ACCEPT)


def test_or_is_put_off_where_the_operator_wants_it_or_the_mta_cannot() -> None:
    assert outcome(TAKE, REFUSE, mixed="tempfail").text == CANNOT
    old = ALL._replace(actions=Actions(0x1FF) & ~Actions.QUARANTINE)
    found = outcome(TAKE, REFUSE, agreement=old)
    assert found.text == CANNOT and found.lacks == "the MTA does not offer QUARANTINE" and not found.more


def test_kept_for_some_is_kept_for_all() -> None:
    assert outcome(TAKE, SET_ASIDE).more == (p.Quarantine(b"quarantine: antivirus:suspicious x"),)


def test_marks_of_all_groups_are_made_once() -> None:
    assert outcome(TAKE, TAGGED).edits == (MARK, TAG)
    assert outcome(TAGGED, TAKE).edits == (TAG, MARK)


def test_thrown_away_redirected_copied_for_some_alone() -> None:
    assert outcome(TAKE, DROP, thrown=(b"<d@example.com>",)).more == (
        p.DeleteRecipient(b"<d@example.com>"),
        p.DeleteRecipient(TO[1]),
    )
    assert outcome(TAKE, ELSEWHERE).more == (p.DeleteRecipient(TO[1]), p.AddRecipient(b"<abuse@example.com>"))
    assert outcome(COPIED, COPIED).more == (p.AddRecipient(b"<audit@example.com>"),)


@pytest.mark.parametrize(
    ("decision", "bit"),
    [
        (COPIED, Actions.ADD_RECIPIENT),
        (ELSEWHERE, Actions.DELETE_RECIPIENT),
        (HELD, Actions.QUARANTINE),
    ],
)
def test_what_the_mta_does_not_offer_is_never_left_out_in_silence(decision: Decision, bit: Actions) -> None:
    found = outcome(decision, agreement=ALL._replace(actions=Actions(0x1FF) & ~bit))
    assert found.text == CANNOT and bit.name and bit.name in found.lacks


def test_a_reason_cannot_break_its_packet() -> None:
    odd = Decision(verb="accept", keep="hold", keep_reason="a\0b\r\nc" + "x" * 1000)
    (kept,) = outcome(odd).more
    assert isinstance(kept, p.Quarantine) and kept.reason.startswith(b"hold: a?b??c") and len(kept.reason) <= 400
