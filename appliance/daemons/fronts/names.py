"""The names of clients, as every front that has a client's address finds them out.

Contract: at once where the name is remembered, else by a task that never raises. What failure means for the mail: a name
that DNS could not give is `temperror`: unknown, never "has none"; it is not remembered.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from appliance.net.client_name import ClientName
from appliance.observe import oplog

log = oplog.get("names")
#: Seconds for which a client's name is not asked for again (the resolver keeps to the TTL behind it), and how many.
KEPT, MOST = 10.0, 4096
Confirm = Callable[[str], Awaitable[ClientName]]


class Names:
    """Of one worker."""

    def __init__(self, confirm: Confirm) -> None:
        self._loop = asyncio.get_running_loop()
        self._confirm = confirm
        self._known: OrderedDict[str, tuple[float, ClientName]] = OrderedDict()

    def of(self, address: str) -> "ClientName | asyncio.Task[ClientName]":
        """The forward-confirmed name of an address, or the task that will give it."""
        kept = self._known.get(address)
        if kept is not None and kept[0] > self._loop.time():
            return kept[1]
        return self._loop.create_task(self._ask(address))

    async def _ask(self, address: str) -> ClientName:
        try:
            found = await self._confirm(address)
        except Exception as error:
            log.error("client name", client=address, exc_info=error)
            return ClientName("unknown", "unknown", "temperror")
        if found.proof != "temperror":
            self._known[address] = (self._loop.time() + KEPT, found)
            if len(self._known) > MOST:
                self._known.popitem(last=False)
        return found
