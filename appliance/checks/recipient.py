"""Is there such a mailbox? Asked before greylist: an unknown address gets its 550 at once, and nothing is accepted that
the inside would refuse.

Who has an entry in a map that rewrites recipients (docs/addresses.md) is known; in a domain of aliases all others are
unknown; so is an address for which the transport table says `error:`, with the table's text. Then three sources in
order: the lists of `tables` (`postgate recipients import FILE` writes one, `synced:NAME` is fetched), call-ahead to the
next hop with its cache, the policy for what could not be verified. With `callahead = false` the lists are complete: who
is not in them is unknown, once each has been fetched. Always known (RFC 5321 4.5.1): postmaster at our domains, bare
postmaster.
Outcomes: known, unknown, unverifiable (the inside is away, or a list is yet to be fetched, and nobody knows the
address), blind (the next hop accepts every address: taken, and said in status), unchecked (no list, and call-ahead is
off or not there), not_ours.
What failure means for the mail: an unreadable list or a crash is temperror (shipped: defer), never unknown.
"""

from collections.abc import Awaitable, Hashable, Sequence
from functools import partial

import msgspec

from appliance.checks import knobs
from appliance.checks.knobs import Tables
from appliance.mail.binding import Bind
from appliance.mail.context import Context, Stage
from appliance.mail.later import later, then
from appliance.mail.lookup import Found, Searched, address_map_keys, search
from appliance.mail.ports import Ports, Probe, Recipients, Table, Undeliverable
from appliance.mail.verdict import ALWAYS, Action, Verdict
from appliance.protocol.smtp.address import Address

NAME = "recipient"
STAGES: tuple[Stage, ...] = ("rcpt",)
GATE = True
OUTCOMES = {
    "known": Action.DUNNO,
    "unknown": Action.REJECT,
    "unverifiable": Action.DEFER_IF_PERMIT,
    "blind": Action.DUNNO,
    "unchecked": Action.DUNNO,
    "not_ours": Action.DUNNO,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "unknown": "550 5.1.1 Recipient address rejected: no such mailbox here",
    "unverifiable": "451 4.1.1 Recipient address cannot be verified just now, please try again later",
    "temperror": "451 4.3.0 Recipient address cannot be checked just now, please try again later",
}


class Policy(knobs.Policy):
    tables: Tables = ()
    callahead: bool = True


def listed(address: Address, tables: Sequence[Table], delimiter: str) -> Searched:
    """The entry of the first list that has the address: user+ext@domain, user@domain, @domain. Raises Unavailable."""
    return search(tables, address_map_keys(address, delimiter)) if tables else None


def _verdict(address: Address, outcome: str, reason: str, until: float = ALWAYS, **evidence: object) -> Verdict:
    return Verdict(check=NAME, outcome=outcome, reason=reason, recipient=address.text, evidence=evidence, until=until)


def decide(address: Address, probe: Probe) -> Verdict:
    """What call-ahead found, as a verdict."""
    reason = {
        "known": "the next hop takes this address",
        "unknown": f"the next hop refuses this address: {probe.reply}",
        "blind": "the next hop takes every address",
    }.get(probe.state, f"cannot be verified: {probe.reply}")
    outcome = probe.state if probe.state in ("known", "unknown", "blind") else "unverifiable"
    return _verdict(address, outcome, reason, 0.0, reply=probe.reply, at=probe.at, source=probe.source)


async def _probe(address: Address, recipients: Recipients) -> Verdict:
    return decide(address, await recipients.probe(address))


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    if ctx.recipient is None:
        return Verdict(check=NAME, outcome="not_ours", reason="no recipient")
    return judge(ctx.recipient.address, policy, ports)


