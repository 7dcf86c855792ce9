"""What was answered, kept for as long as DNS allows (RFC 1035, 2308, 8767): positive, negative, failed, stale.

Contract: monotonic seconds go in as `now`; TTL 0 and negatives without SOA are not kept (unless `ttl_floor` says so for
the first); nothing lives longer than a day; failures live 5 to 30 s; the oldest entries go when the table is full, by
count or by octets.
"""

from typing import NamedTuple

from appliance.protocol.dns import Answer

MAX_TTL = 86400.0
MAX_NEGATIVE_TTL = 10800.0
STALE_FOR = 3600.0
#: Octets of all records that are kept: strangers publish what they like.
MAX_OCTETS = 32 * 1024 * 1024
FAILURE_MIN, FAILURE_MAX = 5.0, 30.0
Key = tuple[str, str]


class _Kept(NamedTuple):
    answer: Answer
    until: float
    octets: int


class _Failure(NamedTuple):
    text: str
    until: float
    wait: float


class AnswerCache:
    """Answers by (name, type). `capacity` bounds each of the two tables."""

    def __init__(self, ttl_floor: float = 0.0, capacity: int = 20000) -> None:
        self._floor, self._capacity = ttl_floor, capacity
        self._kept: dict[Key, _Kept] = {}
        self._failed: dict[Key, _Failure] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, now: float) -> Answer | None:
        """The answer with the seconds that are left to it, or None."""
        kept = self._kept.get(key)
        if kept is None or now >= kept.until:
            return None
        name, rtype, records, _, exists, _ = kept.answer
        return Answer(name, rtype, records, int(kept.until - now), exists)

    def stale(self, key: Key, now: float) -> Answer | None:
        """An answer past its time by less than an hour, for when no server answers."""
        kept = self._kept.get(key)
        if kept is None or now >= kept.until + STALE_FOR:
            return None
        return kept.answer._replace(ttl=30, stale=True)

    def put(self, key: Key, answer: Answer, now: float) -> None:
        """Keep `answer` for its ttl, which is 0 for what must not be kept."""
        self._failed.pop(key, None)
        self._drop(key)
        cap = MAX_TTL if answer.records else MAX_NEGATIVE_TTL
        floor = self._floor if answer.records else 0.0
        ttl = min(max(answer.ttl, floor), cap)
        if ttl > 0:
            kept = _Kept(answer, now + ttl, sum(map(len, answer.records)))
            self._octets += kept.octets
            while len(self._kept) >= self._capacity or (self._octets > MAX_OCTETS and self._kept):
                self._drop(next(iter(self._kept)))
            self._kept[key] = kept

    def _drop(self, key: Key) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._octets -= kept.octets

    def failure(self, key: Key, now: float) -> str:
        """Why the last try failed, if that was so recent that none should be made; else ""."""
        failed = self._failed.get(key)
        return failed.text if failed is not None and now < failed.until else ""

    def fail(self, key: Key, text: str, now: float) -> None:
        """Remember a failure: 5 s, twice as long each time it repeats, at most 30 s."""
        last = self._failed.pop(key, None)
        wait = min(last.wait * 2, FAILURE_MAX) if last is not None else FAILURE_MIN
        while len(self._failed) >= self._capacity:
            del self._failed[next(iter(self._failed))]
        self._failed[key] = _Failure(text, now + wait, wait)
