"""Files that are not TOML: said where and how, for all of them at once, and never an exception."""

import pytest

from appliance.config.syntax import parse


def places(data: bytes) -> list[tuple[int, int]]:
    return [(mistake.line, mistake.column) for mistake in parse("f", data).mistakes]


@pytest.mark.parametrize(
    ("data", "line", "column", "word"),
    [
        (b"\xef\xbb\xbfa = 1\n", 1, 1, "byte order mark"),
        ("a = 1".encode("utf-16"), 1, 1, "UTF-16"),
        (b"a = 1\nb = 'x\xe4'\n", 2, 7, "0xe4"),
        (b"a = 1\nb = 'x\0'\n", 2, 7, "NUL"),
        (b"a = {\n b = 1,\n}\n", 1, 5, "one line"),
        (b"x = 1\na = { b = 1,\n c = 2 }\n", 2, 5, "one line"),
        (b"a = [ { b = 1,\n c = 2 } ]\n", 1, 7, "one line"),
        (b"a = \n", 1, 5, "no value"),
        (b"a = 1\na = 2\n", 2, 1, "second time"),
        (b"[a]\n[b]\n[a]\n", 3, 3, "second time"),
        (b"a = [1,\n2\n3]\n", 3, 1, "comma"),
        (b'a = "x\nb = 1\n', 1, 7, "not closed"),
        (b"a = 'x\nb = 1\n", 1, 5, "not closed"),
        (b"a" * 10 + b" b\n", 1, 12, "expected"),
        (b"a = " + b"[" * 3000, 1, 1, "nested"),
    ],
)
def test_a_file_that_is_no_toml(data: bytes, line: int, column: int, word: str) -> None:
    found = parse("f", data).mistakes[0]
    assert (found.file, found.line, found.column) == ("f", line, column)
    assert word in found.text
    assert found.fatal


def test_the_rest_of_the_file_is_read_without_a_broken_line() -> None:
    parsed = parse("f", b"a = \nb = 2\n[c]\nd = 09\ne = 5\n")
    assert parsed.values == {"b": 2, "c": {"e": 5}}
    assert parsed.partial
    assert places(b"a = \nb = 2\n[c]\nd = 09\ne = 5\n") == [(1, 5), (4, 6)]
    assert parsed.where.key(("c", "e")) == (5, 1)


def test_a_broken_header_ends_the_reading() -> None:
    """What follows would be taken for another table's."""
    parsed = parse("f", b"[a\nb = \n")
    assert parsed.values is None
    assert len(parsed.mistakes) == 1


def test_line_ends_of_windows_are_fine() -> None:
    parsed = parse("f", b"a = 1\r\n[b]\r\nc = 2\r\n")
    assert parsed.values == {"a": 1, "b": {"c": 2}}
    assert not parsed.mistakes
