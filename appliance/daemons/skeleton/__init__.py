"""What each daemon is given (Birth) and what it must offer (Daemon); `life.run_child` runs it.

Contract: plain values and a protocol. Who is forked is given the Snapshot, who is exec'd Terms only: with the Snapshot
come all libraries that read files.
"""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import msgspec

from appliance.config.terms import Terms

if TYPE_CHECKING:
    from appliance.config.snapshot import Snapshot


class _Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a child process is given by the master when it is born.

    `listening` maps a listener to its bound, listening sockets for this process: "smtp:public" (the [[listen]] name),
    or the daemon's own rendezvous ("unix:stated"). `rendezvous` maps a service to the path of its unix socket.
    `log_fd` takes mail log lines. `siblings` is how many processes the service has, this one counted (0: not known).
    """

    service: str
    index: int
    listening: Mapping[str, list[socket.socket]]
    rendezvous: Mapping[str, str]
    state_dir: Path
    log_fd: int = 2
    siblings: int = 0

    @property
    def worker(self) -> str:
        """ "smtpd.0": the name in logs, status, metrics and queue notices."""
        return f"{self.service}.{self.index}"


class Birth(_Birth, frozen=True, kw_only=True):
    """Of a child that is forked. `certificates` maps a listener's name to (certificate chain PEM, key PEM)."""

    snapshot: "Snapshot"
    certificates: Mapping[str, tuple[bytes, bytes]]

    @property
    def in_force(self) -> "Snapshot":
        return self.snapshot


class LeanBirth(_Birth, frozen=True, kw_only=True):
    """Of a child that is exec'd: it knows no configuration."""

    terms: Terms

    @property
    def in_force(self) -> Terms:
        return self.terms


_In = TypeVar("_In", contravariant=True)


class Serving(Protocol[_In]):
    """What the skeleton drives. Constructed as `create(birth)` inside the child, after privileges are dropped, with an
    asyncio loop running. Every daemon's module has `def create(birth: Birth) -> Daemon`."""

    async def start(self) -> None:
        """Open everything and begin to serve. An exception ends the process; the master restarts it with back-off."""

    def prepare(self, snapshot: _In, /) -> None:
        """Check that `snapshot` can be put in force; raise to refuse (the old one stays everywhere)."""

    def commit(self, snapshot: _In, /) -> None:
        """Put it in force for new transactions; must not fail after prepare() passed."""

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """New certificate files were read."""

    async def drain(self, grace: float) -> None:
        """Accept nothing more; finish what runs within `grace` seconds; then return (the process exits 0)."""

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`: plain values only; key `degraded` lists what is impaired, in words."""


Daemon: TypeAlias = "Serving[Snapshot]"
Create = Callable[[Any], Serving[Any]]
#: What is put in force, of the octets that come with a Prepare, and what is in force; Refused with the mistakes in them.
Read = Callable[[bytes, Any], Any]


class Refused(Exception):
    """What was read cannot be put in force."""
