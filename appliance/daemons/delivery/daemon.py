"""delivery: owns the queue, hands mail to the next hops, tells senders what failed.

Contract: it takes the spool's lock before anything else (a second instance does not start), answers grants at once,
and delivers while it is still reading what the process before it left. A reload changes routes, TLS, times and limits
for the next attempt of every message. What failure means for the mail: a dead delivery process loses nothing; workers
go on with the files they have, and the next process finds all of it.
"""

import asyncio
import gc
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from appliance.config.filters import Filters
from appliance.config.generics import Generics
from appliance.config.model import Wiring
from appliance.config.routes import Routes
from appliance.config.snapshot import Snapshot
from appliance.config.values import parse_listen_address
from appliance.connectors.target import Timeouts
from appliance.daemons.compose.lookups import Lookups
from appliance.daemons.delivery.admin import Admin
from appliance.daemons.delivery.dispatch import Dispatch
from appliance.daemons.delivery.filtering import Filtering
from appliance.daemons.delivery.programs import Programs
from appliance.daemons.delivery.results import Results
from appliance.daemons.delivery.routing import Routing
from appliance.daemons.delivery.settle import Settlement
from appliance.daemons.delivery.upkeep import Upkeep
from appliance.daemons.delivery.way import Ways
from appliance.daemons.delivery.workers import Workers
from appliance.daemons.skeleton import Birth
from appliance.net import hosts, tls
from appliance.net.mx import MailHosts
from appliance.net.resolver import Resolver
from appliance.observe import oplog, trouble
from appliance.queue.errors import SpoolError
from appliance.queue.ids import QueueIds
from appliance.queue.schedule import Limits
from appliance.queue.spool import Spool

#: The number in our queue ids that no smtpd worker has.
_IDS = 1023
log = oplog.get("delivery")


def _resolver(snapshot: Snapshot) -> Resolver:
    dns = snapshot.wiring.dns
    zone = snapshot.blob.files.get(dns.zone, b"") if dns.zone else b""
    return Resolver(dns.nameservers, zone, dns.timeout, dns.ttl_floor)


def _ways(snapshot: Snapshot, timeouts: Timeouts, programs: Programs) -> Ways:
    """Raises ValueError where a zone, a name server or a CA file cannot be used."""
    wiring = snapshot.wiring
    ca = snapshot.blob.files.get(wiring.relay.tls_ca, b"") if wiring.relay.tls_ca else b""
    levels: tuple[tls.Level, ...] = ("none", "may", "encrypt", "verify")
    contexts: dict[str, ssl.SSLContext | None] = {level: tls.client_context(level, ca) for level in levels}
    hostname = wiring.gateway.hostname
    own = [parse_listen_address(one.address) for one in wiring.listen if one.protocol == "smtp"]
    return Ways(MailHosts(_resolver(snapshot), hosts.read(), hostname), hostname, contexts, timeouts, programs, own)


def _routing(snapshot: Snapshot) -> Routing:
    wiring, tables = snapshot.wiring, snapshot.tables
    return Routing(Routes(wiring, tables), Filters(wiring), Generics(wiring, tables))


def _limits(wiring: Wiring) -> Limits:
    queue = wiring.queue
    return Limits(
        concurrency=queue.concurrency,
        initial=min(5, queue.concurrency),
        retry_min=queue.retry_min,
        retry_max=queue.retry_max,
        dead_probe=queue.dead_probe,
    )


