"""What call-ahead has found, in two layers: this worker's RAM, and `stated` (all workers, survives restarts).

Contract: a positive result holds for 31 days and is asked again after 7, a negative one holds for 3 days and is asked
again after 3 hours (Postfix address_verify_*); whether a domain's next hop accepts everything is asked again after a
day. "stale" means: still good if the next hop is away, but ask again. `look` is the fast path and never waits; what it
has is forgotten after a while, so that results of other workers are seen.
What failure means for the mail: without `stated` each worker probes for itself.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from appliance.mail.ports import Probe, Unavailable

HOUR, DAY = 3600.0, 86400.0


class Life(NamedTuple):
    """Seconds: how long a result holds, after which age it is asked again, and how long this worker's RAM keeps it."""

    keep: float
    refresh: float
    local: float


LIVES = {
    "known": Life(31 * DAY, 7 * DAY, HOUR),
    "unknown": Life(3 * DAY, 3 * HOUR, 60.0),
    "blind": Life(2 * DAY, DAY, 600.0),
    "exact": Life(31 * DAY, 7 * DAY, HOUR),
}


class Remote(Protocol):
    """What is needed of stores.remote.StateClient."""

    async def get_probe(self, key: str) -> Probe | None: ...

    def put_probe(self, key: str, probe: Probe, keep: float) -> None: ...


class Cached(NamedTuple):
    """A result that holds; `stale`: ask again."""

    probe: Probe
    stale: bool


class CallaheadCache:
    """See the module's head. `cap` bounds the results in this worker's RAM."""

    def __init__(
        self,
        remote: Remote | None,
        *,
        cap: int = 50_000,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remote, self._cap, self._wall, self._monotonic = remote, cap, wall, monotonic
        self._local: OrderedDict[str, tuple[Probe, float]] = OrderedDict()

    def look(self, key: str) -> Cached | None:
        """A result at hand, or None."""
        found = self._local.get(key)
        if found is None:
            return None
        probe, until = found
        if self._monotonic() >= until or (cached := self._judged(probe)) is None:
            del self._local[key]
            return None
        return cached

    async def get(self, key: str) -> Cached | None:
        """A result of any worker, or None (also while `stated` is away)."""
        if (cached := self.look(key)) is not None or self._remote is None:
            return cached
        try:
            probe = await self._remote.get_probe(key)
        except Unavailable:
            return None
        if probe is None or (cached := self._judged(probe)) is None:
            return None
        self._remember(key, probe)
        return cached

    def put(self, key: str, probe: Probe) -> None:
        """Remember a result for everybody; one that found nothing out is not remembered."""
        life = LIVES.get(probe.state)
        if life is None:
            return
        self._remember(key, probe)
        if self._remote is not None:
            self._remote.put_probe(key, probe, life.keep)

    def _judged(self, probe: Probe) -> Cached | None:
        life = LIVES.get(probe.state)
        age = max(0.0, self._wall() - probe.at)
        return None if life is None or age >= life.keep else Cached(probe, age >= life.refresh)

    def _remember(self, key: str, probe: Probe) -> None:
        self._local[key] = (probe, self._monotonic() + LIVES[probe.state].local)
        self._local.move_to_end(key)
        if len(self._local) > self._cap:
            self._local.popitem(last=False)
