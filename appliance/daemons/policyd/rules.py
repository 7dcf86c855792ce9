"""What is in force for policy clients: one snapshot's engines and fronts.

Contract: a Rules value never changes; a message keeps the one it began with. Checks that need the octets of a message or
of a session are left out of the plan. What failure means for the mail: a snapshot that does not make Rules is refused by
prepare(), the old one stays.
"""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec

from appliance.checks import catalogue
from appliance.config.fields import Network
from appliance.config.model import Policyd
from appliance.config.snapshot import Snapshot
from appliance.daemons.fronts.networks import listed
from appliance.daemons.policyd.cutting import Leads
from appliance.daemons.policyd.facts import Who
from appliance.daemons.policyd.memory import Memory
from appliance.engine.pipeline import Engine
from appliance.engine.plan import of_envelope
from appliance.mail.context import STAGES, NameProof, Role, Stage
from appliance.protocol.smtp.address import NULL_SENDER, Address, AddressError, parse_address, quoted

if TYPE_CHECKING:
    from appliance.daemons.policyd.likeness import Likeness


class Asked(Protocol):
    """What only the composition knows of a snapshot."""

    def engine(self, snapshot: Snapshot) -> Engine: ...


class Door:
    """One front as this snapshot has it."""

    def __init__(self, front: Policyd, trusted: tuple[Network, ...], origin: str = "") -> None:
        self.name, self.front = front.name, front
        #: Where names without a domain are at home.
        self.origin = origin
        self._trusted = trusted
        self.forget()
        self.who = lru_cache(maxsize=8192)(self._who)

    def forget(self) -> None:
        """Nothing is remembered of requests: at first, and once other rules are in force (messages keep ours)."""
        self.memory = Memory()
        self.leads: Leads[Likeness] = Leads()

    def _who(self, address: str, name: str, reverse_name: str) -> Who | None:
        """None: that is no address."""
        try:
            found = ipaddress.ip_address(address.removeprefix("IPv6:"))
        except ValueError:
            return None
        if isinstance(found, ipaddress.IPv6Address):
            if found.scope_id:
                return None
            found = found.ipv4_mapped or found
        text = str(found)
        role: Role = "outbound" if listed(text, self.front.outbound) else self.front.role
        proof = _proof(name, reverse_name)
        return Who(text, name or "unknown", reverse_name or "unknown", proof, role, listed(text, self._trusted))


def _proof(name: str, reverse_name: str) -> NameProof:
    """What the client's Postfix found out. It does not tell an absent name from one that DNS could not say."""
    if not name:
        return "unknown"
    if name != "unknown":
        return "pass"
    return "fail" if reverse_name not in ("", "unknown") else "none"


class Rules:
    """One snapshot in force. What is asked at RCPT and later is judged there together, as Postfix itself delays refusals;
    `early` judges at once what is asked at CONNECT, HELO and MAIL. `steady`: the tables say the same until they are read
    anew; `ends`: when exceptions end (wall clock), in order."""

    steady = False
    ends: tuple[float, ...] = ()

    def __init__(self, snapshot: Snapshot, asked: Asked) -> None:
        wiring = snapshot.wiring
        self.snapshot = snapshot
        whole = asked.engine(snapshot)
        policies = msgspec.structs.replace(whole.policies, plan=of_envelope(whole.policies.plan, catalogue()))
        self.engine = Engine(policies, whole.ports, True, whole.soft_bounce, questions=whole.questions)
        self.early = Engine(policies, whole.ports, False, whole.soft_bounce, questions=whole.questions)
        self.site = whole.ports.site
        self.standing: dict[Role, frozenset[Stage]] = {
            role: frozenset(stage for stage in STAGES if self.engine.stands(role, stage))
            for role in ("inbound", "outbound")
        }
        self.doors: Mapping[str, Door] = {
            front.name: Door(front, wiring.gateway.trusted_relays, wiring.gateway.hostname) for front in wiring.policyd
        }
        self.steady = all(table.at_once and "randmap:" not in spec for spec, table in snapshot.tables.items())
        policies_ = whole.policies.checks.values()
        self.ends = tuple(sorted({item.until for policy in policies_ for item in policy.exceptions if item.until}))
        #: Messages that a worker remembers: the most that any front wants.
        self.messages = max((front.messages for front in wiring.policyd), default=1)


@lru_cache(maxsize=16384)
def address_of(text: str, origin: str = "") -> Address | None:
    """An address as Postfix has it inside: without quotes, maybe in UTF-8; a name without a domain is at `origin`. "" is
    the null sender; None: that is none."""
    if not text:
        return NULL_SENDER
    octets = text.encode("utf-8", "surrogateescape")
    try:
        return parse_address(octets, utf8=True, origin=origin)[0]
    except AddressError:
        local, at, domain = text.rpartition("@")
    if not at or not local:
        return None
    try:
        return parse_address(f"{quoted(local)}@{domain}".encode("utf-8", "surrogateescape"), utf8=True)[0]
    except AddressError:
        return None
