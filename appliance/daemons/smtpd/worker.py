"""One smtpd worker as the skeleton drives it: start, reload, certificates, drain, health.

Contract: appliance.daemons.skeleton.Daemon. What failure means for the mail: a start that fails serves nobody; a
snapshot or certificate that does not fit leaves the old one in force.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from appliance.config.snapshot import Snapshot
from appliance.daemons.compose import Composition
from appliance.daemons.skeleton import Birth
from appliance.daemons.smtpd import tls
from appliance.daemons.smtpd.front import Front
from appliance.daemons.smtpd.handover import Handover
from appliance.daemons.smtpd.rules import Rules
from appliance.observe import maillog, oplog, trouble
from appliance.queue.intake import IntakeLog

log = oplog.get("smtpd")
#: Seconds that a start waits for the first granted file; without it MAIL is answered 452 for a while.
FIRST_GRANT = 5.0
#: Seconds behind the grace time for commits that run.
LAST_COMMITS = 5.0


class Smtpd:
    """The daemon."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._composition = Composition(birth)
        self._rules = Rules(birth.snapshot, self._composition)
        self._prepared: Rules | None = None

    async def start(self) -> None:
        """Connect to the other processes, then accept."""
        await self._composition.open()
        self._intake = IntakeLog(None, self._birth.worker)
        composition = self._composition
        self.front = Front(
            self._rules,
            self._intake,
            composition.state,
            composition.client_name,
            self._birth.index,
            composition.senders,
        )
        self.front.connections.siblings = self._birth.siblings
        self._intake.company = self.front.transactions.__len__
        self._handover = Handover(self._birth.rendezvous["delivery"], self._intake, self.front.told)
        self._handover.start()
        self.certificates(self._birth.certificates)
        try:
            await asyncio.wait_for(self._handover.ready.wait(), FIRST_GRANT)
        except TimeoutError:
            log.warning("delivery grants no files yet: mail is put off until it does")
        for name, sockets in self._birth.listening.items():
            kind, _, door = name.partition(":")
            if kind == "smtp" and door in self._rules.doors:
                for sock in sockets:
                    self.front.accept_on(sock, door)

    def prepare(self, snapshot: Snapshot) -> None:
        """Raises if `snapshot` cannot be put in force."""
        self._prepared = Rules(snapshot, self._composition)

    def commit(self, snapshot: Snapshot) -> None:
        """In force for the next transaction of every session."""
        rules, self._prepared = self._prepared, None
        if rules is None or rules.snapshot.hash != snapshot.hash:
            rules = Rules(snapshot, self._composition)
        self._composition.adopt(snapshot)
        self.front.follow(rules)

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """Sessions that begin TLS from now on get these; one that does not load leaves the old one."""
        certificates = self._composition.take_secrets(certificates)
        contexts: dict[str, ssl.SSLContext] = dict(self.front.contexts)
        for name, (chain, key) in certificates.items():
            try:
                contexts[name] = tls.context(chain, key)
            except (OSError, ValueError) as error:
                log.error("certificate not usable, the old one stays", listener=name, why=error)
        self.front.contexts = {name: context for name, context in contexts.items() if name in certificates}

    async def drain(self, grace: float) -> None:
        """Accept nothing more, let transactions end, say 421 to who is left, wait for commits."""
        await self.front.drain(grace, LAST_COMMITS)
        self._intake.close()
        self._handover.close()
        await self._composition.close()
        maillog.flush()

    def health(self) -> dict[str, Any]:
        front, degraded = self.front, list[trouble.Said]()
        if not self._handover.connected:
            degraded.append("delivery is away: mail is taken only as long as there are granted files")
        if not front.has_room(front.rules, 0):
            degraded.append("no room in the spool: MAIL is answered 452")
        if front.connections.stressed:
            degraded.append("connections run out: timeouts are short")
        degraded += front.insiders.degraded(front.loop.time())
        handlers = {name: door.plug.hooked for name, door in front.rules.doors.items() if door.plug is not None}
        for hooked in set(handlers.values()):
            degraded += hooked.degraded
        health = self._composition.health()
        return {
            **health,
            "sessions": front.connections.open,
            "body_memory": front.memory.used,
            "policy": front.rules.snapshot.hash,
            "handlers": {f"{hooked.name} at {name}": hooked.facts() for name, hooked in handlers.items()},
            "degraded": [*health.get("degraded", []), *degraded],
        }
