"""The greylist state machine (RFC 6647), pure: records in, an answer and records to write out.

Three kinds of records. A Triplet (origin key, sender, recipient) waits or has passed. An Origin counts first passes for
the automatic acceptance: of the strongest key alone, so that a provider's network is not accepted for what one customer
does, and of none that strangers share. A Pair (sender, recipient, whatever the origin) finds senders whose retries keep
coming from other addresses: after LOOP attempts from different addresses at or after the delay it passes, for good.
Rules: the keys of an ask (identity, network) are all read and all written, so that a DNS failure that hides the
identity does not restart the clock; a retry that is too early never resets it; what did not come back within the
window, or was not used for `remember`, is new again. `last` of what is known is moved only now and then (`_stale`), so
that known senders cost no write.
What failure means for the mail: nothing fails here.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from appliance.mail.greylisting import GreylistAnswer

#: Attempts from different addresses at or after the delay that end the waiting of a pool.
LOOP = 3
#: An origin's passes are counted at most once in this time (seconds).
COUNT_EVERY = 3600.0


class Triplet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`passed` is 0 while it waits. All times in seconds of the steady clock."""

    first: float
    last: float
    attempts: int
    passed: float = 0.0


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How often mail of this origin passed for the first time, when that was counted last, and its last use."""

    passes: int
    counted: float
    last: float


class Pair(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`late` are the client addresses that came at or after the delay."""

    first: float
    last: float
    late: tuple[str, ...] = ()
    passed: float = 0.0


class Knobs(Protocol):
    """What a step needs of an ask (mail.greylisting.GreylistAsk and stores.wire.Step both do)."""

    @property
    def keys(self) -> tuple[str, ...]: ...
    @property
    def client(self) -> str: ...
    @property
    def delay(self) -> float: ...
    @property
    def window(self) -> float: ...
    @property
    def remember(self) -> float: ...
    @property
    def auto_accept(self) -> int: ...
    @property
    def shared(self) -> bool: ...


class Known(msgspec.Struct, frozen=True, gc=False):
    """The records an ask finds: one triplet and one origin for each of its keys, in their order."""

    triplets: Sequence[Triplet | None]
    origins: Sequence[Origin | None]
    pair: Pair | None = None


class Step(msgspec.Struct, frozen=True, gc=False):
    """The answer and what is to be written: `triplet` under every key, `origins` key by key as far as they go; None =
    leave it."""

    answer: GreylistAnswer
    triplet: Triplet | None = None
    origins: Sequence[Origin | None] = ()
    pair: Pair | None = None


def expires(record: Triplet | Origin | Pair, window: float, remember: float) -> float:
    """When `record` means nothing any more."""
    if isinstance(record, Origin) or record.passed:
        return record.last + remember
    return record.first + window


def decide(ask: Knobs, now: float, known: Known) -> Step:
    """One step. `now` is steady time in seconds."""
    live = [t for t in known.triplets if t is not None and expires(t, ask.window, ask.remember) >= now]
    origins = [o if o is not None and o.last + ask.remember >= now else None for o in known.origins]
    strongest = None if ask.shared else origins[0]
    if ask.auto_accept and strongest is not None and strongest.passes >= ask.auto_accept:
        return _auto(ask, now, known, strongest, live)
    for key, triplet in zip(ask.keys, known.triplets, strict=True):
        if triplet is not None and triplet.passed and triplet.last + ask.remember >= now:
            return _known(ask, now, known, key, triplet)
    pair = known.pair
    if pair is not None and expires(pair, ask.window, ask.remember) < now:
        pair = None
    if pair is not None and pair.passed:
        return _pool(ask, now, pair, live)
    if live and now - min(t.first for t in live) >= ask.delay:
        return _pass(ask, now, live, origins)
    return _wait(ask, now, live, pair)


def _stale(ask: Knobs, now: float, last: float) -> bool:
    """Is it worth a write to move `last` to now?"""
    return now - last > min(3600.0, ask.remember / 100)


def _merged(now: float, live: Sequence[Triplet], passed: float) -> Triplet:
    """The oldest clock and the highest count of what is known, one attempt later."""
    first = min([now, *(t.first for t in live)])
    return Triplet(first, now, max([0, *(t.attempts for t in live)]) + 1, passed)


def _auto(ask: Knobs, now: float, known: Known, origin: Origin, live: Sequence[Triplet]) -> Step:
    touched = [Origin(origin.passes, origin.counted, now) if _stale(ask, now, origin.last) else None]
    fresh = [t for t in live if t.passed and not _stale(ask, now, t.last)]
    triplet = None if len(fresh) == len(known.triplets) else _merged(now, live, now)
    first = min([now, *(t.first for t in live)])
    answer = GreylistAnswer(state="auto", first=first, attempts=1, passes=origin.passes, key=ask.keys[0])
    return Step(answer, triplet, touched)


def _known(ask: Knobs, now: float, known: Known, key: str, triplet: Triplet) -> Step:
    answer = GreylistAnswer(state="known", first=triplet.first, attempts=triplet.attempts, key=key)
    everywhere = all(t is not None and t.passed for t in known.triplets)
    if everywhere and not _stale(ask, now, triplet.last):
        return Step(answer)
    return Step(answer, Triplet(triplet.first, now, triplet.attempts, triplet.passed))


def _pool(ask: Knobs, now: float, pair: Pair, live: Sequence[Triplet]) -> Step:
    """A pool that was let through before: known from every address."""
    triplet = _merged(now, live, now)
    answer = GreylistAnswer(state="known", first=pair.first, attempts=triplet.attempts, key="pair")
    touched = Pair(pair.first, now, pair.late, pair.passed) if _stale(ask, now, pair.last) else None
    return Step(answer, triplet, pair=touched)


def _pass(ask: Knobs, now: float, live: Sequence[Triplet], origins: Sequence[Origin | None]) -> Step:
    triplet = _merged(now, live, now)
    counted = [] if ask.shared else [_count(origins[0], now)]
    answer = GreylistAnswer(
        state="passed",
        first=triplet.first,
        attempts=triplet.attempts,
        passes=max((o.passes for o in counted), default=0),
        key=ask.keys[0],
    )
    return Step(answer, triplet, counted)


def _count(origin: Origin | None, now: float) -> Origin:
    if origin is None:
        return Origin(1, now, now)
    if now - origin.counted >= COUNT_EVERY:
        return Origin(origin.passes + 1, now, now)
    return Origin(origin.passes, origin.counted, now)


def _wait(ask: Knobs, now: float, live: Sequence[Triplet], pair: Pair | None) -> Step:
    """Defer, unless this is the attempt that shows a pool."""
    late = pair.late if pair is not None else ()
    if pair is not None and now - pair.first >= ask.delay and ask.client not in late:
        late = (*late, ask.client)
        if len(late) >= LOOP:
            triplet = _merged(now, live, now)
            answer = GreylistAnswer(state="loop", first=pair.first, attempts=len(late) + 1, key="pair")
            return Step(answer, triplet, pair=Pair(pair.first, now, late, now))
    triplet = _merged(now, live, 0.0)
    wait = ask.delay - (now - triplet.first)
    state = "early" if live else "new"
    answer = GreylistAnswer(state=state, first=triplet.first, attempts=triplet.attempts, wait=wait, key=ask.keys[0])
    if pair is None:
        return Step(answer, triplet, pair=Pair(triplet.first, now))
    return Step(answer, triplet, pair=Pair(pair.first, now, late) if late != pair.late else None)
