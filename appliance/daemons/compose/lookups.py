"""The tables of a process that are not in memory: their line to proxymap.

Contract: one Lookups a process, on its loop. `bind` puts the line into the tables of a snapshot, and begins to connect
once one needs it. What failure means for the mail: a table that was not bound, or a proxymap that is away, puts off.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.config.snapshot import Snapshot
from appliance.observe import trouble
from appliance.tables.fixed import Synced
from appliance.tables.remote import Line

#: Seconds that a start waits for proxymap.
PATIENCE = 1.0


class Lookups:
    """Give it up with close()."""

    def __init__(self, rendezvous: Mapping[str, str]) -> None:
        self._line = Line(rendezvous.get("proxymap", ""))
        #: Lists of recipients; those that are not there yet. Of the others nothing is told, though mail that began
        #: before they came, or were left out, may still be noted.
        self._lists, self._absent = set[str](), set[str]()

    def bind(self, snapshot: Snapshot) -> None:
        """Before anybody looks a key up in a table of this snapshot."""
        new = dict(_lists(snapshot)).keys() - self._lists
        self._lists |= new
        self._absent |= new
        remotes = snapshot.remotes
        for table in remotes:
            table.line = self._line
        if remotes:
            self._line.start()

    def adopt(self, snapshot: Snapshot) -> None:
        """In force from now on."""
        self._absent = {what for what, opened in _lists(snapshot) if opened.absent}

    async def ready(self) -> None:
        """Wait a moment for the first connection, if one is needed."""
        if self._line.wanted:
            await self._line.wait_ready(PATIENCE)

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`: the line, where a table needs it, and the messages that tables put off."""
        line = self._line.health() if self._line.wanted else {}
        for what in self._lists - self._absent:
            trouble.tables.well(what)
        touched = trouble.tables.facts()
        more = {"put off by": touched} if touched else {}
        return {**line, **more, "degraded": [*line.get("degraded", []), *trouble.tables.degraded()]}

    def close(self) -> None:
        self._line.close()


def _lists(snapshot: Snapshot) -> Iterator[tuple[str, Synced]]:
    """Lists of recipients that are fetched, as their trouble is called."""
    return ((f"table {spec}", opened) for spec, opened in snapshot.tables.items() if isinstance(opened, Synced))
