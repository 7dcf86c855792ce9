"""Changes of a message as edits: in force on the message before, they give the one after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mail import apply
from appliance.mail.differing import changes, crlf
from appliance.mail.edits import Edit

BEFORE = b"Received: x\r\n\tby y\r\nSubject: one\r\nX-Spam-Flag: no\r\nTo: a\r\n\r\nHello\r\nWorld\r\n"


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        BEFORE.replace(b"one", b"[SPAM] one"),
        BEFORE.replace(b"Subject: one\r\n", b""),
        b"X-New: 1\r\n" + BEFORE,
        BEFORE.replace(b"\r\n\r\n", b"\r\nX-Last: 1\r\n\r\n", 1),
        BEFORE + b"-- \r\nthe foot\r\n",
        BEFORE.replace(b"World", b"W\xc3\xb6rld \xff"),
        BEFORE.replace(b"Hello\r\n", b""),
        b"\r\nno header\r\n",
        b"Only: header\r\n",
        b"A: 1\r\n\r\n",
        BEFORE.replace(b"\r\n\r\nHello", b"\r\n\r\n\r\nHello"),
        b"B: 2\r\nC:3\r\n\t4\r\n\r\nall else\r\n",
    ],
)
def test_the_message_after(after: bytes) -> None:
    edits = changes(BEFORE, after)
    assert apply.whole(BEFORE, edits) == after
    assert b"".join(apply.streamed((BEFORE[:20], BEFORE[20:50], BEFORE[50:]), edits)) == after


_FIELD = st.builds(lambda n, v: f"{n}: {v}\r\n".encode(), st.sampled_from("ABC"), st.text("xy", max_size=3))
_MAIL = st.builds(
    lambda h, b: b"".join(h) + b"\r\n" + b, st.lists(_FIELD, max_size=6), st.sampled_from([b"", b"a\r\n", b"ab\r\nb\r\n"])
)


@given(_MAIL, _MAIL)
def test_any_two_messages(before: bytes, after: bytes) -> None:
    assert apply.whole(before, changes(before, after)) == after


@given(
    _MAIL, _MAIL, st.lists(st.builds(lambda n, i: Edit("delete", n, index=i), st.sampled_from("ABC"), st.integers(0, 2)))
)
def test_what_is_new_survives_what_others_take_out(before: bytes, after: bytes, taken: list[Edit]) -> None:
    """Fields that the change put in are there, in their order, and the body is that after."""
    after = after.replace(b"A:", b"N:").replace(b"B:", b"O:").replace(b"C:", b"P:")
    made = apply.whole(before, (*taken, *changes(before, after)))
    assert made == after


@pytest.mark.parametrize("after", [b"", b"no header at all\r\n", b"A: 1\r\nno field\r\n\r\nx\r\n"])
def test_what_is_no_message(after: bytes) -> None:
    with pytest.raises(ValueError):
        changes(BEFORE, after)


ODD = b"From: a\r\nSubject: one\r\nno field\r\n\r\nbody\r\n"


@pytest.mark.parametrize("before", [ODD, b"no header at all\r\n", ODD.replace(b"\r\n\r\nbody", b"")])
def test_what_came_odd_may_be_changed_behind_its_fields(before: bytes) -> None:
    for after in (before + b"foot\r\n", before.replace(b"no ", b"any ")):
        edits = changes(before, after)
        assert apply.whole(before, edits) == after
        assert b"".join(apply.streamed((before[:9], before[9:12], before[12:]), edits)) == after
    with pytest.raises(ValueError, match="no field"):
        changes(before, b"X: y\r\n" + before)


def test_only_what_changed_is_kept() -> None:
    large = BEFORE + b"x" * 5_000_000 + b"\r\n"
    (edit,) = changes(large, large + b"foot\r\n")
    assert (edit.value, edit.length) == ("foot\r\n", 0)
    (edit,) = changes(large, large.replace(b"World", b"world"))
    assert (edit.value, edit.length) == ("w", 1)


def test_line_ends() -> None:
    assert crlf(b"a\nb\rc\r\nd") == b"a\r\nb\r\nc\r\nd\r\n"
