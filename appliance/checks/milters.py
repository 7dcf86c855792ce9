"""milters: filters of others that speak the milter protocol (opendkim, rspamd, clamav-milter) are asked, at any stage.

They are asked one after the other, each about the message as those before it have left it; the first that refuses, puts
off or throws away decides. A milter hears only of what nobody before it has refused or put off. Who talks about a
recipient means that recipient; discard means the whole message, at whatever stage. Changes of header, body, sender and
recipients are edits, put into force while the message is sent.
Outcomes: none (no milter, or none objects), edited, quarantine, unfiltered (one failed, and its default is to accept),
and what refuses: reject, tempfail, discard, shutdown.
What failure means for the mail: the milter's `default` action (shipped: tempfail), within its timeouts.
"""

import ipaddress
from collections.abc import Awaitable, Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from appliance.checks import knobs
from appliance.checks.knobs import Duration, Texts
from appliance.mail.context import STAGES as ALL_STAGES
from appliance.mail.context import Context, Role, Stage
from appliance.mail.edits import Edit
from appliance.mail.milter import Link, Milter, Milters, Said
from appliance.mail.network import is_in
from appliance.mail.policy_service import parse_place
from appliance.mail.ports import Conversation, Ports
from appliance.mail.replies import on_one_line
from appliance.mail.verdict import Action, Verdict

NAME = "milters"
STAGES: tuple[Stage, ...] = ALL_STAGES
GATE = True
WIRE = True
REWRITES = True
OUTCOMES = {
    "none": Action.DUNNO,
    "edited": Action.DUNNO,
    "unfiltered": Action.MARK,
    "quarantine": Action.QUARANTINE,
    "reject": Action.REJECT,
    "tempfail": Action.DEFER,
    "discard": Action.DISCARD,
    "shutdown": Action.DISCONNECT,
    "temperror": Action.DEFER_IF_PERMIT,
}
_LATER = "451 4.7.1 Service unavailable, please try again later"
REPLIES = {
    "reject": "550 5.7.1 Command rejected",
    "tempfail": _LATER,
    "shutdown": "421 4.7.0 Service unavailable, closing connection",
    "temperror": _LATER,
}
Default = Literal["accept", "reject", "tempfail", "quarantine", "shutdown"]
#: What the client is told where a milter failed.
_FAILED = {"reject": "550 5.5.0 Service unavailable", "tempfail": _LATER, "shutdown": "421 4.7.1 Service unavailable"}


def place(value: str) -> str:
    """Raises ValueError for what is no address of a milter."""
    parse_place(value)
    return value


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        ipaddress.ip_network(value)
    return values


Networks = Annotated[Texts, AfterValidator(_networks)]


