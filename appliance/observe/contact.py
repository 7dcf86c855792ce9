"""How a peer is, known from real traffic only, with the age of that knowledge: for `postgate status`.

Contract: cheap enough for every answer; nothing is asked for the sake of knowing. Times are monotonic seconds.
What failure means for the mail: none; this only tells.
"""

import time
from typing import Any


class Contact:
    """One peer. `trouble` is why the last attempt failed, "" if it did not."""

    __slots__ = ("_answered", "_failed", "trouble")

    def __init__(self) -> None:
        self._answered = self._failed = 0.0
        self.trouble = ""

    def answered(self) -> None:
        """It answered, in its protocol."""
        self._answered = time.monotonic()
        self.trouble = ""

    def failed(self, why: str) -> None:
        """It did not answer, or what it said made no sense."""
        self._failed = time.monotonic()
        self.trouble = why

    def facts(self) -> dict[str, Any]:
        """`state`: well, in trouble, not asked yet; with ages."""
        facts = {"state": "in trouble" if self.trouble else "well" if self._answered else "not asked yet"}
        if self._answered:
            facts["last answer"] = _ago(self._answered)
        if self.trouble:
            facts["last trouble"] = f"{_ago(self._failed)}: {self.trouble}"
        return facts


class Contacts:
    """Peers by name; of more than `most` the one heard of first is forgotten."""

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._known: dict[str, Contact] = {}

    def of(self, name: str) -> Contact:
        """The peer of this name, a new one if it is not known."""
        contact = self._known.get(name)
        if contact is None:
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            contact = self._known[name] = Contact()
        return contact

    def facts(self) -> dict[str, dict[str, Any]]:
        """All of them."""
        return {name: contact.facts() for name, contact in self._known.items()}


def _ago(at: float) -> str:
    return f"{time.monotonic() - at:.1f} s ago"
