"""What is in force for the connections of MTAs: one snapshot's engine and fronts, and what each front negotiates.

Contract: a Rules value never changes; a message keeps the one it began with. A front asks for the events, macros and
actions that its checks need, and for nothing else. What failure means for the mail: a snapshot that does not make Rules
is refused by prepare(), the old one stays.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache, reduce
from operator import or_
from typing import Protocol

from appliance.config.fields import Network
from appliance.config.model import Milterd
from appliance.config.snapshot import Snapshot
from appliance.daemons.fronts.networks import listed
from appliance.engine.pipeline import Engine
from appliance.mail.context import STAGES, Role
from appliance.mail.verdict import Action
from appliance.protocol.milter.negotiation import Want
from appliance.protocol.milter.words import ACTIONS_OF, DECLINES, HIGHEST, Actions, Event, Steps

#: Checks of the message stage that look at nothing behind the header (whoever is not named here may).
HEADER_ONLY = frozenset({"loop", "early_talker", "impersonation", "suspicion"})
#: The actions of the MTA that an action of ours takes.
_TAKES = {
    Action.HOLD: Actions.QUARANTINE,
    Action.QUARANTINE: Actions.QUARANTINE,
    Action.FILTER: Actions.QUARANTINE,
    Action.BCC: Actions.ADD_RECIPIENT,
    Action.REDIRECT: Actions.ADD_RECIPIENT | Actions.DELETE_RECIPIENT,
    Action.DISCARD: Actions.DELETE_RECIPIENT,
}
#: Scanners that change the envelope: recipients whose mail they do not let pass, or who are to have it, too; senders.
_SCANNERS = {
    "amavis": Actions.ADD_RECIPIENT | Actions.DELETE_RECIPIENT,
    "rspamd": Actions.ADD_RECIPIENT | Actions.DELETE_RECIPIENT | Actions.CHANGE_SENDER,
}
#: Whatever edits there are.
ALL_EDITS = ~Actions.MACRO_LISTS & Actions(ACTIONS_OF[HIGHEST])
#: Knobs of rules that may write a new body.
_BODY_RULES = ("body", "nested_header", "mime_header")
_MACROS: Mapping[int, tuple[str, ...]] = {
    0: ("j", "v", "_", "daemon_name", "daemon_addr", "daemon_port", "if_addr"),
    1: ("tls_version", "cipher", "cipher_bits", "cert_subject", "cert_issuer"),
    2: ("i", "auth_type", "auth_authen", "auth_author", "auth_ssf"),
    3: ("i",),
    4: ("i",),
    5: ("i",),
    6: (),
}


class Asked(Protocol):
    """What only the composition knows of a snapshot."""

    def engine(self, snapshot: Snapshot) -> Engine: ...


class Door:
    """One front as this snapshot has it."""

    def __init__(self, front: Milterd, engine: Engine, trusted: tuple[Network, ...], delay_reject: bool) -> None:
        self.name, self.front = front.name, front
        self._engine, self._trusted = engine, trusted
        self._delayed = delay_reject
        self.standing = {
            role: frozenset(stage for stage in STAGES if engine.stands(role, stage)) for role in self.roles()
        }
        self.role = lru_cache(maxsize=4096)(self._role)
        self.want = self._want()

    def roles(self) -> tuple[Role, ...]:
        """Those that mail over this front can have."""
        other = self.front.outbound or self.front.authenticated == "outbound"
        return ("inbound", "outbound") if other and self.front.role == "inbound" else (self.front.role,)

    def _role(self, address: str) -> Role:
        return "outbound" if listed(address, self.front.outbound) else self.front.role

    def trusts(self, address: str) -> bool:
        """Is this client a trusted relay?"""
        return listed(address, self._trusted)

    def _want(self) -> Want:
        checks = set(self._checks())
        stages = {stage for role in self.roles() for stage in self.standing[role]}
        declines, quiet = {Event.UNKNOWN}, {Event.HEADER, Event.END_OF_HEADER, Event.BODY}
        if "data" not in stages:
            declines.add(Event.DATA)
        if "message" not in stages:
            declines |= {Event.HEADER, Event.END_OF_HEADER, Event.BODY}
        elif checks <= HEADER_ONLY:
            declines |= {Event.BODY}
        if self._delayed or not stages & {"connect", "helo"}:
            quiet |= {Event.CONNECT, Event.HELO}
        # what was found earlier is done at the end: its fields are written even if nothing is asked there
        needs = Actions.ADD_HEADER | Actions.CHANGE_HEADER if stages else Actions(0)
        return Want(
            needs=needs,
            likes=self._actions(checks),
            declines=frozenset(declines) & DECLINES.keys(),
            quiet=frozenset(quiet - declines),
            features=Steps.LEADING_SPACE if stages else Steps(0),
            macros=_MACROS,
        )

    def _checks(self) -> Iterator[str]:
        """Checks of the message stage."""
        plan = self._engine.policies.plan
        for role in self.roles():
            for step in plan.steps[role, "message"]:
                yield from (name for name in step if self._engine.standing(name, role) is not None)

    def _actions(self, checks: set[str]) -> Actions:
        """What the policies that are asked may want to be done, and milters of others, which nobody knows beforehand."""
        if any(self._engine.talks(role) is not None for role in self.roles()):
            return ALL_EDITS
        likes = Actions.QUARANTINE if checks and self.front.mixed == "quarantine" else Actions(0)
        for role in self.roles():
            for name in self._engine.policies.checks:
                policy = self._engine.standing(name, role)
                if policy is None:
                    continue
                every = [policy, *(policy.derive((item,)) for item in policy.exceptions if policy.derive)]
                for one in every:
                    if any(getattr(one.knobs, knob, ()) for knob in _BODY_RULES):
                        likes |= Actions.CHANGE_BODY
                    if getattr(one.knobs, "scanner_edits", False):
                        likes |= self._of_scanners()
                    for ruling in one.rulings.values():
                        likes |= _TAKES.get(ruling.action, Actions(0))
        return likes

    def _of_scanners(self) -> Actions:
        """What scanners may want of the envelope."""
        kinds = {scanner.kind for scanner in self._engine.ports.scanners.values()}
        return reduce(or_, (taken for kind, taken in _SCANNERS.items() if kind in kinds), Actions(0))


class Rules:
    """One snapshot in force."""

    def __init__(self, snapshot: Snapshot, asked: Asked) -> None:
        wiring = snapshot.wiring
        self.snapshot = snapshot
        self.engine = asked.engine(snapshot)
        self.hostname = wiring.gateway.hostname
        self.delay_reject = wiring.gateway.delay_reject
        self.smtp, self.limits = wiring.smtp, wiring.limits
        self.doors: Mapping[str, Door] = {
            front.name: Door(front, self.engine, wiring.gateway.trusted_relays, self.delay_reject)
            for front in wiring.milterd
        }
