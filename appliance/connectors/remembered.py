"""What a scanner said of a content a short while ago, so that a mail that comes again need not be scanned again.

Contract: only answers that say what is in the content (KINDS), never one that says "not scanned"; each for `seconds`, at
most MOST of them. What failure means for the mail: nothing here fails; what is forgotten is scanned.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from appliance.mail.scan import ScanResult

KINDS = frozenset({"clean", "infected", "suspicious", "spam"})
MOST = 2000


class Remembered:
    """By what identifies a content. `seconds` 0: nothing is kept."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._results: OrderedDict[Hashable, tuple[float, ScanResult]] = OrderedDict()
        self.hits = 0

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: Hashable) -> ScanResult | None:
        found = self._results.get(key)
        if found is None:
            return None
        if self._clock() >= found[0]:
            del self._results[key]
            return None
        self.hits += 1
        return found[1]

    def put(self, key: Hashable, result: ScanResult) -> None:
        if self._seconds <= 0 or result.kind not in KINDS or not result.lasting or key in self._results:
            return
        self._results[key] = self._clock() + self._seconds, result
        if len(self._results) > MOST:
            self._results.popitem(last=False)

    def clear(self) -> None:
        self._results.clear()
