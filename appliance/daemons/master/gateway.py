"""The master process: binds, makes the children, watches them and the files, reloads, ends everything in order.

Contract: one thread, no parsing of anything from the network. What failure means for the mail: if the master dies its
children die with it; everything answered with 250 is in the spool. An error in one of its callbacks is logged and
survived.
"""

import gc
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from appliance.config import lastgood
from appliance.config.blob import Blob, TableWatch
from appliance.config.snapshot import Snapshot
from appliance.daemons import control
from appliance.daemons.master import cold, listeners, notify, operations, separation, statedir, status
from appliance.daemons.master.alarms import Alarms
from appliance.daemons.master.birth import Spawner, warm
from appliance.daemons.master.certificates import Certificates
from appliance.daemons.master.children import Child, Children
from appliance.daemons.master.control_socket import ControlSocket
from appliance.daemons.master.ending import Ending
from appliance.daemons.master.logtarget import LogTarget
from appliance.daemons.master.loop import Loop
from appliance.daemons.master.rounds import Done, Outcome, Rounds
from appliance.daemons.master.secrets import Secrets
from appliance.daemons.master.services import Spec
from appliance.observe import maillog, metrics, oplog

log = oplog.get("master")
Announce = Callable[[Mapping[str, Any]], None]


class Gateway:
    """One gateway, from what it starts with to its end."""

    def __init__(
        self, start: cold.Start, config: str | None, services: tuple[Spec, ...], announce: Announce | None
    ) -> None:
        self._config, self._start, self._announce = config, start, announce
        wiring = start.snapshot.wiring
        self._state_dir = Path(wiring.gateway.state_dir)
        self._specs = [spec for spec in services if spec.count(wiring)]
        self._separation = separation.plan(wiring.gateway.drop, self._specs, self._state_dir)
        statedir.make(self._state_dir, self._separation)
        self._lock = statedir.lock(self._state_dir)
        self._since = time.time()
        self._announced = False
        self._problems = list(start.problems)
        #: Who asked for a reload while one was under way: one more behind it is for all of them.
        self._again: list[Done] = []
        self._tables = TableWatch()
        self.registry = metrics.Registry()
        self._loop = Loop()
        self._bind()
        self._wire(start.snapshot)

    def _bind(self) -> None:
        wiring, gid = self._start.snapshot.wiring, self._separation.gid
        self._sockets = listeners.Sockets()
        self._sockets.bind_public(wiring, gid)
        names = [*(spec.name for spec in self._specs if spec.rendezvous), "control"]
        self._sockets.bind_rendezvous(names, self._state_dir / "run", gid)
        operators = [name for spec in self._specs for name in spec.operators]
        self._sockets.bind_rendezvous(operators, self._state_dir / "run", None)
        self._log = LogTarget(wiring.logging.target, gid, self._log_moved)

    def _wire(self, snapshot: Snapshot) -> None:
        run = self._state_dir / "run"
        rendezvous = {name: str(run / f"{name}.sock") for name in self._sockets.rendezvous}
        self._spawner = Spawner(self._sockets, self._separation, self._state_dir, rendezvous, self._close_in_child)
        self._spawner.snapshot, self._spawner.log_fd = snapshot, self._log.fd
        self.children = Children(self._loop, self._spawner, self._heard, self._changed, self.registry)
        self._rounds = Rounds(self._loop, self.children, self._adopt, snapshot, self.registry)
        self._certificates = Certificates(snapshot.wiring.listen, self._certificates_changed, self.registry)
        self._secrets = Secrets(snapshot.wiring, self._certificates_changed)
        self._alarms = Alarms(self.registry)
        self.children.on_pulse = self._pulse
        self._ending = Ending(self._loop, self.children, self._sockets)
        servants = frozenset(identity.uid for identity in self._separation.identities.values())
        self._control = ControlSocket(self._loop, self._sockets.rendezvous["control"], operations.table(self), servants)

    def _close_in_child(self) -> None:
        """In a forked child: what is the master's alone."""
        self._loop.close_in_child()
        self._control.close_in_child()
        for child in self.children.all:
            if child.channel is not None and not child.channel.closed:
                child.channel.sock.close()

    def run(self) -> int:
        """Until it is ended; the exit status."""
        logging, host = self._start.snapshot.wiring.logging, self._start.snapshot.wiring.gateway.hostname
        maillog.configure(self._log.fd, service="master", host=host, facility=logging.facility)
        self._keep_last_good(self._start.snapshot)
        self._say_what_is_off()
        self._certificates.look()
        self._secrets.look()
        self._arrange()
        warm(spec.module for spec in self._specs if not spec.execed)
        gc.freeze()  # without a collection before: it finds some hundred KB, and takes 50 ms of each start
        snapshot = self._start.snapshot
        self.children.begin((spec, spec.count(snapshot.wiring)) for spec in self._specs if spec.wanted(snapshot))
        gc.enable()
        return self._loop.run()

    def _arrange(self) -> None:
        loop = self._loop
        loop.on_signal(signal.SIGCHLD, self.children.reap)
        loop.on_signal(signal.SIGTERM, self.stop)
        loop.on_signal(signal.SIGINT, self.stop)
        loop.on_signal(signal.SIGHUP, self._hang_up)
        loop.every(1.0, self._look)
        period = notify.watchdog_period()
        if period:
            loop.every(period, lambda: notify.notify(notify.LIFE))

    def _say_what_is_off(self) -> None:
        if self._separation.note:
            log.info(self._separation.note)
        for problem in self._problems:
            log.error(problem)
        for warning in self._start.snapshot.warnings:
            log.warning(str(warning))

    def _heard(self, child: Child, report: control.Report) -> None:
        self._rounds.heard(child, report)

    def _changed(self, child: Child) -> None:
        self._rounds.changed(child)
        self._ending.changed()
        if self._announced or not self.children.ready():
            return
        self._announced = True
        blob = self._rounds.current.blob
        log.info("ready", listening=", ".join(self._listening().values()), config=blob.label, hash=blob.hash)
        notify.notify("READY=1", f"STATUS=serving {blob.label}")
        if self._announce:
            self._announce({**self._facts(), "state_dir": str(self._state_dir)})

    def _listening(self) -> dict[str, str]:
        sockets = self._sockets
        named = [*sockets.listeners.items(), *((f"{who} {name}", socks) for (who, name), socks in sockets.fronts.items())]
        return {name: listeners.shown(socks[0]) for name, socks in named if socks}

    def _facts(self) -> dict[str, Any]:
        return {
            "listening": self._listening(),
            "separation": self._separation.note,
            "reloading": int(self._rounds.busy) + len(self._again),
            "last_reload": msgspec.to_builtins(self._rounds.last) if self._rounds.last else None,
            "certificates": self._certificates.facts(),
        }

    def _look(self) -> None:
        """Each second: log file, certificates, who is late to end, lookup tables; and what systemd has not heard."""
        notify.again()
        self._log.look()
        self._certificates.look()
        self._secrets.look()
        self._ending.look()
        current = self._rounds.current
        if self._rounds.busy or self._ending.begun:
            return
        changed = self._tables.poll(current.blob, current.table_files)
        if changed is not None:
            log.info("lookup tables changed", hash=changed.hash)
            self._try(changed, _nobody)

    def _log_moved(self, fd: int) -> None:
        maillog.swap(fd)
        self._spawner.log_fd = fd
        self.children.tell(self.children.living(), control.LogFd(), (fd,))

    def _certificates_changed(self) -> None:
        self._spawner.certificates, self._spawner.secrets = self._certificates.pairs(), self._secrets.pairs()
        for child in self.children.living():
            if given := self._spawner.given(child.spec):
                self.children.tell([child], control.Certificates(given))

    def _hang_up(self) -> None:
        self._log.look(force=True)
        self.reload(_nobody)

    def reload(self, done: Done) -> None:
        """Read the files and put them in force everywhere, or say why not. While one is under way: behind it, as that
        one read the files as they were before."""
        if self._ending.begun:
            done(Outcome(False, "nothing was changed: the gateway is ending", "", time.time()))
            return
        if self._rounds.busy:
            self._again.append(done)
            return
        notify.notify("RELOADING=1")
        blob, problem = cold.read(self._config)
        if blob is None:
            self._done(self._rounds.refused(problem), done)
        else:
            self._try(blob, done)

    def _try(self, blob: Blob, done: Done) -> None:
        snapshot, problem = cold.build(blob, self._rounds.current)
        if snapshot is None:
            self._done(self._rounds.refused(problem), done)
        else:
            self._rounds.begin(snapshot, lambda outcome: self._done(outcome, done))

    def _done(self, outcome: Outcome, done: Done) -> None:
        notify.notify("READY=1")
        try:
            done(outcome)
        finally:
            if self._again:
                waiting, self._again = self._again, []
                self.reload(lambda outcome: _tell(waiting, outcome))

    def _adopt(self, snapshot: Snapshot) -> None:
        """All processes are ready: the master too goes on with it."""
        need = cold.restart_keys(self._start.snapshot.wiring, snapshot.wiring)
        self._problems = [f"changed, but in effect after a restart only: {', '.join(need)}"] if need else []
        for problem in self._problems:
            log.warning(problem)
        self._spawner.snapshot = snapshot
        self.children.adapt((spec, spec.wanted(snapshot)) for spec in self._specs)
        oplog.configure(snapshot.wiring.logging.level)
        self._certificates.replace(snapshot.wiring.listen)
        self._secrets.replace(snapshot.wiring)
        self._certificates.look()
        self._secrets.look()
        self._keep_last_good(snapshot)

    def _keep_last_good(self, snapshot: Snapshot) -> None:
        try:
            lastgood.save(self._state_dir, snapshot.blob)
        except OSError as error:
            self._problems.append(f"cannot keep the last good configuration in {self._state_dir}: {error.strerror}")

    def stop(self) -> None:
        """End in good order; a second time: quickly."""
        notify.notify("STOPPING=1")
        self._ending.begin(self._rounds.current.wiring.gateway.grace)

    def _impaired(self) -> list[str]:
        """What the master itself knows to be wrong."""
        log_problem = [self._log.problem] if self._log.problem else []
        return [*self._problems, *self._certificates.degraded(), *self._secrets.degraded(), *log_problem]

    def _pulse(self, answers: Mapping[str, control.Answer]) -> None:
        if not self._ending.begun:
            self._alarms.update(status.degraded(self.children.all, answers, self._impaired()))

    def status(self, answers: Mapping[str, control.Answer]) -> dict[str, Any]:
        """What `postgate status` shows."""
        return status.build(
            main=self._config or "",
            running=self._rounds.current,
            state="ending" if self._ending.begun else "running" if self._announced else "starting",
            since=self._since,
            children=self.children.all,
            answers=answers,
            own=self._facts(),
            impaired=self._impaired(),
        )


def _tell(waiting: list[Done], outcome: Outcome) -> None:
    """All who asked while a reload was under way."""
    for done in waiting:
        done(outcome)


def _nobody(_outcome: Outcome) -> None:
    """Nobody waits for the outcome; it is in the log."""
