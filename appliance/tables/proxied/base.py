"""What every table behind proxymap is: asked for one key, it answers, or says in which step it failed.

Contract: `get` raises Unavailable for trouble of any kind; who calls it puts a deadline around it. What failure means for
the mail: put off; "not found" is only what the table itself says.
"""

from collections.abc import Callable
from typing import Protocol


def at_rest() -> bool:
    """No file that is being written."""
    return False


class Bad(Exception):
    """A table that cannot be opened as it stands: the text says why. `places`: each mistake as (file, line, text).
    `unrest`: whether a file with mistakes is being written now."""

    def __init__(
        self, text: str, places: tuple[tuple[str, int, str], ...] = (), unrest: Callable[[], bool] = at_rest
    ) -> None:
        super().__init__(text or "; ".join(f"{file}:{line}: {why}" for file, line, why in places))
        self.places, self.unrest = places, unrest


class Step:
    """How far a look-up has come, for whoever must say where it failed."""

    __slots__ = ("text",)

    def __init__(self, text: str = "waiting for its turn") -> None:
        self.text = text


class Asked(Protocol):
    """One open table."""

    #: Answers are worth a short memory here (a network is asked, not a file on this machine).
    remembered: bool
    #: Seconds that a look-up may take.
    deadline: float
    #: Look-ups at once: who comes beyond that waits for a turn, within its deadline.
    slots: int

    async def get(self, key: str, step: Step) -> str | None:
        """The value, or None where the table says that there is none. Raises Unavailable."""

    def sample(self) -> str | None:
        """A domain for whose addresses it is asked, "" for any; None: that is for other tables to say."""

    def changed(self) -> bool:
        """Whether it must be opened anew: what it was opened from has changed."""

    def close(self) -> None:
        """Give back what it holds."""


#: Opens a table by its spec. Raises Bad, TableError.
Opener = Callable[[str], Asked]
