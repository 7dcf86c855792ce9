"""Runs any daemon: the life of a child process.

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
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import setproctitle

from appliance.daemons import control, process
from appliance.daemons.skeleton import Birth, Create, LeanBirth, Read, Refused
from appliance.net.channel import Channel, Frame
from appliance.observe import events, lag, maillog, metrics, oplog

if TYPE_CHECKING:  # with it come all libraries that read files: who is exec'd does without
    from appliance.config.snapshot import Snapshot

log = oplog.get()
#: When the collector looks for cycles. A message makes thousands of values and hardly any cycle: with the thresholds that
#: Python ships the collector takes a good part of smtpd's time.
COLLECT = (10_000, 20, 50)


def read_snapshot(octets: bytes, previous: "Snapshot") -> "Snapshot":
    """`Read` of who is forked."""
    from appliance.config import snapshot as config

    try:
        blob = msgspec.msgpack.decode(octets, type=config.Blob)
        return config.build(blob, previous, rules=False)
    except config.ConfigError as error:
        raise Refused(str(error)) from None


class _Life:
    """One daemon under the master's orders, from its loop's start to its end."""

    def __init__(self, birth: Birth | LeanBirth, channel: Channel, create: Create, read: Read) -> None:
        self._birth, self._channel, self._create, self._read = birth, channel, create, read
        self._in_force: Any = birth.in_force
        self._prepared: dict[int, Any] = {}
        #: What is, or is to be, prepared: neither committed nor aborted.
        self._wanted: set[int] = set()
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
            case control.Prepare() if not fds:
                self._report(control.Prepared(order.id, "no descriptor was left for the configuration"))
            case control.Prepare():
                self._wanted.add(order.id)
                self._spawn(self._prepare(order.id, fds.pop()))
            case control.Commit():
                self._commit(order.id)
            case control.Abort():
                self._wanted.discard(order.id)
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
            made = await asyncio.to_thread(lambda: self._read(control.octets(fd), self._in_force))
            if number not in self._wanted:  # nobody waits for it, and nobody would let go of it
                return
            self._daemon.prepare(made)
        except Refused as error:
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
        self._in_force = self._prepared.pop(number)
        self._prepared = {later: made for later, made in self._prepared.items() if later > number}
        self._wanted = {later for later in self._wanted if later > number}
        oplog.configure(self._in_force.terms.level)
        self._daemon.commit(self._in_force)

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
            "hash": self._in_force.hash,
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
    birth: Birth | LeanBirth,
    channel: Channel,
    create: Create,
    *,
    identity: process.Identity | None,
    master: int,
    early: list[Frame] | None = None,
    read: Read = read_snapshot,
) -> NoReturn:
    """The whole life of a forked child; never returns into the master's code."""
    status = 1
    try:
        process.quiet_signals()
        process.become(identity, master)
        status = _live(birth, channel, create, early or [], read)
    except BaseException:
        log.exception("ended by an error", worker=birth.worker)
    finally:
        maillog.flush()
        oplog.flush()
        os._exit(status)


def _live(birth: Birth | LeanBirth, channel: Channel, create: Create, early: list[Frame], read: Read) -> int:
    setproctitle.setproctitle(f"postgate: {birth.worker}")
    terms = birth.in_force.terms
    oplog.configure(terms.level)
    maillog.configure(birth.log_fd, service=birth.service, host=terms.host, facility=terms.facility)
    events.configure(birth.rendezvous.get("journal", "") if birth.service != "journal" else "")
    gc.set_threshold(*COLLECT)
    gc.enable()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            return runner.run(_Life(birth, channel, create, read).run(early))
        finally:
            events.flush()
