"""When a list is fetched next, and what is said of it: pure.

Contract: times of the schedule are monotonic, those of accounts are wall time, of which only an age is made; a list is
never younger than the monotonic clock says, so that a clock that is set back hides no list that grows old. A list that
was fetched comes again after `every`, one that failed earlier and ever later, each with jitter, so that many gateways do
not ask a directory at once. What an operator must look at first is not tried early: a wrong password closes accounts.
"""

import random
from typing import Any

from appliance.config.recipients_entry import RecipientsEntry
from appliance.tables.known.keep import Account, Outcome

#: Seconds to the first repeated try; it doubles until `every`.
FIRST = 60.0


def pause(every: float, failures: int, soon: bool) -> float:
    """Seconds until the next try, behind `failures` failed ones in a row (0: it was well)."""
    if not failures or not soon:
        return every * random.uniform(0.9, 1.1)
    return min(every, FIRST * 2.0 ** min(failures - 1, 20)) * random.uniform(0.75, 1.25)


def at_start(every: float, age: float | None) -> float:
    """The same for a list that an earlier life has fetched `age` seconds ago (None: there is none; below 0: the clock was
    set back since)."""
    if age is None or age < 0 or age >= every:
        return random.uniform(0.0, 1.0)
    return max(random.uniform(0.0, 1.0), (every - age) * random.uniform(0.9, 1.1))


class State:
    """One list: what is configured, how it is, when it is due. `now`: monotonic."""

    def __init__(
        self, entry: RecipientsEntry, domains: tuple[str, ...], account: Account, due: float, now: float
    ) -> None:
        self.entry, self.domains, self.due = entry, domains, due
        self.at, self.count, self.problem = account.at, account.count, account.problem
        self.wrong, self.foreign = account.wrong, account.foreign
        #: Since then it has not been found good, as far as this life knows.
        self._since = now
        self.failures = 0
        self.soon = True
        self.running = False

    def same(self, entry: RecipientsEntry, domains: tuple[str, ...]) -> bool:
        return self.entry == entry and self.domains == domains

    def ended(self, outcome: Outcome, now: float) -> None:
        """A sync ended; `now`: monotonic."""
        self.failures = self.failures + 1 if outcome.problem else 0
        self.at, self.count, self.problem, self.soon = outcome.at, outcome.count, outcome.problem, outcome.soon
        if not outcome.problem:
            self._since = now
            self.wrong, self.foreign = outcome.wrong, outcome.foreign
        self.due = now + pause(self.entry.every, self.failures, self.soon)

    def age(self, now: float, wall: float) -> float | None:
        """Seconds since it was last found good, None if it never was."""
        return max(0.0, wall - self.at, now - self._since) if self.at else None

    def facts(self, now: float, wall: float) -> dict[str, Any]:
        """For `postgate status`."""
        age = self.age(now, wall)
        state = "never fetched" if age is None else "well" if not self.problem else "in trouble"
        due = "now" if self.running or self.due <= now else f"in {_span(self.due - now)}"
        facts = {"state": state, "known": self.count, "age": "-" if age is None else _span(age), "next": due}
        facts |= {"of other domains": self.foreign} if self.foreign else {}
        facts |= {"no address": self.wrong} if self.wrong else {}
        return {**facts, **({"trouble": self.problem} if self.problem else {})}

    def degraded(self, name: str, now: float, wall: float) -> str:
        """What an operator should know now, or "". The words stay the same while it stays so."""
        age = self.age(now, wall)
        if age is None:
            return (
                f"recipients {name}: there is no list yet, so nobody is refused for it: {self.problem or 'not fetched'}"
            )
        if self.problem and not self.soon:
            return f"recipients {name}: the old list stays: {self.problem}"
        if age > self.entry.stale_after:
            limit = _span(self.entry.stale_after)
            return f"recipients {name}: the list is older than {limit}: {self.problem or 'not fetched since'}"
        return ""


def _span(seconds: float) -> str:
    """A span of time for people."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} d"
