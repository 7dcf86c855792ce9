"""placeholder: what every daemon is given and must offer; the run loop is written with the master."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from appliance.config.snapshot import Snapshot


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a child process is given by the master when it is born.

    `listening` maps a listener to its bound, listening sockets for this process: "smtp:public" (the [[listen]] name),
    or the daemon's own rendezvous ("unix:stated"). `rendezvous` maps a service to the path of its unix socket.
    `certificates` maps a listener's name to (certificate chain PEM, key PEM). `log_fd` takes mail log lines.
    """

    service: str
    index: int
    snapshot: Snapshot
    listening: Mapping[str, list[socket.socket]]
    rendezvous: Mapping[str, str]
    state_dir: Path
    certificates: Mapping[str, tuple[bytes, bytes]]
    log_fd: int = 2

    @property
    def worker(self) -> str:
        """ "smtpd.0": the name in logs, status, metrics and queue notices."""
        return f"{self.service}.{self.index}"


class Daemon(Protocol):
    """What the skeleton drives. Constructed as `Daemon(birth)` inside the child, after privileges are dropped, with an
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
