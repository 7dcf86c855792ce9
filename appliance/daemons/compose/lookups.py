"""The tables of a process that are not in memory: their line to proxymap.

Contract: one Lookups a process, on its loop. `bind` puts the line into the tables of a snapshot, and begins to connect
once one needs it. What failure means for the mail: a table that was not bound, or a proxymap that is away, puts off.
"""

from collections.abc import Mapping
from typing import Any

from appliance.config.snapshot import Snapshot
from appliance.observe import trouble
from appliance.tables.remote import Line

#: Seconds that a start waits for proxymap.
PATIENCE = 1.0


class Lookups:
    """Give it up with close()."""

    def __init__(self, rendezvous: Mapping[str, str]) -> None:
        self._line = Line(rendezvous.get("proxymap", ""))

    def bind(self, snapshot: Snapshot) -> None:
        """Before anybody looks a key up in a table of this snapshot."""
        remotes = snapshot.remotes
        for table in remotes:
            table.line = self._line
        if remotes:
            self._line.start()

    async def ready(self) -> None:
        """Wait a moment for the first connection, if one is needed."""
        if self._line.wanted:
            await self._line.wait_ready(PATIENCE)

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`: the line, where a table needs it, and the messages that tables put off."""
        line = self._line.health() if self._line.wanted else {}
        touched = trouble.tables.facts()
        more = {"put off by": touched} if touched else {}
        return {**line, **more, "degraded": [*line.get("degraded", []), *trouble.tables.degraded()]}

    def close(self) -> None:
        self._line.close()
