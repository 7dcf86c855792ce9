"""One milterd worker as the skeleton drives it: start, reload, drain, health.

Contract: appliance.daemons.skeleton.Daemon. What failure means for the mail: a start that fails serves nobody (the MTA
takes its default action); a snapshot that does not fit leaves the old one in force.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from appliance.config.snapshot import Snapshot
from appliance.daemons.compose import Composition
from appliance.daemons.milterd.front import Front
from appliance.daemons.milterd.rules import Rules
from appliance.daemons.skeleton import Birth
from appliance.observe import maillog


class Milterd:
    """The daemon."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._composition = Composition(birth)
        self._rules = Rules(birth.snapshot, self._composition)
        self._prepared: Rules | None = None

    async def start(self) -> None:
        """Connect to the other processes, then accept."""
        composition, birth = self._composition, self._birth
        await composition.open()
        folder = str(birth.state_dir / "milter")
        self.front = Front(self._rules, composition.client_name, folder, birth.index, composition.senders)
        for name, sockets in birth.listening.items():
            kind, _, door = name.partition(":")
            if kind == birth.service and door in self._rules.doors:
                for sock in sockets:
                    self.front.acceptor.serve(sock, door)

    def prepare(self, snapshot: Snapshot) -> None:
        """Raises if `snapshot` cannot be put in force."""
        self._prepared = Rules(snapshot, self._composition)

    def commit(self, snapshot: Snapshot) -> None:
        """In force for the next message of every connection."""
        rules, self._prepared = self._prepared, None
        if rules is None or rules.snapshot.hash != snapshot.hash:
            rules = Rules(snapshot, self._composition)
        self._composition.adopt(snapshot)
        self.front.follow(rules)

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """Nothing here speaks TLS; passwords of scanners come with them."""
        self._composition.take_secrets(certificates)

    async def drain(self, grace: float) -> None:
        """Accept nothing more, let messages end, hang up."""
        await self.front.drain(grace)
        await asyncio.sleep(0)
        await self._composition.close()
        maillog.flush()

    def health(self) -> dict[str, Any]:
        front, health = self.front, self._composition.health()
        return {
            **health,
            "connections": len(front.connections),
            "body_memory": front.memory.used,
            "policy": front.rules.snapshot.hash,
            "degraded": [*health.get("degraded", []), *front.degraded()],
        }
