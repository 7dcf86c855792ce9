"""Replies: read strictly, made to fit, safe for the wire whatever is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mail.replies import CLASS, Refusal, as_class, finish, parse, repair


def test_parts() -> None:
    refusal = parse("550 5.7.1  Refused  ")
    assert refusal == Refusal(550, "5.7.1", "Refused") and refusal.permanent and str(refusal) == "550 5.7.1 Refused"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "written"),
        ("550", "written"),
        ("550 Refused", "written"),
        ("550 5.7.1", "written"),
        ("550 5.7.1 ", "written"),
        ("550  5.7.1 Refused", "written"),
        ("550 5.7 Refused", "written"),
        ("550-5.7.1 Refused", "written"),
        ("250 2.0.0 Ok", "400 to 599"),
        ("600 6.0.0 Ok", "400 to 599"),
        ("450 5.7.1 Later", "differ"),
        ("550 5.7.1 caf\u00e9", "ASCII"),
        ("550 5.7.1 a\r\n250 b", "ASCII"),
        ("550 5.7.1 " + "x" * 391, "at most 400"),
    ],
)
def test_what_is_no_reply(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


def test_the_longest_reply_fits_with_its_id() -> None:
    longest = parse("550 5.7.1 " + "x" * 390)
    assert finish(longest, "4bXyZ0123456789").startswith(str(longest) + " [")


@pytest.mark.parametrize(
    ("before", "permanent", "after"),
    [
        ("552 5.3.4 x", False, "452 4.3.4 x"),
        ("450 4.7.1 x", True, "550 5.7.1 x"),
        ("421 4.7.0 x", True, "550 5.7.0 x"),
        ("554 5.7.1 x", True, "554 5.7.1 x"),
    ],
)
def test_the_other_class(before: str, permanent: bool, after: str) -> None:
    assert str(as_class(parse(before), permanent)) == after


@given(st.text(max_size=700), st.text(max_size=40), st.booleans(), st.sampled_from([421, 450, 550, 599]))
def test_every_last_word_is_one_safe_line(text: str, transaction: str, soft: bool, code: int) -> None:
    line = finish(Refusal(code, f"{code // 100}.7.1", text), transaction, soft)
    assert len(line) <= 510 and line.isascii() and line.isprintable()
    assert line[0] == line[4] == ("4" if soft else str(code)[0])
    assert not transaction or line.endswith("]")


@given(st.text(alphabet="0123456789.x", max_size=12), st.sampled_from([450, 550]), st.sampled_from(sorted(CLASS)))
def test_a_repaired_status_is_one_of_the_codes_class(enhanced: str, code: int, subject: str) -> None:
    first, middle, last = repair(enhanced, code, subject).split(".")  # type: ignore[arg-type]
    assert first == str(code)[0] and middle.isdecimal() and last.isdecimal()
