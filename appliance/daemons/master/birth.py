"""How a child comes into the world: forked from the warm image, or exec'd where it must not share the master's memory.

Contract: in the child everything that is not its own is closed before its code runs: the other workers' sockets, the
other children's control channels, the control socket; what it keeps is its Birth, its end of the channel, stdio, the log
and the lock.
"""

import importlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from appliance.config.snapshot import Snapshot
from appliance.daemons import control, process
from appliance.daemons.master.children import Child
from appliance.daemons.master.listeners import Sockets
from appliance.daemons.master.separation import Separation
from appliance.daemons.master.services import Spec
from appliance.daemons.skeleton import Birth, life
from appliance.net.channel import Channel
from appliance.observe import oplog

log = oplog.get("master")
#: Without the collector while it loads: there is no garbage yet (the skeleton switches it on).
_EXEC = "import gc; gc.disable(); from appliance.daemons.born import main; main()"


class Spawner:
    """Makes children of the master's present state. `close_in_child` closes what belongs to the master alone."""

    def __init__(
        self,
        sockets: Sockets,
        separation: Separation,
        state_dir: Path,
        rendezvous: Mapping[str, str],
        close_in_child: Callable[[], None],
    ) -> None:
        self._sockets, self._separation, self._state_dir = sockets, separation, state_dir
        self._rendezvous, self._close = dict(rendezvous), close_in_child
        self.snapshot: Snapshot | None = None
        self.certificates: dict[str, tuple[bytes, bytes]] = {}
        self.secrets: dict[str, dict[str, tuple[bytes, bytes]]] = {}
        self.log_fd = 2

    def given(self, spec: Spec) -> dict[str, tuple[bytes, bytes]]:
        """What processes of this service get: certificates of listeners, passwords of whom they speak to."""
        return {**(self.certificates if spec.public else {}), **self.secrets.get(spec.secrets, {})}

    def spawn(self, child: Child, end: Channel) -> int:
        assert self.snapshot is not None
        child.hash = self.snapshot.hash
        listening = self._listening(child)
        master, pid = os.getpid(), os.fork()
        if pid == 0 and child.spec.execed:
            self._execed(child, end.fileno(), master)
        elif pid == 0:
            self._forked(child, end, listening, master)
        return pid

    def _listening(self, child: Child) -> dict[str, list[socket.socket]]:
        listening: dict[str, list[socket.socket]] = {}
        for name in (child.spec.name, *child.spec.operators):
            if name in self._sockets.rendezvous:
                listening[f"unix:{name}"] = [self._sockets.rendezvous[name]]
        if child.spec.metrics and self._sockets.metrics:
            listening["metrics"] = self._sockets.metrics
        if child.spec.public:
            for name, socks in self._sockets.listeners.items():
                listening[f"smtp:{name}"] = socks[child.index : child.index + 1]
        for (service, name), socks in self._sockets.fronts.items():
            if service == child.spec.name:
                listening[f"{service}:{name}"] = socks[child.index : child.index + 1]
        return listening

    def _forked(self, child: Child, end: Channel, listening: dict[str, list[socket.socket]], master: int) -> NoReturn:
        try:
            self._close()
            keep = {id(sock) for socks in listening.values() for sock in socks}
            for sock in self._sockets.all():
                if id(sock) not in keep:
                    sock.close()
            create = importlib.import_module(child.spec.module).create
            assert self.snapshot is not None
            birth = Birth(
                service=child.spec.name,
                index=child.index,
                snapshot=self.snapshot,
                listening=listening,
                rendezvous=self._rendezvous,
                state_dir=self._state_dir,
                certificates=self.given(child.spec),
                log_fd=self.log_fd,
                siblings=child.spec.count(self.snapshot.wiring),
            )
            identity = self._separation.identities.get(child.spec.name)
            life.run_child(birth, end, create, identity=identity, master=master)
        except BaseException:
            log.exception("could not be born", worker=child.worker)
        finally:
            oplog.flush()
            os._exit(1)

    def _execed(self, child: Child, fd: int, master: int) -> NoReturn:
        try:
            process.quiet_signals()
            process.become(self._separation.identities.get(child.spec.name), master)
            os.set_inheritable(fd, True)
            os.execv(sys.executable, [sys.executable, "-PB", "-c", _EXEC, str(fd), child.spec.module])  # noqa: S606 - no shell wanted
        except BaseException:
            log.exception("could not be executed", worker=child.worker)
        finally:
            oplog.flush()
            os._exit(1)

    def send_birth(self, child: Child) -> bool:
        """The first frame for a child that was exec'd; False if it cannot be sent, which is logged."""
        assert self.snapshot is not None
        listening = self._listening(child)
        names = [name for name, socks in listening.items() for _ in socks]
        fds = [sock.fileno() for socks in listening.values() for sock in socks]
        own_log = self.log_fd != 2
        try:
            terms = control.to_fd(self.snapshot.terms)
        except OSError as error:
            log.error("a process cannot be told what it is", worker=child.worker, reason=error.strerror)
            return False
        try:
            return child.tell(
                control.Born(
                    service=child.spec.name,
                    index=child.index,
                    listening=tuple(names),
                    rendezvous=self._rendezvous,
                    state_dir=str(self._state_dir),
                    log=own_log,
                ),
                (terms, *fds, *([self.log_fd] if own_log else [])),
            )
        finally:
            os.close(terms)


def warm(modules: Iterable[str]) -> None:
    """Load the daemons' code once, in the master, so that the children share its memory."""
    for module in modules:
        importlib.import_module(module)
