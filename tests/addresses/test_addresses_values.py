"""Mailboxes in lists, and what `postgate check` says of values."""

import gc
import time

import pytest

from appliance.addresses import values
from appliance.addresses.mailboxes import spans


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@x.example", ["a@x.example"]),
        (" a@x.example , b@x.example", ["a@x.example", "b@x.example"]),
        ("Joe <a@x.example>", ["a@x.example"]),
        ('"Doe, Joe" <a@x.example>, b@x.example (Bob, (nested) too)', ["a@x.example", "b@x.example"]),
        ("group: a@x.example, Joe <b@x.example>;, c@x.example", ["a@x.example", "b@x.example", "c@x.example"]),
        ("undisclosed-recipients:;", []),
        ("<@relay.example,@two.example:a@x.example>", ["a@x.example"]),
        ('"quo\\"ted"@x.example', ['"quo\\"ted"@x.example']),
        ("a @ x . example", ["a@x.example"]),
        ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", ["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"]),
        ("Joe Doe a@x.example", ["Joe", "Doe", "a@x.example"]),
        ("root, daemon", ["root", "daemon"]),
        ("J.R. <a@x.example>", ["a@x.example"]),
        ("", []),
        ("<>", []),
        (">>)(\\", [")"]),
        ('"never closed', ['"never closed']),
        ("(never closed a@x.example", []),
        ("<never@closed.example", ["never@closed.example"]),
    ],
)
def test_mailboxes(text: str, found: list[str]) -> None:
    assert [span.text for span in spans(text)] == found


def test_places_are_those_of_the_text() -> None:
    text = 'Joe "X" <a@x.example> (c), b @x.example\r\n\t, c@x.example'
    assert [text[span.start : span.end] for span in spans(text)] == ["a@x.example", "b @x.example", "c@x.example"]


@pytest.mark.parametrize("unit", ["(", "<", '"', "\\", "a@", "a.", ", ", "[", "a b ", ")(", ":;", '"a" ', "\r\n "])
def test_hostile_lists_take_linear_time(unit: str) -> None:
    def seconds(count: int) -> float:
        text, best = unit * count, 9.0
        for _ in range(3):
            gc.collect()
            gc.disable()  # what other tests hold counts for nothing
            begin = time.process_time()
            sum(1 for _ in spans(text))
            best = min(best, time.process_time() - begin)
            gc.enable()
        return best

    assert seconds(80_000) < 24 * max(seconds(10_000), 0.002)


@pytest.mark.parametrize(
    "value",
    [
        "a@example.com",
        "root",
        "@example.com",
        "a@example.com, b@example.com",
        '"a b"@example.com',
        '"|odd"@example.com',
        "/o=org/s=x/@example.com",
        "$1@example.com",
        "${1}+x@$2",
        "<>",
        "error:5.1.1 no such user",
        "error:nouser",
        "user+$1@example.com, x@example.com",
    ],
)
def test_values_that_may_stand_in_a_map(value: str) -> None:
    assert values.problem(value) == ""


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("|/bin/cat", "a program is not run here"),
        ('"|/bin/cat -x"', "a program is not run here"),
        ("a@example.com, |/bin/cat", "a program is not run here"),
        (":include:/etc/list", "a list in a file is not read here"),
        ("/var/mail/root", "a file is not written here"),
        ("\\root", "there are no mailboxes here"),
        ("a@@example.com", "is no address"),
        ("a@exa_mple..com", "is no address"),
        ("a@example.com\nb", "control character"),
        ("(nobody)", "holds no address"),
        ("", "holds no address"),
        ("@@example.com", "is no address"),
        ("a@192.0.2", "is no address"),
        ("a@example.com, @example.com", "is no address"),
    ],
)
def test_values_that_may_not(value: str, why: str) -> None:
    assert why in values.problem(value)


def test_a_text_is_shown_on_one_line() -> None:
    assert values.shown("a\nb\x1b[31m" + "x" * 200, 20) == "a?b?[31mxxxxxxxxxxxx..."
