"""What is in trouble, and which messages it touched: as one process says it, and as all of them together do.

Contract: a process's health has a list `degraded` of plain words and of values that `said` makes; `merged` makes one text
of what several processes say of the same thing: counts are added, of the ids the last stay. `what` stays the same while
the trouble lasts (alarms go by it), counts and reasons need not.
What failure means for the mail: none; this only tells.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: Ids that are remembered of one thing; and how many things.
REMEMBERED, MOST = 20, 100
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

    __slots__ = ("at", "last", "touched", "why")

    def __init__(self) -> None:
        self.why, self.touched, self.at = "", 0, 0.0
        self.last: deque[str] = deque(maxlen=REMEMBERED)


class Touched:
    """The messages that things in trouble touched, by the thing. A message counts once in a row of looks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _One] = {}

    def note(self, what: str, why: str, message: str = "") -> None:
        """`what` failed, for `message` (its queue id; "" while it has none)."""
        one = self._known.get(what)
        if one is None:
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            one = self._known[what] = _One()
        one.why, one.at = why, self._clock()
        if message not in one.last:
            one.touched += 1
            if message:
                one.last.append(message)

    def well(self, what: str) -> None:
        """It answered."""
        one = self._known.get(what)
        if one is not None:
            one.why = ""

    def degraded(self) -> list[dict[str, Any]]:
        """What is in trouble now."""
        since = self._clock() - RECENT
        return [
            said(what, one.why, one.touched, one.last) for what, one in self._known.items() if one.why and one.at > since
        ]

    def facts(self) -> dict[str, str]:
        """What it did to messages since the start, also where it is over."""
        return {what: f"{one.touched} (last: {', '.join(one.last)})" for what, one in self._known.items()}


#: Lookup tables, by "table SPEC": noted where a verdict or a way is not found for want of one.
tables = Touched()