class Delivery:
    """The daemon that the skeleton drives. `timeouts` are for tests."""

    def __init__(self, birth: Birth, timeouts: Timeouts | None = None) -> None:
        self._birth, self._snapshot = birth, birth.snapshot
        self._timeouts = timeouts or Timeouts()
        self._loop = asyncio.get_running_loop()
        self._lookups = Lookups(birth.rendezvous)
        self._tasks: list[asyncio.Task[None]] = []
        self._prepared: tuple[Snapshot, Ways, Routing] | None = None
        self._started = False
        self._recovering = True
        self._recovered = 0
        self._reported = 0

    # ------------------------------------------------------------------ start

    async def start(self) -> None:
        """Lock, listen, then recover beside the work. Raises SpoolLocked and SpoolError."""
        wiring = self._snapshot.wiring
        root = Path(self._birth.state_dir) / "spool"
        self._lookups.bind(self._snapshot)
        self.spool = Spool(root, self._loop.call_soon_threadsafe, self._report)
        routing = _routing(self._snapshot)
        self._programs = Programs(self._birth.rendezvous.get("runner", ""), root)
        self._programs.follow(wiring)
        ways = _ways(self._snapshot, self._timeouts, self._programs)
        self.dispatch = Dispatch(self.spool, _limits(wiring), ways, routing)
        hostname, arrived, ids = self._hostname, self.dispatch.arrived, QueueIds(_IDS)
        self.settlement = Settlement(self.spool, ids, hostname, lambda item: arrived((item,)))
        self.dispatch.filtering = Filtering(self.spool, ids, lambda item: arrived((item,)))
        self.dispatch.results = Results(self.spool, self.settlement, lambda: self._snapshot.wiring.gateway.soft_bounce)
        self.dispatch.settlement = self.settlement
        self.dispatch.lifetime = wiring.queue.lifetime
        self.workers = Workers(self.spool, lambda: self._snapshot.wiring.smtp.size_limit, arrived)
        self.upkeep = Upkeep(self.dispatch, self.workers, self.settlement, lambda: self._snapshot.wiring.queue)
        self.workers.listen(self._birth.listening.get("unix:delivery", []))
        self.admin = Admin(self.dispatch)
        await self.admin.listen(self._admin_socket(root))
        self._started = True
        self._tasks = [self._loop.create_task(self._recover()), self._loop.create_task(self._tick())]

    def _hostname(self) -> str:
        return self._snapshot.wiring.gateway.hostname

    def _admin_socket(self, root: Path) -> socket.socket:
        given = self._birth.listening.get("unix:queue")
        if given:
            return given[0]
        path = root / "queue.sock"
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(16)
        return sock

    def _report(self, text: str) -> None:
        self._reported += 1
        log.warning("spool", what=text)

    async def _recover(self) -> None:
        """Everything that was queued before, each message tried once; new mail goes on meanwhile."""
        while not await self._read():  # noqa: ASYNC110 (a disk gives no event)
            await asyncio.sleep(1.0)
        self._recovering = False

    async def _read(self) -> bool:
        """False if the disk could not be read to its end. What is read stays: looking through 100,000 messages for
        garbage would stop the loop for a tenth of a second, again and again."""
        gc.disable()
        try:
            for batch in self.spool.recover():
                self._recovered += len(batch)
                self.dispatch.arrived(batch)
                await asyncio.sleep(0)
        except (OSError, SpoolError):
            log.exception("the queue could not be read to its end; this is tried again")
            return False
        else:
            log.info("the queue is read", messages=self._recovered)
            return True
        finally:
            gc.freeze()
            gc.enable()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                self.upkeep.tick()
            except Exception:
                log.exception("upkeep failed by an error of ours, it goes on")

    # ------------------------------------------------------------------ reload

    def prepare(self, snapshot: Snapshot) -> None:
        """Raises ValueError where the new files do not work (zone, CA)."""
        self._lookups.bind(snapshot)
        routing = _routing(snapshot)
        self._prepared = (snapshot, _ways(snapshot, self._timeouts, self._programs), routing)

    def commit(self, snapshot: Snapshot) -> None:
        """The next attempt of every message goes the new way."""
        if self._prepared is None or self._prepared[0] is not snapshot:
            self.prepare(snapshot)
        assert self._prepared is not None
        _, ways, routing = self._prepared
        self._prepared = None
        self._programs.follow(snapshot.wiring)
        self.dispatch.renew(ways, routing)
        self._snapshot = snapshot
        self.dispatch.schedule.limits = _limits(snapshot.wiring)
        self.dispatch.lifetime = snapshot.wiring.queue.lifetime
        self._tasks.append(self._loop.create_task(self._reroute()))

    async def _reroute(self) -> None:
        for count, item in enumerate(list(self.spool)):
            self.dispatch.reroute(item.queue_id)
            if count % 200 == 199:
                await asyncio.sleep(0)
        self.dispatch.pump()

    def certificates(self, certificates: object) -> None:
        """Ours are not among them."""

    # ------------------------------------------------------------------ end

    async def drain(self, grace: float) -> None:
        """Finish the deliveries that run; what waits is on disk already."""
        self.admin.close()
        await self.dispatch.drain(max(0.0, grace - 1.0))
        self.workers.close()
        self._programs.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.wrap_future(self.spool.idle())  # so that what waits for the disk does not hold the loop
        self.spool.close()

    def health(self) -> dict[str, Any]:
        """Queue sizes, the oldest message, destinations with their state, what is impaired."""
        if not self._started:
            return {"degraded": ["delivery is starting"]}
        spool, schedule = self.spool, self.dispatch.schedule
        workers = self.workers.health()
        degraded = list(workers.pop("degraded"))  # type: ignore[call-overload]
        dns = self.dispatch.ways.resolver_health()
        degraded += dns.pop("degraded", [])
        degraded += [*self.dispatch.hops.degraded(), *self.dispatch.filtering.degraded(schedule.sites)]
        degraded += trouble.tables.degraded()
        if alarms := self.settlement.alarms:
            degraded.append(f"{alarms} undeliverable messages wait in hold: postgate queue list --folder hold")
        if spool.damaged:
            degraded.append(f"{spool.damaged} damaged entries were set aside in {spool.root / 'corrupt'}")
        return {
            "queue": {folder: len(items) for folder, items in spool.folders.items()},
            "octets": dict(spool.octets),
            "oldest": self._oldest(),
            "active": schedule.busy,
            "destinations": [
                {"name": s.name, "messages": s.jobs, "busy": s.busy, "window": s.window, "dead": s.dead}
                for s in list(schedule.sites.values())[:100]
            ],
            "next hops": self.dispatch.hops.facts(),
            "dns": dns,
            "recovering": self._recovering,
            "reports": self._reported,
            **workers,
            "degraded": degraded,
        }

    def _oldest(self) -> dict[str, int]:
        ages: dict[str, int] = {}
        for folder, items in self.spool.folders.items():
            first = next(iter(items.values()), None)
            ages[folder] = int(self.spool.clock.age(first.born)) if first is not None else 0
        return ages


def create(birth: Birth) -> Delivery:
    """The daemon of this process."""
    return Delivery(birth)
