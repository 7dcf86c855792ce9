"""Replies: read strictly, made to fit, safe for the wire whatever is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mail.replies import BREAK, CLASS, Refusal, as_class, finish, on_one_line, parse, repair
from appliance.protocol.smtp.reply import from_text


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
    line = finish(Refusal(code, f"{code // 100}.7.1", text.replace(BREAK, " ")), transaction, soft)
    assert len(line) <= 510 and line.isascii() and line.isprintable()
    assert line[0] == line[4] == ("4" if soft else str(code)[0])
    assert not transaction or line.endswith("]")


@given(st.lists(st.text(max_size=700), min_size=2, max_size=5), st.text(max_size=40), st.booleans())
def test_every_line_of_several_is_safe(texts: list[str], transaction: str, soft: bool) -> None:
    texts = [text.replace(BREAK, " ") for text in texts]
    found = finish(Refusal(550, "5.7.1", BREAK.join(texts)), transaction, soft)
    assert found.count("\n") == len(texts) - 1 and on_one_line(found).isprintable()
    start = b"450%c4.7.1" if soft else b"550%c5.7.1"
    *before, last, empty = from_text(found).encode().split(b"\r\n")
    assert not empty and len(before) >= len(texts) - 1 and last.startswith(start % b" ")
    for line in (*before, last):
        assert len(line) <= 510 and line.isascii() and line.decode().isprintable()
    assert all(line.startswith(start % b"-") for line in before)
    assert not transaction or last.endswith(b"]")


@given(st.text(alphabet="0123456789.x", max_size=12), st.sampled_from([450, 550]), st.sampled_from(sorted(CLASS)))
def test_a_repaired_status_is_one_of_the_codes_class(enhanced: str, code: int, subject: str) -> None:
    first, middle, last = repair(enhanced, code, subject).split(".")  # type: ignore[arg-type]
    assert first == str(code)[0] and middle.isdecimal() and last.isdecimal()


def test_lines_are_a_milters_only() -> None:
    """What it parts by BREAK stays parted; line ends of whoever else are blanks."""
    several = Refusal(550, "5.7.1", f"one{BREAK}two\r\nx\x00{BREAK}three")
    assert finish(several, "4F00") == "550 5.7.1 one\ntwo  x \nthree [4F00]"
    assert finish(several, soft_bounce=True) == "450 4.7.1 one\ntwo  x \nthree"
    assert from_text(finish(several, "4F00")).encode() == (
        b"550-5.7.1 one\r\n550-5.7.1 two  x \r\n550 5.7.1 three [4F00]\r\n"
    )
    assert finish(Refusal(550, "5.7.1", "one\ntwo"), "4F00") == "550 5.7.1 one two [4F00]"
    assert on_one_line(finish(several, "4F00")) == "550 5.7.1 one two  x  three [4F00]"
