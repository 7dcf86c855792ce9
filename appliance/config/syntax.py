"""TOML octets to values with their places. Says in an operator's words what TOML does not allow.

Contract: never raises for bad content. After a syntax error in a `key = value` line the rest of the file is read without
that line, so that all mistakes show at once; a file that stays unreadable has `values` None.
"""

import re
import tomllib
from typing import Any, NamedTuple

from appliance.config.mistakes import Mistake
from appliance.config.positions import Positions

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_PAIR = re.compile(r"""\s*[A-Za-z0-9_."' \t-]+=""")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""|' r"'''.*?'''|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'|#[^\n]*|[\[\]{}\n]", re.DOTALL
)
_INLINE = (
    "an inline table { ... } must stand on one line (several lines are TOML 1.1, which is not read here): join the "
    "lines, or write a [table] of its own"
)
_UNCLOSED = re.compile(r"^[^#\n=]*=[ \t]*('(?!'')[^'\n]*)$", re.MULTILINE)
_WORDINGS = (
    (r"^Invalid value$", "no value that TOML knows (a text stands in quotes)"),
    (r"^Cannot overwrite a value$", "this key is set a second time"),
    (r"^Unclosed array$", "the list is not closed, or a comma is missing"),
    (r"^Illegal character .\\n.$", "the string is not closed on its line"),
    (r"^Cannot declare \((.*?),?\) twice$", r"this section (\1) stands here a second time"),
)
MOST = 20


class Parsed(NamedTuple):
    """One file. `partial`: lines were left out, so what is missing may only look so."""

    values: dict[str, Any] | None
    where: Positions
    mistakes: list[Mistake]
    partial: bool = False


def parse(file: str, data: bytes) -> Parsed:
    """The TOML file `file` (its name is for the mistakes only)."""
    text, mistakes = decode(file, data)
    if text is None:
        return Parsed(None, Positions(""), mistakes)
    lines = text.split("\n")
    last = 0
    while len(mistakes) < MOST:
        tried = "\n".join(lines)
        try:
            return Parsed(tomllib.loads(tried), Positions(tried), mistakes, bool(mistakes))
        except tomllib.TOMLDecodeError as error:
            line, column, why = explain(tried, str(error))
        except RecursionError:
            line, column, why = 1, 1, "nested too deep"
        if line == last + 1 and mistakes:
            break  # most likely an echo of the mistake before
        mistakes.append(Mistake(file, line, column, why))
        if why == _INLINE or not _PAIR.match(lines[line - 1]):
            break
        last, lines[line - 1] = line, ""
    return Parsed(None, Positions(""), mistakes)


def decode(file: str, data: bytes) -> tuple[str | None, list[Mistake]]:
    """The text, or None with what makes it none."""
    if data.startswith(b"\xef\xbb\xbf"):
        return None, [Mistake(file, 1, 1, "begins with a byte order mark; save it as UTF-8 without one")]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None, [Mistake(file, 1, 1, "is UTF-16; save it as UTF-8")]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line, column = _line(data[: error.start].decode(errors="replace"))
        return None, [Mistake(file, line, column, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8")]
    if "\0" in text:
        line, column = _line(text[: text.index("\0")])
        return None, [Mistake(file, line, column, "a NUL byte: this is not a text file")]
    return text, []


def _line(before: str) -> tuple[int, int]:
    """Line and column of the character that follows `before`."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def explain(text: str, message: str) -> tuple[int, int, str]:
    """Line, column and wording of tomllib's complaint."""
    found = _PLACE.search(message)
    why = message[: found.start()] if found else message
    line, column = _line(text)
    if found and found[1]:
        # tomllib says where it stopped, which for a broken line end is behind the line
        line, column = int(found[1]), int(found[2])
    if opened := _open_inline(text, line, column):
        return *opened, _INLINE
    if why == 'Expected "\'"' and (unclosed := _UNCLOSED.search(text)):
        return *_line(text[: unclosed.start(1)]), "the string is not closed"
    if why == "Cannot overwrite a value":  # tomllib notes it behind the value
        column = 1
    for pattern, wording in _WORDINGS:
        why = re.sub(pattern, wording, why)
    return line, column, f"{why[:1].lower()}{why[1:]}"


def _open_inline(text: str, line: int, column: int) -> tuple[int, int] | None:
    """Where an inline table was opened that is still open at (line, column) and has a line end in it."""
    lines = text.split("\n")
    end = sum(len(part) + 1 for part in lines[: line - 1]) + column
    stack: list[int] = []
    for found in _TOKEN.finditer(text[:end]):
        sign = found[0]
        if sign in ("[", "{"):
            stack.append(found.start())
        elif sign in ("]", "}") and stack:
            stack.pop()
        elif sign == "\n" and stack and text[stack[-1]] == "{":
            return _line(text[: stack[-1]])
        elif sign == "\n" and not any(text[at] == "{" for at in stack) and stack and _starts_table(text, found.end()):
            stack.clear()
    return None


def _starts_table(text: str, at: int) -> bool:
    """A new header or pair begins here: what stood open before was a mistake of another kind."""
    return bool(re.compile(r"\[\[?[A-Za-z]|[A-Za-z0-9_-]+\s*=").match(text, at))
