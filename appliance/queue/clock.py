"""Spool time: seconds that only ever pass, for ages and lifetimes, whatever is done to the wall clock (threats Q8).

Contract: spool time starts as the wall time of the first start. While the process lives it follows the monotonic clock.
Over a stop it adds the difference of the wall clocks, but never less than 0 and never more than MAX_GAP: a clock that was
set by years while we were down counts as one hour, and so does a real stop of days (the mail then simply lives longer).
What failure means for the mail: a lost clock file makes spool time start at the wall time again; a clock that cannot be
saved is a shorter count, so mail expires later, never sooner.
"""

import contextlib
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

MAX_GAP = 3600.0
#: A wall clock that differs from the monotonic one by more is reported as a step.
STEP = 60.0
_FIELDS = struct.Struct(">dd")
_CRC = struct.Struct(">I")


class SpoolClock:
    """`now()` is spool time. Call `save()` about once a minute."""

    def __init__(
        self,
        path: Path,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._wall, self._monotonic = path, wall, monotonic
        now = wall()
        spool, then = self._load() or (now, now)
        self._base = spool + min(max(now - then, 0.0), MAX_GAP)
        self._start = self._seen = monotonic()
        self._last = now

    def now(self) -> float:
        """Spool time in seconds."""
        return self._base + self._monotonic() - self._start

    def wall(self) -> float:
        """Wall-clock seconds, for display and records only."""
        return self._wall()

    def age(self, born: float) -> float:
        """Seconds since `born` (spool time), never negative."""
        return max(0.0, self.now() - born)

    def step(self) -> float:
        """By how many seconds the wall clock was set since the last call, 0 if it just ran."""
        wall, monotonic = self._wall(), self._monotonic()
        step = (wall - self._last) - (monotonic - self._seen)
        self._last, self._seen = wall, monotonic
        return step if abs(step) > STEP else 0.0

    def save(self) -> None:
        """Remember spool time for the next start; an error is no harm and is not raised."""
        fields = _FIELDS.pack(self.now(), self._wall())
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_bytes(fields + _CRC.pack(zlib.crc32(fields)))
            new.replace(self._path)

    def _load(self) -> tuple[float, float] | None:
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        if len(data) != _FIELDS.size + _CRC.size or zlib.crc32(data[: _FIELDS.size]) != _CRC.unpack(data[-4:])[0]:
            return None
        spool, wall = _FIELDS.unpack_from(data)
        return spool, wall
