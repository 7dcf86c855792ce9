"""Runs any daemon: what each is given (Birth), what each must offer (Daemon), and the life of a child process.

Contract: the child gives up privileges before any code of the daemon runs; it serves the master's orders (prepare,
commit, abort, certificates, log descriptor, health, metrics, drain) on the daemon's own loop; it ends when the master
does. An exception that nobody caught is logged and ends nothing but its own task; one out of `start()` ends the process,
and the master starts it again with back-off.
"""

import asyncio
import contextlib
import gc
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import msgspec
import setproctitle

from appliance.config import snapshot as config
from appliance.config.snapshot import ConfigError, Snapshot
from appliance.daemons import control, process
from appliance.net.channel import Channel, Frame
from appliance.observe import events, lag, maillog, metrics, oplog

log = oplog.get()
#: When the collector looks for cycles. A message makes thousands of values and hardly any cycle: with the thresholds that
#: Python ships the collector takes a good part of smtpd's time.
COLLECT = (10_000, 20, 50)


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a child process is given by the master when it is born.

    `listening` maps a listener to its bound, listening sockets for this process: "smtp:public" (the [[listen]] name),
    or the daemon's own rendezvous ("unix:stated"). `rendezvous` maps a service to the path of its unix socket.
    `certificates` maps a listener's name to (certificate chain PEM, key PEM). `log_fd` takes mail log lines.
    `siblings` is how many processes the service has, this one counted (0: not known).
    """

    service: str
    index: int
    snapshot: Snapshot
    listening: Mapping[str, list[socket.socket]]
    rendezvous: Mapping[str, str]
    state_dir: Path
    certificates: Mapping[str, tuple[bytes, bytes]]
    log_fd: int = 2
    siblings: int = 0

    @property
    def worker(self) -> str:
        """ "smtpd.0": the name in logs, status, metrics and queue notices."""
        return f"{self.service}.{self.index}"


class Daemon(Protocol):
    """What the skeleton drives. Constructed as `create(birth)` inside the child, after privileges are dropped, with an
    asyncio loop running. Every daemon's module has `def create(birth: Birth) -> Daemon`."""

    async def start(self) -> None:
        """Open everything and begin to serve. An exception ends the process; the master restarts it with back-off."""

    def prepare(self, snapshot: Snapshot) -> None:
        """Check that `snapshot` can be put in force; raise to refuse (the old one stays everywhere)."""

    def commit(self, snapshot: Snapshot) -> None:
        """Put it in force for new transactions; must not fail after prepare() passed."""

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """New certificate files were read."""

    async def drain(self, grace: float) -> None:
        """Accept nothing more; finish what runs within `grace` seconds; then return (the process exits 0)."""

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`: plain values only; key `degraded` lists what is impaired, in words."""


Create = Callable[[Birth], Daemon]


class _Life:
    """One daemon under the master's orders, from its loop's start to its end."""

    def __init__(self, birth: Birth, channel: Channel, create: Create) -> None:
        self._birth, self._channel, self._create = birth, channel, create
        self._snapshot = birth.snapshot
        self._prepared: dict[int, Snapshot] = {}
        self._log_fd = birth.log_fd
        self._pairs: Mapping[str, tuple[bytes, bytes]] | None = None
        self._started = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._since = time.time()

    async def run(self, early: list[Frame]) -> int:
        """Serve until drained (0) or until the master is gone (3). `early`: orders that were read already."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_uncaught)
        self._end: asyncio.Future[int] = loop.create_future()
        self._meter = lag.LagMeter(loop)
        self._meter.start()
        self._daemon = self._create(self._birth)
        self._channel.attach(loop, self._on_order, self._on_master_gone)
        starting = loop.create_task(self._start())
        for payload, fds in early:
            self._on_order(payload, fds)
        both: set[asyncio.Future[Any]] = {starting, self._end}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        else:
            starting.cancel()
        return await self._end

    async def _start(self) -> None:
        await self._daemon.start()
        self._started = True
        if self._pairs is not None:
            self._daemon.certificates(self._pairs)
        self._report(control.Ready())

    def _report(self, report: control.Report) -> None:
        with contextlib.suppress(ConnectionError):  # its end is handled where it is noticed
            self._channel.send(report)

    def _finish(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(status)

    def _on_master_gone(self) -> None:
        self._finish(3)

    def _on_order(self, payload: bytes, fds: list[int]) -> None:
        """An order that fails must not take those behind it along."""
        try:
            self._obey(control.decode_order(payload), fds)
        except Exception:
            log.exception("an order of the master failed")
        for fd in fds:
            os.close(fd)

    def _obey(self, order: control.Order, fds: list[int]) -> None:
        match order:
            case control.Prepare():
                self._spawn(self._prepare(order.id, fds.pop()))
            case control.Commit():
                self._commit(order.id)
            case control.Abort():
                self._prepared.pop(order.id, None)
            case control.Certificates():
                self._pairs = order.pairs
                if self._started:
                    self._daemon.certificates(order.pairs)
            case control.LogFd():
                self._swap_log(fds.pop())
            case control.Ask():
                self._answer(order)
            case control.Drain():
                self._spawn(self._drain(order.grace))
            case control.Born():
                log.warning("the master sent a second birth")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, number: int, fd: int) -> None:
        """Compile in a thread (it may take longer than a loop may stand), then let the daemon look at it."""
        try:
            made = await asyncio.to_thread(lambda: config.build(control.blob_from_fd(fd), self._snapshot, rules=False))
            self._daemon.prepare(made)
        except ConfigError as error:
            self._report(control.Prepared(number, str(error)))
        except Exception as error:
            log.exception("cannot prepare the new configuration")
            self._report(control.Prepared(number, f"{type(error).__name__}: {error}"))
        else:
            self._prepared[number] = made
            self._report(control.Prepared(number))

    def _commit(self, number: int) -> None:
        if number not in self._prepared:
            log.error("asked to commit what was not prepared", round=number)
            return
        self._snapshot = self._prepared.pop(number)
        self._prepared.clear()
        oplog.configure(self._snapshot.wiring.logging.level)
        self._daemon.commit(self._snapshot)

    def _swap_log(self, fd: int) -> None:
        maillog.swap(fd)
        if self._log_fd > 2:
            os.close(self._log_fd)
        self._log_fd = fd

    def _answer(self, ask: control.Ask) -> None:
        if ask.metrics:
            self._report(control.Answer(ask.id, metrics=metrics.exposition()))
            return
        facts = {
            "hash": self._snapshot.hash,
            "since": self._since,
            "rss": _resident(),
            "lag_max": round(self._meter.worst, 4),
            "lag_peaks": list(self._meter.peaks),
            "tasks": len(asyncio.all_tasks()),
            "events_waiting": events.waiting(),
        }
        self._report(control.Answer(ask.id, health={**facts, **self._daemon.health()}))

    async def _drain(self, grace: float) -> None:
        try:
            if self._started:
                await asyncio.wait_for(self._daemon.drain(grace), grace + 2.0)
        except Exception:
            log.exception("could not end in good order")
        self._finish(0)


def _resident() -> int:
    """Octets of memory in use."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _uncaught(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error("uncaught exception", what=context.get("message", ""), exc_info=error)


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is there."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_child(
    birth: Birth,
    channel: Channel,
    create: Create,
    *,
    identity: process.Identity | None,
    master: int,
    early: list[Frame] | None = None,
) -> NoReturn:
    """The whole life of a forked child; never returns into the master's code."""
    status = 1
    try:
        process.quiet_signals()
        process.become(identity, master)
        status = _live(birth, channel, create, early or [])
    except BaseException:
        log.exception("ended by an error", worker=birth.worker)
    finally:
        maillog.flush()
        oplog.flush()
        os._exit(status)


def _live(birth: Birth, channel: Channel, create: Create, early: list[Frame]) -> int:
    setproctitle.setproctitle(f"postgate: {birth.worker}")
    wiring = birth.snapshot.wiring
    oplog.configure(wiring.logging.level)
    host, facility = wiring.gateway.hostname, wiring.logging.facility
    maillog.configure(birth.log_fd, service=birth.service, host=host, facility=facility)
    events.configure(birth.rendezvous.get("journal", "") if birth.service != "journal" else "")
    gc.set_threshold(*COLLECT)
    gc.enable()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        status = runner.run(_Life(birth, channel, create).run(early))
        events.flush()
        return status
