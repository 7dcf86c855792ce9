"""Verdicts that are told again: who asks a check the same a moment later need not have it think again.

Contract: a check that has `key` says with it what of a Context decides. Its verdict is told again for the same key as
long as Verdict.until says, at most KEPT seconds, by the same engine, so under the same policies and tables; only where
nothing follows from it (DUNNO), and where no exception stands. It is the very value that was found, and is counted as if
it had been found anew. What failure means for the mail: none; what is not remembered is asked.
"""

from collections.abc import Callable, Hashable, Iterable

from appliance.mail.context import Context
from appliance.mail.verdict import Verdict

#: Seconds for which a verdict is told again at most, and how many of a check an engine remembers.
KEPT, MOST = 5.0, 4096


class Memory:
    """Of one check at one place. `quiet`: outcomes from which nothing follows. `clock`: that of Verdict.until."""

    __slots__ = ("_clock", "_kept", "_quiet", "key")

    def __init__(
        self,
        key: Callable[[Context], Hashable],
        quiet: Iterable[str],
        clock: Callable[[], float],
    ) -> None:
        #: What decides, of a Context; None: it cannot be said.
        self.key = key
        self._quiet, self._clock = frozenset(quiet), clock
        self._kept: dict[Hashable, tuple[float, Verdict]] = {}

    def get(self, key: Hashable) -> Verdict | None:
        """What was found, if it still holds."""
        kept = self._kept.get(key)
        return kept[1] if kept is not None and kept[0] > self._clock() else None

    def keep(self, key: Hashable, verdict: Verdict) -> None:
        """This was found, if it holds for a while."""
        if key is None or not verdict.until or verdict.outcome not in self._quiet or verdict.more:
            return
        now = self._clock()
        if verdict.until > now:
            if len(self._kept) >= MOST:
                self._kept.clear()
            self._kept[key] = min(verdict.until, now + KEPT), verdict
