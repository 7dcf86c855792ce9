"""What came of one scenario, beside what was expected.

Contract: pure.
"""

from typing import Literal, NamedTuple

State = Literal["ok", "miss", "skipped"]


class Result(NamedTuple):
    """One row of the table."""

    state: State
    expected: str
    got: str
    why: str = ""


def unlike(problems: list[str], expected: str, got: str, why: str = "") -> Result:
    """A result of several observations: `problems` in words."""
    return Result("miss" if problems else "ok", expected, "; ".join(problems) or got, why)
