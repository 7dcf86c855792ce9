r"""Queue ids in the form of Postfix's long ids: base-52 seconds (6 digits), base-52 microseconds (4), "z", base-51 rest.

Contract: an id is 1-40 characters of \w, sorts by time, and is unique: within a process no microsecond is used twice
(a clock that steps back is outrun, not followed); between processes and restarts the rest holds the worker and a
random number.
"""

import os
import re
import time
from collections.abc import Callable

_DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_VALID = re.compile(r"[0-9A-Za-z_]{1,40}", re.ASCII)
_WORKERS = 1024


def base(number: int, radix: int, width: int = 1) -> str:
    """`number` (not negative) in digits without vowels, at least `width` of them."""
    digits = ""
    while number or len(digits) < width:
        number, digit = divmod(number, radix)
        digits = _DIGITS[digit] + digits
    return digits


def valid(queue_id: str) -> bool:
    """True if `queue_id` may be used as a file name and in a log line."""
    return _VALID.fullmatch(queue_id) is not None


#: Two digits to the base of 52, by their number.
_PAIRS = [base(number, 52, 2) for number in range(52 * 52)]


class QueueIds:
    """`next(ids)` is a new id. `worker_index` below 1024 tells the processes of one moment apart."""

    def __init__(self, worker_index: int, clock_ns: Callable[[], int] = time.time_ns) -> None:
        run = int.from_bytes(os.urandom(4), "big")
        self._rest = "z" + base(run * _WORKERS + worker_index % _WORKERS, 51)
        self._clock = clock_ns
        self._last = 0
        #: From this microsecond on so many more have the same beginning: all digits but the last two.
        self._begin, self._size, self._same = -1, 0, ""

    def __iter__(self) -> "QueueIds":
        return self

    def __next__(self) -> str:
        now = self._clock() // 1000
        if now <= self._last:
            now = self._last + 1
        self._last = now
        place = now - self._begin
        if place >= self._size:
            seconds, micro = divmod(now, 1_000_000)
            high, place = divmod(micro, 2704)
            self._begin, self._size = now - place, min(2704, 1_000_000 - high * 2704)
            self._same = base(seconds, 52, 6) + _PAIRS[high]
        return f"{self._same}{_PAIRS[place]}{self._rest}"
