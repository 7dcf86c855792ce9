"""Tables behind proxymap asked without it, by a command of the operator: one question after the other, nothing
remembered.

Contract: stands where a process has its line to proxymap. Raises Unavailable as the line does, with the same words.
"""

from collections.abc import Awaitable

from appliance.mail.ports import Hit
from appliance.tables.proxied.base import Opener
from appliance.tables.proxied.keeper import Keeper
from appliance.tables.remote import Remote


class Direct:
    """Give it up with close()."""

    def __init__(self, open_: Opener) -> None:
        self._keeper = Keeper(open_, quiet=True)

    def ask(self, table: Remote, key: str) -> Awaitable[Hit | None]:
        """As remote.Line.ask."""
        return self.look_up(table.spec, key)

    async def look_up(self, spec: str, key: str) -> Hit | None:
        """Raises Unavailable."""
        self._keeper.also([spec])
        return await self._keeper.hit(spec, key)

    def sample(self, spec: str) -> str | None:
        """As Asked.sample."""
        return self._keeper.sample(spec)

    def close(self) -> None:
        self._keeper.close()
