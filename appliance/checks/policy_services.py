"""policy_services: Postfix policy servers of others (postgrey, policyd-spf, postfwd, your own) are asked, at any stage.

The services of a stage are asked one after the other, as a Postfix does it: what refuses or accepts ends the asking, all
else goes on. Every action of access(5) is acted on; those that concern the message (hold, filter, redirect, bcc, discard,
prepend) concern all its recipients, as with Postfix. Names of restrictions are evaluated as far as they mean something
here (mail/restrictions.py, mail/restrictions_asked.py); others are a mistake of the service. A service that does not
answer in time is taken for having said its `default`. An action without its argument (PREPEND of what is no field) is
not done, with a warning.
What failure means for the mail: the default (shipped: put off unless something refuses); a text that is no action is put
off with 451 as Postfix does it.
"""

import ipaddress
from collections.abc import Awaitable
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from appliance.checks import knobs
from appliance.checks.knobs import Duration, Texts
from appliance.checks.knobs_domains import Domains, among
from appliance.mail import actions, restrictions, restrictions_asked
from appliance.mail.actions import WORDS, Entry, NoArgument, parted, read_entry
from appliance.mail.context import STAGES as ALL_STAGES
from appliance.mail.context import Context, Role, Stage
from appliance.mail.later import answered
from appliance.mail.policy_service import Service, attributes, parse_place
from appliance.mail.ports import Ports, Unavailable
from appliance.mail.replies import Subject
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.policy import Answer
from appliance.protocol.smtp.address import Address

NAME = "policy_services"
STAGES: tuple[Stage, ...] = ALL_STAGES
GATE = True
ENVELOPE = True
OUTCOMES = actions.OUTCOMES | {"temperror": Action.DEFER_IF_PERMIT}
REPLIES = actions.REPLIES | {"temperror": "451 4.3.5 Policy cannot be checked at the moment, please try again later"}
#: What ends the asking.
FINAL = frozenset({"ok", "reject", "defer", "hangup", "discard"})
#: What is done to the message, for whomever it was asked.
OF_MESSAGE = frozenset({"discard", "hold", "filter", "redirect", "bcc", "prepend"})
#: Actions that need a message: there is none before MAIL.
BEFORE_MAIL = frozenset({"connect", "helo"})
_SUBJECTS: dict[Stage, Subject] = {"connect": "client", "helo": "helo", "mail": "sender", "rcpt": "recipient"}
_NOTHING = Verdict(check=NAME, outcome="dunno")


def place(value: str) -> str:
    """Raises ValueError for what is no address of a service."""
    parse_place(value)
    return value


def default_action(value: str) -> str:
    """Raises ValueError for what is no action of access(5)."""
    try:
        read_entry(value, "other")
    except ValueError as why:
        word = parted(value)[0]
        near = [] if word in WORDS else get_close_matches(word, WORDS, 1)
        raise ValueError(f"{why} (did you mean {near[0]}?)" if near else str(why)) from None
    return value


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        ipaddress.ip_network(value)
    return values


class Asked(BaseModel):
    """One service. It is asked at its `stages`, for its `roles`, and where every condition that is given is met:
    `clients` (networks), `sender_domains`, `recipient_domains` (a leading dot: subdomains), `tables` of none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
    address: Annotated[Texts, AfterValidator(lambda values: tuple(map(place, values))), Field(min_length=1)]
    stages: Annotated[tuple[Stage, ...], BeforeValidator(knobs.one_or_more), Field(min_length=1)] = ("rcpt",)
    roles: Annotated[
        tuple[Literal["inbound", "outbound"], ...], BeforeValidator(knobs.one_or_more), Field(min_length=1)
    ] = ("inbound",)
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    tries: Annotated[int, Field(ge=1, le=10)] = 2
    retry_delay: Duration = 1.0
    idle: Duration = 300.0
    ttl: Duration = 1000.0
    requests: knobs.Count = 0
    connections: Annotated[int, Field(ge=1)] = 50
    default: Annotated[str, AfterValidator(default_action)] = "DEFER_IF_PERMIT"
    context: str = ""
    clients: Annotated[Texts, AfterValidator(_networks)] = ()
    sender_domains: Domains = ()
    recipient_domains: Domains = ()

    def wanted(self, ctx: Context) -> bool:
        """Are the conditions met?"""
        if self.clients and not _within(ctx.client.address, self.clients):
            return False
        if self.sender_domains and not (ctx.sender and among(ctx.sender.domain, self.sender_domains)):
            return False
        if not self.recipient_domains:
            return True
        whom = [ctx.recipient] if ctx.recipient is not None else ctx.recipients
        return any(among(one.address.domain, self.recipient_domains) for one in whom)


@lru_cache(maxsize=4096)
def _within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        found = ipaddress.ip_address("127.0.0.1" if address == "local" else address)
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network) for network in networks)


def _once(values: tuple[Asked, ...]) -> tuple[Asked, ...]:
    names = [value.name for value in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the name {twice[0]} is there twice")
    return values


class Policy(knobs.Policy):
    """`services` are asked in their order."""

    services: Annotated[tuple[Asked, ...], AfterValidator(_once)] = ()


@lru_cache(maxsize=256)
def reached(asked: Asked) -> Service:
    """How a service is reached."""
    return Service(
        name=asked.name,
        places=tuple(map(parse_place, asked.address)),
        timeout=asked.timeout,
        tries=asked.tries,
        retry_delay=asked.retry_delay,
        idle=asked.idle,
        ttl=asked.ttl,
        requests=asked.requests,
        connections=asked.connections,
    )


def idle(policy: Policy, role: Role, stage: Stage) -> bool:
    """Is nobody asked there?"""
    return not any(stage in asked.stages and role in asked.roles for asked in policy.services)


# ---------------------------------------------------------------------- what an answer means


async def decide(answer: Answer, asked: Asked, ctx: Context, ports: Ports, ours: bool) -> list[Verdict]:
    """The answer as verdicts, one for each action of it. Like Postfix: an empty action is OK with a warning. `ours`:
    whether the recipient's domain is."""
    text = f"{answer.verb} {answer.text}".strip()
    verb = answer.verb.lower()
    if not verb:
        return [_verdict(Entry("ok"), asked, ctx, "an empty action")]
    if verb in WORDS or verb.isdecimal():
        try:
            return [_verdict(read_entry(text, _SUBJECTS.get(ctx.stage, "other")), asked, ctx, text)]
        except NoArgument as error:
            return [_verdict(Entry("warn"), asked, ctx, f"{text}: {error}, not done")]
        except ValueError as error:
            return [_wrong(asked, f"{text}: {error}")]
    return await _restrictions(text.lower().replace(",", " ").split(), asked, ctx, ports, ours)


