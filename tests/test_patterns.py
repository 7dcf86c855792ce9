"""No pattern makes a group possessive: Python before 3.11.5 (Debian 12 has 3.11.2) stays in the middle of an iteration
that failed, and takes octets that the group does not stand for. An atomic group around it says the same and is right
everywhere; possessive character classes are, too."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "appliance").rglob("*.py"))


def possessive_groups(pattern: str) -> bool:
    """Whether a group is followed by `*+`, `++`, `?+` or `{...}+`."""
    bare = re.sub(r"\\.", "_", pattern, flags=re.DOTALL)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "_", bare)
    return re.search(r"\)(?:[*+?]|\{[0-9,]*\})\+", bare) is not None


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"(?:ab)*+", True),
        (r'"((?:[^"\\]|\\.)++)"', True),
        (r"(a){2,3}+", True),
        (r"[)]*+", False),
        (r"\)*+", False),
        (r"(?>(?:ab)*)", False),
    ],
)
def test_they_are_seen(pattern: str, found: bool) -> None:
    assert possessive_groups(pattern) is found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_group_is_possessive(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            assert "(?" not in text or not possessive_groups(text), f"{path}:{node.lineno}: {text!r}"
