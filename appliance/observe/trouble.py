"""What is in trouble, and which messages it touched: as one process says it, and as all of them together do.

Contract: a process's health has a list `degraded` of plain words and of values that `said` makes; `merged` makes one text
of what several processes say of the same thing: counts are added, of the ids the last stay. `what` stays the same while
the trouble lasts (alarms go by it), counts and reasons need not.
What failure means for the mail: none; this only tells.
"""

import time
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import islice
from typing import Any

#: Ids that are told of one thing; that are remembered, so as to count none twice; and how many things.
REMEMBERED, KNOWN, MOST = 20, 10_000, 100
#: Seconds for which what failed and was not asked since is in trouble.
RECENT = 60.0
Said = str | Mapping[str, Any]


def said(what: str, why: str = "", touched: int = 0, last: Iterable[str] = ()) -> dict[str, Any]:
    """One entry of `degraded`: plain values, for they travel."""
    return {"what": what, "why": why, "touched": touched, "last": list(last)}


def merged(entries: Iterable[Said]) -> dict[str, dict[str, Any]]:
    """By `what`, in the order in which it was said first."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        one = said(entry) if isinstance(entry, str) else said(**entry)
        known = found.setdefault(one["what"], one)
        if known is not one:
            known["why"] = known["why"] or one["why"]
            known["touched"] += one["touched"]
            known["last"] = list(dict.fromkeys(known["last"] + one["last"]))[-REMEMBERED:]
    return found


def words(one: Mapping[str, Any]) -> str:
    """An entry of `merged`, for people."""
    text = f"{one['what']}: {one['why']}" if one["why"] else str(one["what"])
    if not one["touched"]:
        return text
    return f"{text}; messages touched: {one['touched']}" + (f", last: {', '.join(one['last'])}" if one["last"] else "")


class _One:
    """One thing in trouble, or that was."""

    __slots__ = ("at", "known", "touched", "why")

    def __init__(self) -> None:
        self.why, self.touched, self.at = "", 0, 0.0
        self.known: dict[str, None] = {}

    def touch(self, message: str) -> None:
        """Count it, unless it is known; it is the last one now."""
        if message not in self.known:
            self.touched += 1
            if len(self.known) >= KNOWN:
                del self.known[next(iter(self.known))]
        else:
            del self.known[message]
        if message:
            self.known[message] = None

    @property
    def last(self) -> list[str]:
        return list(islice(reversed(self.known), REMEMBERED))[::-1]


class Touched:
    """The messages that things in trouble touched, by the thing. A message counts once, however often it is tried.
    `recent`: for so many seconds what failed, and was not asked since, is in trouble."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, recent: float = RECENT) -> None:
        self._clock, self._recent = clock, recent
        self._known: dict[str, _One] = {}

    def note(self, what: str, why: str, message: str = "") -> None:
        """`what` failed, for `message` (its queue id; "" while it has none)."""
        self.failed(what, why)
        self.touch(what, message)

    def failed(self, what: str, why: str) -> None:
        """`what` failed; which messages that touches is yet to be seen."""
        one = self._of(what)
        one.why, one.at = why, self._clock()

    def touch(self, what: str, message: str) -> None:
        """`message` was touched by the trouble of `what`."""
        self._of(what).touch(message)

    def _of(self, what: str) -> _One:
        one = self._known.get(what)
        if one is None:
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            one = self._known[what] = _One()
        return one

    def well(self, what: str) -> None:
        """It answered."""
        one = self._known.get(what)
        if one is not None:
            one.why = ""

    def fails(self, what: str) -> bool:
        """Is it in trouble now?"""
        one = self._known.get(what)
        return one is not None and bool(one.why) and one.at > self._clock() - self._recent

    def told(self, what: str, why: str) -> dict[str, Any]:
        """The entry of `what`, of which somebody else knows that it is in trouble, and why."""
        one = self._known.get(what)
        return said(what, why, one.touched, one.last) if one is not None else said(what, why)

    def degraded(self, lasting: Container[str] = ()) -> list[dict[str, Any]]:
        """What is in trouble now; what is `lasting` even if it was not asked lately."""
        return [
            said(what, one.why, one.touched, one.last)
            for what, one in self._known.items()
            if self.fails(what) or (one.why and what in lasting)
        ]

    def facts(self) -> dict[str, str]:
        """What it did to messages since the start, also where it is over."""
        return {what: f"{one.touched} (last: {', '.join(one.last)})" for what, one in self._known.items() if one.touched}


#: Lookup tables, by "table SPEC": noted where a verdict or a way is not found for want of one.
tables = Touched()
