"""One event, one line: nothing a stranger sends can forge or split a log line (threats P4)."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.observe.text import CAP, clean, counted


@given(st.text(max_size=3000))
def test_whatever_comes_it_is_one_printable_line_of_bounded_length(text: str) -> None:
    line = clean(text)
    assert line.isprintable()
    assert len(line) <= CAP


def test_plain_text_is_not_touched() -> None:
    assert clean("from=<user@example.com>, größe=1") == "from=<user@example.com>, größe=1"


def test_what_is_not_printable_is_escaped_and_can_be_read() -> None:
    assert clean("a\r\nNov 1 00:00:00 forged") == "a\\x0d\\x0aNov 1 00:00:00 forged"
    assert clean("\x1b[2J\x9b\u202e\udc80\U000e0001") == "\\x1b[2J\\x9b\\u202e\\x80\\U000e0001"


def test_long_text_is_cut_and_says_so() -> None:
    assert clean("x" * 5000) == "x" * (CAP - 3) + "..."
    assert len(clean("\n" * 5000)) == CAP


def test_one_is_not_many() -> None:
    said = [counted(number, "try", "tries") for number in (0, 1, 2)] + [counted(1, "day"), counted(3, "day")]
    assert said == ["0 tries", "1 try", "2 tries", "1 day", "3 days"]
