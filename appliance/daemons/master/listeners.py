"""Binds all sockets before any privilege is given up: listeners (one SO_REUSEPORT socket a worker), rendezvous, metrics.

Contract: every socket stays open over the death of the process that serves it, so that who connects meanwhile waits in
the backlog. What cannot be bound raises BindError with all places and what to do.
"""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from appliance.config.model import Front, Listen, Wiring
from appliance.config.values import parse_listen_address
from appliance.daemons.master.services import workers

BACKLOG = 4096
#: sun_path holds 108 octets, the last of them nought.
LONGEST_PATH = 107


class BindError(Exception):
    """Sockets that could not be bound; the text says which, why and what to do."""


def _inet(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        where = parse_listen_address(address)
    except ValueError as error:
        raise BindError(str(error)) from error
    return socket.AF_INET6 if ":" in where.host else socket.AF_INET, (where.host, where.port)


def _reason(error: OSError, what: str) -> str:
    advice = {
        errno.EADDRINUSE: f"another program listens there already; find it with: ss -ltnp | grep '{what.split(':')[-1]}'",
        errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; start as root, or take another port",
        errno.EADDRNOTAVAIL: "this machine has no such address; see: ip addr",
    }
    return f"cannot listen on {what}: {error.strerror}: {advice.get(error.errno or 0, 'see the address in [[listen]]')}"


def _bound(family: socket.AddressFamily, address: tuple[str, int], *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_inet(address: str, count: int) -> list[socket.socket]:
    """`count` listening sockets that share `address`. A first try without sharing notices who sits there already."""
    family, where = _inet(address)
    try:
        with _bound(family, where, shared=False) as probe:
            probe.listen(1)
            where = (where[0], probe.getsockname()[1])
        socks = [_bound(family, where, shared=True) for _ in range(count)]
        for sock in socks:
            sock.listen(BACKLOG)
    except OSError as error:
        raise BindError(_reason(error, address)) from error
    return socks


def bind_unix(path: str, mode: int, gid: int | None = None) -> socket.socket:
    """A listening unix socket at `path`; one that a dead process left there is replaced."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise BindError(f"{path}: longer than {LONGEST_PATH} octets, too long for a unix socket: take a shorter folder")
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            _refuse_living(path)
            Path(path).unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise BindError(f"cannot listen on unix:{path}: {error.strerror}: {_hint(path, error)}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        if gid is not None:
            os.chown(path, -1, gid)
        Path(path).chmod(mode)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot listen on unix:{path}: {error.strerror}: {_hint(path, error)}") from error
    return sock


def _hint(path: str, error: OSError) -> str:
    """What to do where no socket can be made."""
    if error.errno == errno.EADDRINUSE:
        return "what is there is no socket: move it away"
    if error.errno == errno.ENOENT:
        return f"make the folder: install -d -m 755 {Path(path).parent}"
    return "see the folder's owner and mode"


def _refuse_living(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            probe.connect(path)
            raise BindError(f"cannot listen on unix:{path}: another program listens there already")


def bind_listener(listen: Listen | Front, wiring: Wiring, gid: int | None) -> list[socket.socket]:
    """The sockets of one listener or front, one for each worker (a unix socket is shared by all)."""
    count = workers(listen, wiring)
    if listen.address.startswith("unix:"):
        shared = bind_unix(listen.address.removeprefix("unix:"), 0o666, gid)
        return [shared] * count
    return bind_inet(listen.address.removeprefix("inet:"), count)


def shown(sock: socket.socket) -> str:
    """A bound socket's address as operators write it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


class Sockets:
    """Everything bound, by who serves it. `listeners` maps a [[listen]] name to one socket a worker, `fronts` the same by
    (service, name); `rendezvous` and `metrics` are the services' own."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[socket.socket]] = {}
        self.fronts: dict[tuple[str, str], list[socket.socket]] = {}
        self.rendezvous: dict[str, socket.socket] = {}
        self.metrics: list[socket.socket] = []

    def bind_public(self, wiring: Wiring, gid: int | None) -> None:
        """All [[listen]] addresses, fronts and the metrics listener; raises one BindError for all that failed."""
        wrong = []
        for listen in wiring.listen:
            try:
                self.listeners[listen.name] = bind_listener(listen, wiring, gid)
            except BindError as error:
                wrong.append(f'[[listen]] "{listen.name}": {error}')
        for service, front in wiring.fronts():
            try:
                self.fronts[service, front.name] = bind_listener(front, wiring, gid)
            except BindError as error:
                wrong.append(f'[[{service}]] "{front.name}": {error}')
        try:
            self._bind_metrics(wiring.logging.metrics, gid)
        except BindError as error:
            wrong.append(f"[logging] metrics: {error}")
        if wrong:
            raise BindError("\n".join(wrong))

    def _bind_metrics(self, address: str, gid: int | None) -> None:
        if address.startswith("unix:"):
            self.metrics = [bind_unix(address.removeprefix("unix:"), 0o660, gid)]
        elif address:
            self.metrics = bind_inet(address, 1)

    def bind_rendezvous(self, names: list[str], folder: Path, gid: int | None) -> None:
        """`folder`/NAME.sock for each service, for our own processes only."""
        for name in names:
            self.rendezvous[name] = bind_unix(str(folder / f"{name}.sock"), 0o600 if gid is None else 0o660, gid)

    def all(self) -> list[socket.socket]:
        return [*self.rendezvous.values(), *self._outer()]

    def _outer(self) -> list[socket.socket]:
        """Those that others than our own processes connect to."""
        return self.metrics + [sock for socks in (*self.listeners.values(), *self.fronts.values()) for sock in socks]

    def close_listeners(self) -> None:
        """Take no new connections from outside (the children have their own copies)."""
        for sock in self._outer():
            _unlink(sock)
            sock.close()
        self.listeners, self.fronts, self.metrics = {}, {}, []

    def close(self) -> None:
        self.close_listeners()
        for sock in self.rendezvous.values():
            _unlink(sock)
            sock.close()


def _unlink(sock: socket.socket) -> None:
    if sock.fileno() >= 0 and sock.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            Path(sock.getsockname()).unlink()
