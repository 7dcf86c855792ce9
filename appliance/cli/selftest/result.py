"""What came of one scenario, beside what was expected.

Contract: pure. What was not played for want of time is a miss: nobody may take it for tried.
"""

from contextvars import ContextVar
from typing import Literal, NamedTuple

State = Literal["ok", "miss", "skipped"]
#: What was got where there was no time to play a row.
UNPLAYED = "not played for want of time"
#: The row that is being played.
ROW = ContextVar("row", default="before the first row")


class Result(NamedTuple):
    """One row of the table."""

    state: State
    expected: str
    got: str
    why: str = ""


def unlike(problems: list[str], expected: str, got: str, why: str = "") -> Result:
    """A result of several observations: `problems` in words."""
    return Result("miss" if problems else "ok", expected, "; ".join(problems) or got, why)
