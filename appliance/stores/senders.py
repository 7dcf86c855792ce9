"""What `stated` remembers of those who send: identities whose mail was accepted, firsts, clients that waited.

Contract: like stores.state, of which this is a part: every ask is answered at once from a shelf; times that are kept are
steady; what is told are ages. An identity is forgotten a while after its last message (one that came on one
day only sooner); a first and a waiter when their time is over. Keys are bounded, whoever chose them.
What failure means for the mail: an error answer is Unavailable in the worker; a forgotten identity is new again.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from appliance.mail.network import network
from appliance.stores import wire
from appliance.stores.clock import SteadyClock
from appliance.stores.shelf import Read, Shelf

DAY = 86400.0
#: How long an identity is remembered after its last message: one that was met on one day only, and others.
KEEP_ONCE, KEEP = 36 * DAY, 180 * DAY
#: No first and no waiter is kept for longer.
KEEP_MOST = 36 * DAY
#: Counts of an identity are written at most once in this time (seconds); a restart may forget those since.
WRITE_EVERY = 3600.0
#: Longest key that is kept as it is.
KEY_MOST = 300


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An identity: first and last accepted message, on how many different days, how many; `written` is when this was put
    on disk. All times are steady."""

    first: float
    last: float
    days: int
    messages: int
    written: float


class First(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Met first at `first`; forgotten at `until`."""

    first: float
    until: float


def bounded(key: str) -> str:
    """`key`, or a digest of one that is too long."""
    return (
        key if len(key) <= KEY_MOST else f"digest:{blake2b(key.encode('utf-8', 'replace'), digest_size=20).hexdigest()}"
    )


def once_more(known: Known | None, now: float) -> Known:
    """`known` with one more message, accepted now."""
    if known is None:
        return Known(now, now, 1, 1, now)
    days = known.days + (int(now // DAY) > int(known.last // DAY))
    stale = days > known.days or now - known.written >= WRITE_EVERY
    return Known(known.first, now, days, known.messages + 1, now if stale else known.written)


def life(known: Known) -> float:
    """When `known` is forgotten."""
    return known.last + (KEEP if known.days > 1 else KEEP_ONCE)


class Senders:
    """See the module's head. `good(network)`: whether mail of a network was accepted lately."""

    def __init__(self, read: Read, clock: SteadyClock, good: Callable[[str], bool]) -> None:
        self.identities = Shelf("identity", Known, read)
        self.firsts = Shelf("first", First, read)
        self.waiters = Shelf("waiter", First, read)
        self.shelves: tuple[Shelf[Any], ...] = (self.identities, self.firsts, self.waiters)
        self._clock, self._good = clock, good
        self.methods: Mapping[type, Callable[[Any, Any], Any]] = {
            wire.IdentityGet: lambda ask, _: self.known(ask.key),
            wire.IdentityAccepted: lambda ask, _: self.accepted(ask.keys),
            wire.FirstAge: lambda ask, _: self.age(ask.key, ask.keep),
            wire.HasWaited: lambda ask, _: self.has_waited(ask.address),
            wire.Waited: lambda ask, _: self.waited(ask.address, ask.keep),
        }

    def known(self, key: str) -> Sequence[Any] | None:
        """[age of the first message, of the last one, days, messages] of an identity, or None."""
        known, now = self.identities.get(bounded(key)), self._clock.now()
        if known is None or life(known) < now:
            return None
        return now - known.first, now - known.last, known.days, known.messages

    def accepted(self, keys: Sequence[str]) -> None:
        """One message more of each."""
        now = self._clock.now()
        for key in map(bounded, keys):
            known = self.identities.get(key)
            later = once_more(known if known is not None and life(known) >= now else None, now)
            store = self.identities.put if later.written == now else self.identities.touch
            store(key, later, life(later))

    def age(self, key: str, keep: float) -> float:
        """Seconds since `key` was met first; 0.0: now."""
        key, now = bounded(key), self._clock.now()
        first = self.firsts.get(key)
        if first is not None and first.until > now:
            return max(now - first.first, 1e-3)
        until = now + min(max(keep, 0.0), KEEP_MOST)
        self.firsts.put(key, First(now, until), until)
        return 0.0

    def has_waited(self, address: str) -> bool:
        """Whether a client waited for a greeting lately, or its network is known-good."""
        waiter = self.waiters.get(_client(address))
        return (waiter is not None and waiter.until > self._clock.now()) or self._good(address)

    def waited(self, address: str, keep: float) -> None:
        """A client waited: so it need not for `keep` seconds."""
        now = self._clock.now()
        until = now + min(max(keep, 0.0), KEEP_MOST)
        self.waiters.put(_client(address), First(now, until), until)


def _client(address: str) -> str:
    """One client: an address, or the /64 of it."""
    return bounded(network(address, 32, 64))
