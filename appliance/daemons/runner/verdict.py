"""What a program said: its exit code by the table, names of what it found by the pattern.

Contract: pure; a code that no table has, a signal, a pattern that takes too long: error. What failure means for the mail:
error is "not scanned".
"""

import signal
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.config.scanner_entry import expression
from appliance.mail.programs import PROGRAMS, Program

#: Seconds that all searches in one output may take, names that are told.
TIMEOUT, MOST = 0.02, 20


class Rules(msgspec.Struct, frozen=True):
    """How one scanner's programs are understood."""

    codes: Mapping[str, str]
    pattern: Any

    @classmethod
    def of(cls, program: str, codes: Mapping[str, str], pattern: str) -> "Rules":
        """The operator's words, or those of the program's table. Raises ValueError."""
        known = PROGRAMS.get(program.rpartition("/")[2], Program({}, ""))
        words = pattern or known.pattern
        return cls(dict(codes or known.codes), expression(words) if words else None)


def judge(rules: Rules, code: int, output: bytes) -> tuple[str, tuple[str, ...], str]:
    """(kind, names, why)."""
    text = output.decode("utf-8", "replace")
    if code < 0:
        return "error", (), f"the program was killed by {signal.Signals(-code).name}"
    kind = rules.codes.get(str(code), "error")
    if kind == "clean":
        return kind, (), ""
    if kind not in ("infected", "suspicious"):
        return kind, (), f"exit code {code}{_last(text)}"
    try:
        names = tuple(_names(rules.pattern, text))
    except TimeoutError:
        names = ()
    return kind, names, ", ".join(names) or f"exit code {code}{_last(text)}"


def _names(pattern: Any, text: str) -> dict[str, None]:
    """What the pattern's first group that matched says, each once."""
    found: dict[str, None] = {}
    for match in pattern.finditer(text, timeout=TIMEOUT) if pattern else ():
        name = next((group for group in match.groups() if group), match[0]).strip()
        found[_printable(name)[:200]] = None
        if len(found) >= MOST:
            break
    return found


def _last(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {_printable(lines[-1])[:300]}" if lines else ""


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
