"""The workers' end of what `stated` remembers of senders: mail.ports Identities and Firsts, and clients that waited.

Contract: everything goes in the frames of stores.remote; raises Unavailable as it does.
What failure means for the mail: an age that is not known is `temperror` or "new" (the check says which), never proof.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from appliance.mail.identity import Identity
from appliance.stores import wire

#: Seconds for which a worker does not ask again about an identity that has a history, and how many it remembers.
RECENT, RECENT_MOST = 60.0, 4096
#: [age of the first message, of the last one, days, messages].
Known = tuple[float, float, int, int]


class Line(Protocol):
    """The connection to `stated` (stores.remote.StateClient)."""

    async def ask(self, ask: msgspec.Struct) -> Any: ...

    def tell(self, ask: msgspec.Struct) -> None: ...


class Senders:
    """Implements mail.ports Identities and Firsts. What is known of an identity is remembered for a minute."""

    def __init__(
        self, line: Line, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._line, self._wall, self._monotonic = line, wall, monotonic
        self._recent: OrderedDict[str, tuple[float, Known]] = OrderedDict()

    def known(self, identity: Identity) -> Identity | Awaitable[Identity]:
        """The same identity with its age and counts. Raises Unavailable."""
        recent = self._recent.get(identity.key)
        if recent is not None and self._monotonic() - recent[0] < RECENT:
            return self._aged(identity, *recent)
        return self._known(identity)

    async def _known(self, identity: Identity) -> Identity:
        found = await self._line.ask(wire.IdentityGet(identity.key))
        if found is None:
            return identity
        recent = self._recent[identity.key] = (self._monotonic(), tuple(found))
        self._recent.move_to_end(identity.key)
        if len(self._recent) > RECENT_MOST:
            self._recent.popitem(last=False)
        return self._aged(identity, *recent)

    def _aged(self, identity: Identity, at: float, known: Known) -> Identity:
        """`identity` with what was known of it at `at`. Ages are told, and made times of by the clock that is read now: a
        step of the wall clock makes nobody older."""
        first, last, days, messages = known
        now = self._wall() - (self._monotonic() - at)
        return msgspec.structs.replace(identity, first=now - first, last=now - last, days=days, messages=messages)

    def accepted(self, keys: Sequence[str]) -> None:
        """Mail of these identities was accepted."""
        if keys:
            self._line.tell(wire.IdentityAccepted(tuple(keys)))

    async def age(self, key: str, keep: float) -> float:
        """Seconds since the first question for `key`. Raises Unavailable."""
        return float(await self._line.ask(wire.FirstAge(key, keep)))

    async def has_waited(self, address: str) -> bool:
        """Whether the client waited for a greeting lately, or is known-good. Raises Unavailable."""
        return bool(await self._line.ask(wire.HasWaited(address)))

    def waited(self, address: str, keep: float) -> None:
        """The client waited for the greeting: it need not again for `keep` seconds."""
        self._line.tell(wire.Waited(address, keep))