async def _restrictions(names: list[str], asked: Asked, ctx: Context, ports: Ports, ours: bool) -> list[Verdict]:
    """A list of restrictions, evaluated in place."""
    verdicts: list[Verdict] = []
    words, warn = iter(names), False
    for name in words:
        if name == "warn_if_reject":
            warn = True
            continue
        known = restrictions.OLD.get(name, name)
        argument = next(words, "") if known in restrictions_asked.WITH_ARGUMENT else ""
        try:
            found = await _evaluated(known, argument, ctx, ports, ours)
        except ValueError as error:
            return [*verdicts, _wrong(asked, f"{name}: {error}")]
        if found is None:
            return [*verdicts, _wrong(asked, f"{name} is no restriction that means something here")]
        outcome, reply, why = found
        if warn and outcome in ("reject", "defer", "defer_if_permit", "defer_if_reject"):
            outcome, reply = "warn", ""
        warn = False
        if outcome != "dunno":
            text = " ".join(filter(None, (name, argument))) + (f": {why}" if why else "")
            verdicts.append(_verdict(Entry(outcome, reply), asked, ctx, text))
        if outcome in FINAL:
            break
    return verdicts


async def _evaluated(name: str, argument: str, ctx: Context, ports: Ports, ours: bool) -> restrictions_asked.Found | None:
    """What one restriction finds; None: it means nothing here."""
    found = restrictions.evaluate(name, ctx, ours, ports.site.our_addresses)
    if found is not None:
        vain = name in restrictions.LOGINS and ctx.login is None
        return restrictions_asked.Found(*found, "nobody has logged in" if vain else "")
    return await restrictions_asked.ask(name, argument, ctx, ports, ours)


def _verdict(entry: Entry, asked: Asked, ctx: Context, text: str) -> Verdict:
    outcome = entry.outcome
    if (ctx.stage in BEFORE_MAIL and outcome in OF_MESSAGE) or (outcome == "prepend" and ctx.stage == "message"):
        reason, outcome = f"{asked.name}: {text}: not possible at {ctx.stage}", "warn"
        return Verdict(check=NAME, outcome=outcome, reason=reason)
    evidence = {"service": asked.name, "answer": text}
    shared = outcome in OF_MESSAGE
    return Verdict(
        check=NAME,
        outcome=outcome,
        reason=f"{asked.name}: {text}",
        reply=entry.reply,
        argument=entry.argument,
        evidence=evidence,
        shared=shared,
    )


def _wrong(asked: Asked, why: str) -> Verdict:
    return Verdict(check=NAME, outcome="temperror", reason=f"{asked.name}: {why}", evidence={"service": asked.name})


# ---------------------------------------------------------------------- asking


def patience(policy: Policy, stage: Stage) -> float:
    """Each that is asked there has its own time, and its own default behind it."""
    return sum(asked.timeout for asked in policy.services if stage in asked.stages)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Ask those who are to be asked here."""
    wanted = [
        asked for asked in policy.services if ctx.stage in asked.stages and ctx.role in asked.roles and asked.wanted(ctx)
    ]
    return _ask(wanted, ctx, ports) if wanted else _NOTHING


async def _ask(wanted: list[Asked], ctx: Context, ports: Ports) -> Verdict:
    found: list[Verdict] = []
    for asked in wanted:
        found += await _one(asked, ctx, ports)
        if found and found[-1].outcome in FINAL:
            break
    if not found:
        return _NOTHING
    return _joined(found)


async def _one(asked: Asked, ctx: Context, ports: Ports) -> list[Verdict]:
    if ports.policy_services is None:
        raise Unavailable("policy services cannot be asked here")
    try:
        answer = await ports.policy_services.ask(reached(asked), attributes(ctx, asked.context), ctx.transaction)
    except Unavailable as error:
        entry = read_entry(asked.default, _SUBJECTS.get(ctx.stage, "other"))
        return [_verdict(entry, asked, ctx, f"{asked.default} by default: {error}")]
    try:
        ours = ctx.recipient is not None and await _is_ours(ctx.recipient.address, ports)
    except Unavailable as error:
        return [_wrong(asked, f"{answer.verb}: {error}")]
    return await decide(answer, asked, ctx, ports, ours)


async def _is_ours(address: Address, ports: Ports) -> bool:
    """Raises Unavailable."""
    return ports.site.is_postmaster(address) or await answered(ports.site.is_ours(address.domain))


def _joined(found: list[Verdict]) -> Verdict:
    """All of them as one, the first with the others behind it."""
    first, *more = found
    if not more:
        return first
    return Verdict(
        check=first.check,
        outcome=first.outcome,
        reason=first.reason,
        reply=first.reply,
        argument=first.argument,
        evidence=first.evidence,
        shared=first.shared,
        more=tuple(more),
    )