def judge(address: Address, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Whether there is such a mailbox."""
    if ports.site.is_postmaster(address):
        return _verdict(address, "known", "required by RFC 5321")
    ours = ports.site.is_ours(address.domain)
    if isinstance(ours, bool):
        return _judge(address, policy, ports, ours)
    return later(ours, partial(_judge, address, policy, ports))


def key(ctx: Context) -> Hashable:
    """See checks."""
    return ctx.recipient.address if ctx.recipient is not None else None


class _Bound(Bind):
    """Who is on a list is known. Whatever else there may be to say of an address, check() says."""

    __slots__ = ("_site", "_tables")

    def __init__(self, policy: Policy, ports: Ports) -> None:
        self._site, self._tables = ports.site, [ports.tables[spec] for spec in policy.tables]

    def ask(self, address: Address, now: float) -> Verdict | None:
        if address.local.lower() == "postmaster" or self._site.is_ours(address.domain) is not True:
            return None
        if self._site.undeliverable(address) is not None:
            return None
        found = listed(address, self._tables, self._site.recipient_delimiter)
        if not isinstance(found, Found):
            return None
        return _verdict(address, "known", f"{found.key} is listed", key=found.key, place=found.place)

    def usual(self, address: Address) -> bool:
        """Its domain is on a list, the address itself on none."""
        if address.local == "postmaster" or self._site.undeliverable(address) is not None:
            return False
        for table in self._tables:  # noqa: SIM110 - a generator costs more than all else here
            if table.pattern or table.get(address.text) is not None:
                return False
        return True


def bind(ctx: Context, policy: Policy, ports: Ports) -> Bind | None:
    """See checks."""
    absent = any(absence(ports.tables[spec]) for spec in policy.tables)
    return None if absent or ports.aliases is not None else _Bound(policy, ports)


def _judge(address: Address, policy: Policy, ports: Ports, ours: bool) -> Verdict | Awaitable[Verdict]:
    """An address, once it is known whether its domain is ours."""
    if not ours:
        return then(ports.site.undeliverable(address), partial(_not_ours, address))
    if address.local.lower() == "postmaster":
        return _verdict(address, "known", "required by RFC 5321")
    if ports.aliases is not None:
        return then(ports.aliases.covers(address), partial(_uncovered, address, policy, ports))
    return _covered_by_nothing(address, policy, ports)


def _not_ours(address: Address, refusal: Undeliverable | None) -> Verdict:
    return _refused(address, refusal) if refusal else _verdict(address, "not_ours", "not one of our domains")


def _refused(address: Address, refusal: Undeliverable) -> Verdict:
    """What the transport table has only a refusal for is not taken first and returned then (as in Postfix)."""
    reason = "the transport table refuses this address"
    return msgspec.structs.replace(_verdict(address, "unknown", reason, place=refusal.place), reply=refusal.reply)


def _covered_by_nothing(address: Address, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    return then(ports.site.undeliverable(address), partial(_routed, address, policy, ports))


def _routed(
    address: Address, policy: Policy, ports: Ports, refusal: Undeliverable | None
) -> Verdict | Awaitable[Verdict]:
    return _refused(address, refusal) if refusal else _listed(address, policy, ports)


def _uncovered(address: Address, policy: Policy, ports: Ports, found: Found | None) -> Verdict | Awaitable[Verdict]:
    """Who has an entry in a map that rewrites is known (as in Postfix); where only aliases are, all others are not."""
    if found is not None:
        return _verdict(address, "known", f"{found.key} is rewritten", key=found.key, place=found.place)
    assert ports.aliases is not None
    return then(ports.aliases.only_aliases(address.domain), partial(_unaliased, address, policy, ports))


def _unaliased(address: Address, policy: Policy, ports: Ports, only: bool) -> Verdict | Awaitable[Verdict]:
    if only:
        return _verdict(address, "unknown", f"{address.domain} has aliases only, and none of this name")
    return _covered_by_nothing(address, policy, ports)


def _listed(address: Address, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    tables = [ports.tables[spec] for spec in policy.tables]
    absent = ""
    for table in tables:
        absent = absent or absence(table)
    if absent:
        tables = [table for table in tables if not absence(table)]
    found = listed(address, tables, ports.site.recipient_delimiter)
    if found is None or isinstance(found, Found):
        return _unlisted(address, policy, ports, absent, found)
    return later(found, partial(_unlisted, address, policy, ports, absent))


def absence(table: Table) -> str:
    """Why a list that is fetched (synced:NAME) is not there yet, "" for any other."""
    return str(getattr(table, "absent", ""))


def _unlisted(
    address: Address, policy: Policy, ports: Ports, absent: str, found: Found | None
) -> Verdict | Awaitable[Verdict]:
    """What the lists say, else the next hop. While one of them is not there yet, nobody is unknown for it."""
    if found is not None:
        return _verdict(address, "known", f"{found.key} is listed", key=found.key, place=found.place)
    if not policy.callahead and absent:
        lacks = next(spec for spec in policy.tables if absence(ports.tables[spec]))
        return _verdict(address, "unverifiable", absent, 0.0, lacks=lacks)
    if not policy.callahead and policy.tables:
        return _verdict(address, "unknown", "not listed", tables=list(policy.tables))
    if not policy.callahead or ports.recipients is None:
        return _verdict(address, "unchecked", "no list of recipients and no call-ahead")
    cached = ports.recipients.cached(address)
    return decide(address, cached) if cached is not None else _probe(address, ports.recipients)
