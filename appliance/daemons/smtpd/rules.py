"""What is in force for a session: one snapshot's engine, limits and listeners, made ready for quick use.

Contract: a Rules value never changes; a reload makes a new one, and a transaction keeps the one it began with.
What failure means for the mail: a snapshot that does not make Rules is refused by prepare(), the old one stays.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from appliance.addresses import NOTHING, Completion, Rewriter
from appliance.config.addresses import Addresses
from appliance.config.fields import Network
from appliance.config.model import Limits, Listen
from appliance.config.snapshot import Snapshot
from appliance.daemons.fronts.networks import listed
from appliance.engine.pipeline import Engine
from appliance.mail.context import STAGES
from appliance.protocol.smtp import ehlo
from appliance.protocol.smtp.outgoing import Outgoing, Result

if TYPE_CHECKING:
    from appliance.daemons.smtpd.hooks import Begin

_XCLIENT = "XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT"
_XFORWARD = "XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT"


class Facts(NamedTuple):
    """What the wiring says of a client's address on one listener."""

    trusted_relay: bool = False
    xclient: bool = False
    proxy: bool = False
    ehlo_off: frozenset[str] = frozenset()


class Offers(NamedTuple):
    """What an answer to EHLO depends on."""

    starttls: bool
    xclient: bool
    utf8: bool
    off: frozenset[str]


class Proxy(Protocol):
    """A content filter before the queue (connectors.proxy_filter)."""

    async def send(self, message: Outgoing, content: Iterator[bytes], transaction: str) -> tuple[Result, ...]:
        """One result a recipient. Raises Unavailable, ValueError, and what `content` raises."""


class Asked(Protocol):
    """What only the composition knows of a snapshot."""

    def engine(self, snapshot: Snapshot) -> Engine: ...

    def proxy(self, snapshot: Snapshot, place: str) -> "Proxy":
        """The filter before the queue that `place` names. Raises ValueError."""

    def rewriter(self, snapshot: Snapshot) -> Rewriter | None:
        """What rewrites addresses; None: nothing does."""

    def takes_utf8(self, snapshot: Snapshot) -> bool:
        """Is every next hop known, now, to take SMTPUTF8?"""


def _plug(listen: Listen) -> "Begin":
    """Raises ValueError where its handler cannot be loaded."""
    from appliance.daemons.smtpd import hooks  # it imports the commands, and they this module

    return hooks.load(listen.handler, listen.handler_args, listen.handler_timeout)


class Door:
    """One listener as this snapshot has it."""

    def __init__(
        self,
        listen: Listen,
        engine: Engine,
        trusted: tuple[Network, ...],
        hostname: str,
        size_limit: int,
    ) -> None:
        self.name, self.role = listen.name, listen.role
        self.listen = listen
        #: Stages at which any check is asked: the others need no question.
        self.standing = frozenset(stage for stage in STAGES if engine.stands(self.role, stage))
        #: Begins a session's conversation with the operator's handler, if the listener has one.
        self.plug = _plug(listen) if listen.handler else None
        #: The policy about clients that do not wait for the greeting, where one is asked about them.
        self.manners = engine.standing("early_talker", self.role) if self.role == "inbound" else None
        self._trusted, self._hostname, self._size_limit = trusted, hostname, size_limit
        self.facts = lru_cache(maxsize=4096)(self._facts)
        self.offer = lru_cache(maxsize=64)(self._offer)

    def _facts(self, address: str) -> Facts:
        off = [
            word.upper() for entry in self.listen.ehlo_off if listed(address, entry.networks) for word in entry.keywords
        ]
        return Facts(
            listed(address, self._trusted),
            listed(address, self.listen.xclient),
            listed(address, self.listen.proxy),
            frozenset(off),
        )

    def _offer(self, offers: Offers) -> bytes:
        """The whole answer to EHLO, in Postfix's order."""
        words = ["PIPELINING", f"SIZE {self._size_limit}" if self._size_limit else "SIZE", "VRFY"]
        words += ["STARTTLS"] if offers.starttls else []
        words += [_XCLIENT, _XFORWARD] if offers.xclient else []
        words += ["ENHANCEDSTATUSCODES", "8BITMIME", "DSN"]
        words += ["SMTPUTF8"] if offers.utf8 else []
        words += ["CHUNKING", "HELP"]
        return ehlo.offer(self._hostname, [word for word in words if word.partition(" ")[0] not in offers.off])


class Rules:
    """One snapshot in force."""

    def __init__(self, snapshot: Snapshot, asked: Asked) -> None:
        wiring = snapshot.wiring
        self.snapshot = snapshot
        self.engine = asked.engine(snapshot)
        self._asked = asked
        self.hostname = wiring.gateway.hostname
        self.delay_reject = wiring.gateway.delay_reject
        self.soft_bounce = wiring.gateway.soft_bounce
        self.smtp = wiring.smtp
        self.limits: Limits = wiring.limits
        #: Where mail for a bare `postmaster` goes: our first domain that stands in the wiring itself.
        self.home = next((name for name in wiring.relay.domains if ":" not in name), self.hostname)
        #: The host's own name, unless mail for it is relayed like that of any domain.
        self.unrelayed = "" if self.hostname in wiring.relay.domains else self.hostname
        #: What rewrites addresses (None: nothing does), and for whose mail header fields, too.
        self.rewriter = asked.rewriter(snapshot)
        clients = wiring.addresses.local_header_rewrite_clients
        self._of_role = "outbound" in clients
        self._of_networks = tuple(network for network in clients if network != "outbound")
        self._completions = _completions(wiring.addresses, self.hostname)
        self.banner = f"220 {self.hostname} {wiring.smtp.banner}\r\n".encode("ascii", "replace")
        #: The first line of a greeting whose last one comes later.
        self.teaser = b"220-" + self.banner[4:]
        self.doors: Mapping[str, Door] = {
            listen.name: Door(listen, self.engine, wiring.gateway.trusted_relays, self.hostname, wiring.smtp.size_limit)
            for listen in wiring.listen
            if listen.protocol == "smtp"
        }

    def proxy(self, place: str) -> Proxy:
        """The filter before the queue that `place` names. Raises ValueError."""
        return self._asked.proxy(self.snapshot, place)

    def rewrites_header(self, role: str, address: str) -> bool:
        """Is a client's mail our own, so that its header fields may change (local_header_rewrite_clients)?"""
        return (self._of_role and role == "outbound") or listed(address, self._of_networks)

    def completion(self, role: str, address: str) -> Completion:
        """What completes names without a domain in the header fields of a client's mail."""
        if role == "reinject":
            return NOTHING
        return self._completions[not self.rewrites_header(role, address)]

    @property
    def utf8(self) -> bool:
        """Is SMTPUTF8 offered? It changes with what next hops say."""
        return self._asked.takes_utf8(self.snapshot)


def _completions(told: Addresses, hostname: str) -> tuple[Completion, Completion]:
    """For clients of ours, and for strangers. Postfix's myorigin and mydomain are the host's name and its parent here."""
    remote, dotted = told.remote_header_rewrite_domain, told.append_dot_mydomain
    return (
        Completion(
            hostname if told.append_at_myorigin else "",
            (hostname.partition(".")[2] or hostname) if dotted else "",
        ),
        Completion(remote, remote if dotted else "", "remote_header_rewrite_domain"),
    )
