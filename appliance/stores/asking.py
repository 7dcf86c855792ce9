"""The workers' end of what `stated` remembers of senders: mail.ports Identities and Firsts, and clients that waited.

Contract: everything goes in the frames of stores.remote; raises Unavailable as it does.
What failure means for the mail: an age that is not known is `temperror` or "new" (the check says which), never proof.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from appliance.mail.identity import Identity
from appliance.stores import wire


class Line(Protocol):
    """The connection to `stated` (stores.remote.StateClient)."""

    async def ask(self, ask: msgspec.Struct) -> Any: ...

    def tell(self, ask: msgspec.Struct) -> None: ...


class Senders:
    """Implements mail.ports Identities and Firsts."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def known(self, identity: Identity) -> Identity:
        """The same identity with its age and counts. Raises Unavailable."""
        found = await self._line.ask(wire.IdentityGet(identity.key))
        if found is None:
            return identity
        first, last, days, messages = found
        return msgspec.structs.replace(identity, first=first, last=last, days=days, messages=messages)

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
