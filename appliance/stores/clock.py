"""The clock that greylist times are written in: wall time that never jumps (threats Q8).

Contract: `now()` moves with the monotonic clock, never backwards, and is drawn towards wall time by at most 2 % of the
time that passes. So a step of the wall clock, by an hour or by years, forward or back, makes a 90 s delay wrong by less
than 2 s: nothing passes early for all, nothing is forgotten early. `saved()` goes to the database; after a restart of
the process on the same boot the clock goes on exactly; after a boot of the machine it starts at wall time, but not
before the last time it wrote (a time that was used is never used twice).
What failure means for the mail: none; without a saved value the clock starts at wall time.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

#: Largest share of the elapsed time by which the clock is drawn towards wall time.
SLEW = 0.02
#: A difference to wall time above this is told in status (seconds).
STEP = 30.0


class SavedClock(msgspec.Struct, frozen=True, array_like=True):
    """What survives a restart: the boot it was taken on, the monotonic clock then, and what this clock said."""

    boot: str
    monotonic: float
    steady: float


def boot_id() -> str:
    """The kernel's id of this boot; "" where there is none (then each start counts as a boot)."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class SteadyClock:
    """See the module's head. All in seconds."""

    def __init__(
        self,
        saved: SavedClock | None = None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._boot = boot_id() if boot is None else boot
        self._at = monotonic()
        self._steady = wall() if saved is None else self._resume(saved)

    def _resume(self, saved: SavedClock) -> float:
        if saved.boot and saved.boot == self._boot and self._at >= saved.monotonic:
            return saved.steady + (self._at - saved.monotonic)
        return max(self._wall(), saved.steady)

    def now(self) -> float:
        """The steady time, in the scale of wall time."""
        at = self._monotonic()
        passed = at - self._at
        if passed > 0:
            drift = self._wall() - (self._steady + passed)
            most = passed * SLEW
            self._steady += passed + max(-most, min(most, drift))
            self._at = at
        return self._steady

    @property
    def offset(self) -> float:
        """Wall time minus steady time: add it to a stored time to show it to people."""
        return self._wall() - self.now()

    def saved(self) -> SavedClock:
        return SavedClock(self._boot, self._monotonic(), self.now())
