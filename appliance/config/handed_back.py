"""Transport tables as they are read for mail that a content filter handed back.

Contract: an entry that names a filter which hands back counts as not there: the search goes on with the next table and
the next key. So no such mail goes to a filter of a transport table again, and none goes round. Filters that deliver
count, as everything else does. What failure means for the mail: that of the table itself.
"""

from collections.abc import Awaitable

from appliance.config.filters import Filters
from appliance.mail.later import then
from appliance.mail.ports import Hit, Table


class HandedBack:
    """A table of `[relay]`, without its ways into filters that hand back."""

    def __init__(self, table: Table, filters: Filters) -> None:
        self._table, self._filters = table, filters
        self.pattern, self.at_once = table.pattern, table.at_once

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None:
        """Raises Unavailable, now or then."""
        return then(self._table.get(key), self._without)

    def _without(self, hit: Hit | None) -> Hit | None:
        return None if hit is not None and self._filters.handed_back(hit[0]) else hit
