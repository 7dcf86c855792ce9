"""Every place in a TOML file that tomllib accepts."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.positions import Path, Positions

TEXT = '''\
# comment with [brackets] and = signs
top = 1
"quoted key" = "a # b"
'literal.key' = 'c:\\d'
a.b . c = true
text = """
first "quoted" \\""" [not.a.table]
x = 1"""
more = \'\'\'
[[nor this]] \'\'\'

[table]
key = [ 1, "two, ]", { three = 3, four.five = [4, 5] },
  # comment ]
  [6, 7],
]
  indented = 2024-01-01T10:00:00Z

[table.sub."dotted.name"]
inline = { one = 1, "two" = { three = "}" } }

[[list]]
name = "first"
[list.inner]
deep = 1
[[list]]
name = "second"
[[list.nested]]
n = 1
[[list.nested]]
n = 2
'''

PLACES = [
    (("top",), (2, 1), (2, 7)),
    (("quoted key",), (3, 1), (3, 16)),
    (("literal.key",), (4, 1), (4, 17)),
    (("a", "b", "c"), (5, 7), (5, 11)),
    (("text",), (6, 1), (6, 8)),
    (("more",), (9, 1), (9, 8)),
    (("table",), (12, 1), (12, 1)),
    (("table", "key"), (13, 1), (13, 7)),
    (("table", "key", 0), (13, 9), (13, 9)),
    (("table", "key", 1), (13, 12), (13, 12)),
    (("table", "key", 2, "three"), (13, 24), (13, 32)),
    (("table", "key", 2, "four", "five", 1), (13, 51), (13, 51)),
    (("table", "key", 3, 1), (15, 7), (15, 7)),
    (("table", "indented"), (17, 3), (17, 14)),
    (("table", "sub", "dotted.name", "inline", "two", "three"), (20, 31), (20, 39)),
    (("list", 0, "name"), (23, 1), (23, 8)),
    (("list", 0, "inner", "deep"), (25, 1), (25, 8)),
    (("list", 1), (26, 1), (26, 1)),
    (("list", 1, "nested", 1, "n"), (31, 1), (31, 5)),
]


@pytest.mark.parametrize(("path", "key", "value"), PLACES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_places(path: Path, key: tuple[int, int], value: tuple[int, int], end: str) -> None:
    text = TEXT.replace("\n", end)
    tomllib.loads(text)
    where = Positions(text)
    assert where.key(path) == key
    assert where.value(path) == value


def test_what_is_not_written_is_placed_at_what_encloses_it() -> None:
    where = Positions(TEXT)
    assert where.value(("list", 1, "nothing", "here")) == (26, 1)
    assert where.value(("table", "key", 2, "three", "x")) == (13, 24)
    assert where.value(("nowhere",)) == (1, 1)


def test_a_lone_value_stands_for_its_list() -> None:
    assert Positions(TEXT).value(("top", 0)) == (2, 7)


def walk(value: Any, path: Path = ()) -> list[Path]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [found for key, item in inner for found in [(*path, key), *walk(item, (*path, key))]]


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    return (
        '"'
        + "".join(
            f"\\u{ord(letter):04x}" if letter in '"\\' or letter < " " or letter == "\x7f" else letter for letter in text
        )
        + '"'
    )


TEXTS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_every_path_of_any_file_has_its_own_place(values: dict[str, Any]) -> None:
    text = "\n".join(f"{quoted(key)} = {toml(value)}" for key, value in values.items())
    assert tomllib.loads(text) == values
    where = Positions(text)
    lines = text.split("\n")
    for path in walk(values):
        line, column = where.value(path)
        shown = values
        for part in path:
            shown = shown[part]  # type: ignore[index]
        assert lines[line - 1][column - 1 :].startswith(toml(shown))