class Entry(BaseModel):
    """One milter, and for whom it is asked: `roles`, `listeners` (names; none: all), `clients` (networks; none: all) but
    for those in `not_clients`. `default`: what is done when it fails."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
    address: Annotated[str, AfterValidator(place)]
    default: Default = "tempfail"
    protocol: Annotated[int, Field(ge=2, le=6, strict=True)] = 6
    connect_timeout: Duration = 5.0
    command_timeout: Duration = 10.0
    content_timeout: Duration = 120.0
    total_timeout: Duration = 200.0
    daemon_name: str = ""
    roles: Annotated[tuple[Role, ...], BeforeValidator(knobs.one_or_more)] = ("inbound",)
    listeners: Texts = ()
    clients: Networks = ()
    not_clients: Networks = ()

    @model_validator(mode="after")
    def _timed(self) -> "Entry":
        if min(self.connect_timeout, self.command_timeout, self.content_timeout, self.total_timeout) <= 0:
            raise ValueError("a timeout is at least 1s")
        return self

    def wanted(self, ctx: Context) -> bool:
        """Are the conditions met?"""
        if ctx.role not in self.roles or (self.listeners and ctx.listener not in self.listeners):
            return False
        address = "127.0.0.1" if ctx.client.address == "local" else ctx.client.address
        if self.clients and not is_in(_parsed(self.clients), address):
            return False
        return not (self.not_clients and is_in(_parsed(self.not_clients), address))


@lru_cache(maxsize=256)
def _parsed(networks: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, networks))


def _once(values: tuple[Entry, ...]) -> tuple[Entry, ...]:
    names = [value.name for value in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the name {twice[0]} is there twice")
    return values


class Policy(knobs.Policy):
    """`milters` are asked in their order."""

    milters: Annotated[tuple[Entry, ...], AfterValidator(_once)] = ()


@lru_cache(maxsize=256)
def reached(entry: Entry) -> Milter:
    """How a milter is reached."""
    return Milter(
        name=entry.name,
        place=parse_place(entry.address),
        protocol=entry.protocol,
        connect_timeout=entry.connect_timeout,
        command_timeout=entry.command_timeout,
        content_timeout=entry.content_timeout,
        total_timeout=entry.total_timeout,
        daemon_name=entry.daemon_name,
    )


def idle(policy: Policy, role: Role, stage: Stage) -> bool:
    """Is nobody asked there?"""
    return not any(role in entry.roles for entry in policy.milters)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    """Where there is no session to talk about, nobody is asked."""
    return Verdict(check=NAME, outcome="none")


def open(policy: Policy, ports: Ports) -> Conversation | None:
    """A conversation with all of them; each milter hears of it when its conditions are met first."""
    return Talk(policy.milters, ports.milters) if policy.milters and ports.milters is not None else None


class Talk:
    """The milters of one session."""

    def __init__(self, entries: Sequence[Entry], milters: Milters) -> None:
        self._entries, self._milters = entries, milters
        self._links: dict[str, Link] = {}

    def ask(self, ctx: Context, edits: Sequence[Edit]) -> Verdict | Awaitable[Verdict]:
        """What they find at this stage."""
        wanted = [entry for entry in self._entries if entry.wanted(ctx)]
        return self._ask(wanted, ctx, edits) if wanted else Verdict(check=NAME, outcome="none")

    async def _ask(self, wanted: Iterable[Entry], ctx: Context, edits: Sequence[Edit]) -> Verdict:
        heard: list[tuple[Entry, Said]] = []
        own: list[Edit] = []
        for entry in wanted:
            said = await self._link(entry).ask(ctx, (*edits, *own))
            heard.append((entry, said))
            if (refusal := decide(entry, said, ctx.stage)) is not None:
                return refusal
            own += said.edits
        return accepted(heard, own, ctx.stage)

    def _link(self, entry: Entry) -> Link:
        link = self._links.get(entry.name)
        if link is None:
            link = self._links[entry.name] = self._milters.link(reached(entry))
        return link

    def reset(self) -> None:
        """The transaction is over."""
        for link in self._links.values():
            link.reset()

    def close(self) -> None:
        """The session is over."""
        links, self._links = self._links, {}
        for link in links.values():
            link.close()


def decide(entry: Entry, said: Said, stage: Stage) -> Verdict | None:
    """What ends the asking at this stage; None: the next one is asked."""
    if said.word == "continue":
        return None
    if said.word != "failed":
        reason = f"{entry.name}: {said.word} {on_one_line(said.reply)}".rstrip()
        return _verdict(entry, said.word, reason, said.reply)
    if stage in ("connect", "helo") or entry.default in ("accept", "quarantine"):
        return None
    return _verdict(entry, entry.default, f"{entry.name}: {entry.default} by default: {said.why}", _FAILED[entry.default])


def _verdict(entry: Entry, outcome: str, reason: str, reply: str) -> Verdict:
    shared = outcome == "discard"  # one recipient is as good as all of them for that
    evidence = {"milter": entry.name}
    return Verdict(check=NAME, outcome=outcome, reason=reason, reply=reply, shared=shared, evidence=evidence)


def accepted(heard: Sequence[tuple[Entry, Said]], edits: Sequence[Edit], stage: Stage) -> Verdict:
    """Nobody refuses."""
    failed = [(entry, said) for entry, said in heard if said.word == "failed"] if stage == "message" else []
    kept = [f"{entry.name}: {said.quarantine}" for entry, said in heard if said.quarantine]
    unheard = [one for one in failed if one[0].default == "quarantine"]
    kept += [f"{entry.name}: quarantine by default: {said.why}" for entry, said in unheard]
    passed = [f"{entry.name}: {said.why}" for entry, said in failed if entry.default != "quarantine"]
    outcome = "quarantine" if kept else "unfiltered" if passed else "edited" if edits else "none"
    evidence = {"edits": [f"{edit.op} {edit.name}".rstrip() for edit in edits[:50]]} if edits else {}
    return Verdict(check=NAME, outcome=outcome, reason="; ".join([*kept, *passed]), edits=tuple(edits), evidence=evidence)
