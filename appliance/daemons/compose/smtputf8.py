"""Whether every next hop takes SMTPUTF8 (RFC 6531 section 3.6): only then may a listener offer it.

Contract: learned by an EHLO to each next hop, again every ten minutes; one that never answered is asked again after
two seconds, doubling to ten minutes. What is not known is not offered; next hops in a transport table are never known.
What failure means for the mail: internationalised addresses are refused in the session, by us, instead of bounced later.
"""

import asyncio
import contextlib

from appliance.config.values import NextHop
from appliance.connectors.smtp import connect
from appliance.connectors.target import ConnectFailed, Timeouts
from appliance.daemons.compose.doors import Doors
from appliance.net.mx import NoPlace
from appliance.protocol.errors import Unavailable

AGAIN = 600.0
#: The first wait for a next hop that never answered.
SOON = 2.0
#: Seconds that the start waits for answers, and that one EHLO may take.
PATIENCE, TIMEOUT = 1.0, 10.0
_TIMEOUTS = Timeouts(connect=TIMEOUT, greeting=TIMEOUT, hello=TIMEOUT, tls=TIMEOUT, command=TIMEOUT)


class Utf8:
    """What is known of the next hops. `hostname` (may change) is our EHLO name."""

    def __init__(self, doors: Doors, hostname: str) -> None:
        self._doors, self.hostname = doors, hostname
        self._known: dict[NextHop, bool | None] = {}
        #: What `everywhere` said of these routes, going by what was known then.
        self._said: tuple[object, object, bool] = None, None, False
        self._wait = SOON
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def everywhere(self) -> bool:
        """True only if every next hop said so."""
        routes, known, said = self._said
        if routes is not self._doors.routes or known is not self._known:
            hops = list(self._doors.all_hops())
            said = bool(hops) and not self._doors.in_table and all(self._known.get(hop) for hop in hops)
            self._said = self._doors.routes, self._known, said
        return said

    async def learn(self) -> None:
        """Ask now; returns after a second at most, the asking goes on."""
        self.learn_soon()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=PATIENCE)

    def learn_soon(self) -> None:
        """Ask in the background, unless that is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._learn())

    async def _learn(self) -> None:
        self._later(AGAIN)
        hops = self._hops()
        found = await asyncio.gather(*map(self._ask, hops))
        self._known = dict(zip(hops, found, strict=True))
        if None in found or hops != self._hops():
            self._later(self._wait)
            self._wait = min(AGAIN, self._wait * 2)
        else:
            self._wait = SOON

    def _later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.learn_soon)

    def _hops(self) -> list[NextHop]:
        return list(dict.fromkeys(self._doors.all_hops()))

    async def _ask(self, hop: NextHop) -> bool | None:
        """Whether this next hop offers SMTPUTF8; while it is away, what it said last (None: nothing yet)."""
        with contextlib.suppress(ConnectFailed, Unavailable, NoPlace, OSError):
            for door in await self._doors.of_hop(hop):
                with contextlib.suppress(ConnectFailed):
                    session = await connect(door.target, self.hostname, door.level, door.context, _TIMEOUTS)
                    offered = "SMTPUTF8" in session.machine.features
                    session.quit()
                    return offered
        return self._known.get(hop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
