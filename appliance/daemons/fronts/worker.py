"""A worker of a front that lends our judgement to MTAs, as the skeleton drives it: start, reload, drain, health.

Contract: appliance.daemons.skeleton.Daemon. What failure means for the mail: a start that fails serves nobody (the MTA
takes its default); a snapshot that does not fit leaves the old one in force.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from appliance.config.snapshot import Snapshot
from appliance.daemons.compose import Composition
from appliance.daemons.skeleton import Birth
from appliance.observe import maillog, trouble


class Rules(Protocol):
    """One snapshot in force at a front."""

    snapshot: Snapshot

    @property
    def doors(self) -> Mapping[str, Any]:
        """The fronts of this kind, by name."""


R = TypeVar("R", bound=Rules)


class Front(Protocol[R]):
    """What all connections in a worker share."""

    rules: R

    def accept_on(self, sock: socket.socket, door: str) -> None: ...

    def follow(self, rules: R) -> None: ...

    async def drain(self, grace: float) -> None: ...

    def facts(self) -> dict[str, Any]:
        """For status, beside what every worker tells."""

    def degraded(self) -> Sequence[trouble.Said]: ...


class Worker(Generic[R]):
    """The daemon. `rules` makes them of a snapshot, and raises for one that cannot be put in force; `open_front` makes
    the front once the other processes are connected."""

    def __init__(
        self,
        birth: Birth,
        rules: Callable[[Snapshot, Composition], R],
        open_front: Callable[[R, Composition, Birth], Front[R]],
    ) -> None:
        self._birth, self._make, self._open = birth, rules, open_front
        self._composition = Composition(birth)
        self._rules = rules(birth.snapshot, self._composition)
        self._prepared: R | None = None

    async def start(self) -> None:
        """Connect to the other processes, then accept."""
        birth = self._birth
        await self._composition.open()
        self.front = self._open(self._rules, self._composition, birth)
        for name, sockets in birth.listening.items():
            kind, _, door = name.partition(":")
            if kind == birth.service and door in self._rules.doors:
                for sock in sockets:
                    self.front.accept_on(sock, door)

    def prepare(self, snapshot: Snapshot) -> None:
        """Raises if `snapshot` cannot be put in force."""
        self._prepared = self._make(snapshot, self._composition)

    def commit(self, snapshot: Snapshot) -> None:
        """In force for the next message."""
        rules, self._prepared = self._prepared, None
        if rules is None or rules.snapshot.hash != snapshot.hash:
            rules = self._make(snapshot, self._composition)
        self._composition.adopt(snapshot)
        self.front.follow(rules)

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """Nothing here speaks TLS; passwords of scanners come with them."""
        self._composition.take_secrets(certificates)

    async def drain(self, grace: float) -> None:
        """Accept nothing more, answer what has been asked, hang up."""
        await self.front.drain(grace)
        await asyncio.sleep(0)
        await self._composition.close()
        maillog.flush()

    def health(self) -> dict[str, Any]:
        front, health = self.front, self._composition.health()
        return {
            **health,
            **front.facts(),
            "policy": front.rules.snapshot.hash,
            "degraded": [*health.get("degraded", []), *front.degraded()],
        }
