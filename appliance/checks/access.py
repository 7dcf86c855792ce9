"""access: the operator's own tables decide (Postfix access(5)): client at connect, HELO name, sender, recipient.

Contract: keys and their order as access(5) (mail/lookup.py); the value of a hit is an action of access(5), its text the
reply. A value that is no action, or a table that cannot answer, is `temperror`: a broken gate does not stand open.
What failure means for the mail: put off with 451 until the table is mended.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import lru_cache, partial
from typing import Any

from appliance.checks import knobs
from appliance.mail import actions
from appliance.mail.actions import read_entry
from appliance.mail.binding import Bind
from appliance.mail.context import Context, Stage
from appliance.mail.later import later
from appliance.mail.lookup import Found, Key, address_keys, client_keys, domain_keys, search
from appliance.mail.ports import Ports, Table, TableUnavailable
from appliance.mail.replies import Subject
from appliance.mail.verdict import ALWAYS, Action, Verdict
from appliance.protocol.smtp.address import Address

NAME = "access"
STAGES: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt")
GATE = True
OUTCOMES = actions.OUTCOMES | {"temperror": Action.DEFER_IF_PERMIT}
REPLIES = actions.REPLIES | {"temperror": "451 4.3.5 Access cannot be checked at the moment, please try again later"}
_NOTHING = Verdict(check=NAME, outcome="dunno", until=ALWAYS)


# The same clients, names and addresses come again and again; their keys cost more than looking them up.
_client_keys = lru_cache(4096)(client_keys)
_domain_keys = lru_cache(4096)(lambda name, dotted: tuple(domain_keys(name, dotted)))
_address_keys = lru_cache(4096)(address_keys)


class Policy(knobs.Policy):
    """Tables by what they are asked for; a list is searched table by table for each key.
    `parent_domain_matches_subdomains`: the key `example.com` holds for all below it, else `.example.com` does."""

    client: knobs.Tables = ()
    helo: knobs.Tables = ()
    sender: knobs.Tables = ()
    recipient: knobs.Tables = ()
    parent_domain_matches_subdomains: bool = True


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Look up what the stage has brought."""
    stage, delimiter, dotted = ctx.stage, ports.site.recipient_delimiter, not policy.parent_domain_matches_subdomains
    if stage == "connect":
        return look_up(policy.client, ports, "client", _client_keys, ctx.client.name, ctx.client.address, dotted)
    if stage == "helo":
        return look_up(policy.helo, ports, "helo", _domain_keys, ctx.helo, dotted)
    if stage == "mail" and ctx.sender is not None:
        return look_up(policy.sender, ports, "sender", _address_keys, ctx.sender, delimiter, dotted)
    if stage == "rcpt" and ctx.recipient is not None:
        return look_up(policy.recipient, ports, "recipient", _address_keys, ctx.recipient.address, delimiter, dotted)
    return _NOTHING


def key(ctx: Context) -> Hashable:
    """See checks."""
    stage, client = ctx.stage, ctx.client
    if stage == "connect":
        return stage, client.name, client.address
    if stage == "rcpt":
        return (stage, ctx.recipient.address) if ctx.recipient is not None else None
    return stage, ctx.helo, ctx.sender


class _Bound(Bind):
    """Of whom no table says anything."""

    __slots__ = ("_about", "_tables")

    def __init__(self, policy: Policy, ports: Ports) -> None:
        self._tables = [table for spec in policy.recipient if (table := _table(ports, spec))]
        self._about = ports.site.recipient_delimiter, not policy.parent_domain_matches_subdomains

    def ask(self, address: Address, now: float) -> Verdict | None:
        return _NOTHING if self.usual(address) else None

    def usual(self, address: Address) -> bool:
        return not self._tables or search(self._tables, address_keys(address, *self._about)) is None


def bind(ctx: Context, policy: Policy, ports: Ports) -> Bind:
    """See checks."""
    return _Bound(policy, ports)


def look_up(
    specs: Iterable[str], ports: Ports, subject: Subject, keys_of: Callable[..., Iterable[Key]], *about: Any
) -> Verdict | Awaitable[Verdict]:
    """The verdict of the first hit; `keys_of(*about)` are the keys. Raises Unavailable if a table cannot be read."""
    tables = [table for spec in specs if (table := _table(ports, spec))]
    found = search(tables, keys_of(*about)) if tables else None
    if found is None or isinstance(found, Found):
        return decide(subject, found)
    return later(found, partial(decide, subject))


def decide(subject: Subject, found: Found | None) -> Verdict:
    """What a hit says."""
    if found is None:
        return _NOTHING
    evidence = {"subject": subject, "key": found.key, "value": found.value, "table": found.place}
    try:
        entry = read_entry(found.value, subject)
    except ValueError as error:
        return Verdict(check=NAME, outcome="temperror", reason=f"{found.place}: {error}", evidence=evidence)
    return Verdict(
        check=NAME,
        outcome=entry.outcome,
        reason=f"{found.place}: {subject} {found.key}: {found.value}",
        reply=entry.reply,
        argument=entry.argument,
        evidence=evidence,
        until=ALWAYS,
    )


def _table(ports: Ports, spec: str) -> Table:
    """An open table; one that is empty is false, and need not be searched."""
    table = ports.tables.get(spec)
    if table is None:
        raise TableUnavailable(spec, f"{spec} is not open")
    return table
