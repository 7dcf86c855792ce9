"""Postfix's restriction names that ask: DNS, DNS lists, or who has a mailbox here.

Contract: what is asked is asked through the ports; replies have postconf(5)'s codes. A domain of ours is not looked up,
nor is an address literal. What failure means for the mail: where DNS, a table or the inside cannot say it, it is put off
unless something refuses it (as with Postfix); a block list that does not answer lists nobody, and the log says so; an
allow list that does not puts off what would be refused.
"""

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from appliance.mail.context import Context
from appliance.mail.dns_list import address_label, error, host, parse_site
from appliance.mail.later import answered
from appliance.mail.ports import Ports, Resolver, Unavailable
from appliance.mail.restrictions import NO_LITERAL, no_literal
from appliance.protocol.smtp.address import Address


class Found(NamedTuple):
    """The outcome (mail.actions), the reply that goes with it, and why, for the log."""

    outcome: str
    reply: str = ""
    why: str = ""


_DUNNO = Found("dunno")
#: The names, and where Postfix says their class: what is judged, its class in replies, its codes.
_SENDER, _RECIPIENT, _HELO = "Sender address rejected", "Recipient address rejected", "Helo command rejected"
#: Whose domain, by the name of the list restriction: what is asked about, and how Postfix calls it.
_LISTED: dict[str, tuple[Callable[[Context], str], str]] = {
    "client": (lambda ctx: ctx.client.name, "Client host"),
    "reverse_client": (lambda ctx: ctx.client.reverse_name, "Unverified Client host"),
    "helo": (lambda ctx: ctx.helo, "Helo command"),
    "sender": (lambda ctx: ctx.sender.domain if ctx.sender else "", "Sender address"),
    "recipient": (lambda ctx: ctx.recipient.address.domain if ctx.recipient else "", "Recipient address"),
}


async def ask(name: str, argument: str, ctx: Context, ports: Ports, ours: bool) -> Found | None:
    """What a restriction finds; None: it is none of these. `argument`: of those that take one; `ours`: whether the
    recipient's domain is. Raises ValueError for an argument that is no DNS list, or no number of seconds."""
    if name in LISTS:
        return await _list(name, argument, ctx, ports, ours)
    if name == SLEEP:
        return await _sleep(argument, ports)
    one = _ASKED.get(name)
    return await one(ctx, ports) if one is not None else None


# ---------------------------------------------------------------------- waiting

SLEEP, MAX_SLEEP = "sleep", 10
_SECONDS = re.compile(r"[0-9]+")


async def _sleep(argument: str, ports: Ports) -> Found:
    """At most MAX_SLEEP seconds: a Postfix in front of us has a deadline of its own."""
    if not _SECONDS.fullmatch(argument):
        raise ValueError(f"{argument or 'nothing'} is no number of seconds")
    if ports.policy_services is not None:
        await ports.policy_services.pause(MAX_SLEEP if len(argument) > 2 else min(int(argument), MAX_SLEEP))
    return _DUNNO


# ---------------------------------------------------------------------- domains


async def _unknown_sender(ctx: Context, ports: Ports) -> Found:
    where = f"550 5.7.27 {_SENDER}", f"450 4.1.8 {_SENDER}"
    return await _unknown_domain(ctx.sender, ports, *where) if ctx.sender else _DUNNO


async def _unknown_recipient(ctx: Context, ports: Ports) -> Found:
    where = f"556 5.1.10 {_RECIPIENT}", f"450 4.1.2 {_RECIPIENT}"
    return await _unknown_domain(ctx.recipient.address, ports, *where) if ctx.recipient else _DUNNO


async def _unknown_domain(address: Address, ports: Ports, null: str, unknown: str) -> Found:
    domain = address.domain
    if not domain or domain.startswith("["):
        return _DUNNO
    try:
        if await answered(ports.site.is_ours(domain)):
            return _DUNNO
        state = await _state(domain, ports.resolver)
    except Unavailable as trouble:
        return Found("defer_if_permit", f"{unknown}: Domain cannot be looked up", str(trouble))
    if state == "null":
        return Found("reject", f"{null}: Domain does not accept mail (nullMX)", domain)
    return Found("defer", f"{unknown}: Domain not found", domain) if state == "unknown" else _DUNNO


async def _unknown_helo(ctx: Context, ports: Ports) -> Found:
    name, where = ctx.helo.lower().removesuffix("."), f"450 4.7.1 {_HELO}"
    if ctx.helo.startswith("["):
        return Found("reject", NO_LITERAL, ctx.helo) if no_literal(ctx.helo) else _DUNNO
    if not name:
        return _DUNNO
    try:
        state = await _state(name, ports.resolver) if host(name) else "unknown"
    except Unavailable as trouble:
        return Found("defer_if_permit", f"{where}: Host cannot be looked up", str(trouble))
    return Found("defer", f"{where}: Host not found", name) if state == "unknown" else _DUNNO


async def _state(domain: str, resolver: Resolver | None) -> str:
    """ "known", "unknown", or "null" (RFC 7505). Raises Unavailable where that cannot be said."""
    if resolver is None:
        raise Unavailable("no resolver")
    trouble: Unavailable | None = None
    try:
        answer = await resolver.query(domain, "MX")
        if answer.records:
            return "null" if [record.split()[-1] for record in answer.records] == ["."] else "known"
        if not answer.exists:
            return "unknown"
    except Unavailable as error_:
        trouble = error_
    for found in await resolver.query_all([(domain, "A"), (domain, "AAAA")]):
        if isinstance(found, Unavailable):
            trouble = found
        elif found.records:
            return "known"
    if trouble is not None:
        raise trouble
    return "unknown"


# ---------------------------------------------------------------------- mailboxes


async def _unlisted_sender(ctx: Context, ports: Ports) -> Found:
    if ctx.sender is None or not ctx.sender.text:
        return _DUNNO
    return await _unlisted(ctx, ctx.sender, ports, f"550 5.1.0 {_SENDER}", f"451 4.3.0 {_SENDER}")


async def _unlisted_recipient(ctx: Context, ports: Ports) -> Found:
    if ctx.recipient is None:
        return _DUNNO
    return await _unlisted(ctx, ctx.recipient.address, ports, f"550 5.1.1 {_RECIPIENT}", f"451 4.3.0 {_RECIPIENT}")


async def _unverified_recipient(ctx: Context, ports: Ports) -> Found:
    """Postfix's codes for what is not known and for what is not known yet are the same: put off unless refused."""
    found = await _unlisted_recipient(ctx, ports)
    if found.outcome == "dunno":
        return found
    return Found("defer_if_permit", f"450 4.1.1 {_RECIPIENT}: unverified address", found.why)


async def _unlisted(ctx: Context, address: Address, ports: Ports, unknown: str, later: str) -> Found:
    """What the check `recipient` would say of the address."""
    try:
        if ports.mailbox is None:
            raise Unavailable("nobody can say who has a mailbox here")
        verdict = await answered(ports.mailbox(ctx, address))
    except Unavailable as trouble:
        return Found("defer_if_permit", f"{later}: Temporary lookup failure", str(trouble))
    why = f"{address.text}: {verdict.reason}"
    if verdict.outcome == "unknown":
        return Found("reject", f"{unknown}: User unknown", why)
    if verdict.outcome in ("unverifiable", "temperror"):
        return Found("defer_if_permit", f"{later}: Temporary lookup failure", why)
    return _DUNNO


_ASKED: dict[str, Callable[[Context, Ports], Awaitable[Found]]] = {
    "reject_unknown_sender_domain": _unknown_sender,
    "reject_unknown_recipient_domain": _unknown_recipient,
    "reject_unknown_helo_hostname": _unknown_helo,
    "reject_unlisted_sender": _unlisted_sender,
    "reject_unlisted_recipient": _unlisted_recipient,
    "reject_unverified_recipient": _unverified_recipient,
}

#: All that ask() knows without an argument.
NAMES = frozenset(_ASKED)

# ---------------------------------------------------------------------- DNS lists

#: Restrictions with an argument: a DNS list ("bl.example.org", "bl.example.org=127.0.0.[2..11]").
LISTS = frozenset(
    {
        *("reject_rbl_client", "permit_dnswl_client", "permit_rhswl_client"),
        *(f"reject_rhsbl_{of}" for of in _LISTED),
    }
)


#: All that are followed by a word of their own.
WITH_ARGUMENT = LISTS | {SLEEP}


async def _list(name: str, argument: str, ctx: Context, ports: Ports, ours: bool) -> Found:
    site, permits = parse_site(argument), name.startswith("permit_")
    if permits and not ours:
        return _DUNNO  # it never speaks for a relay
    if name in ("reject_rbl_client", "permit_dnswl_client"):
        what, kind, label = ctx.client.address, "Client host", address_label(ctx.client.address)
    else:
        value, kind = _LISTED["client" if permits else name.removeprefix("reject_rhsbl_")]
        what = value(ctx)
        label = host(what)
    if not label or len(label) + len(site.zone) >= 253:
        return _DUNNO
    hit, trouble = await _hit(f"{label}.{site.zone}", site.listed, ports.resolver)
    if hit and permits:
        return Found("ok", "", f"{what} is on {site.shown}")
    if hit:
        text = f"Service unavailable; {kind} [{what}] blocked using {site.shown}"
        return Found("reject", f"554 5.7.1 {text}", f"{what} is on {site.shown}: {hit}")
    if trouble and permits:
        return Found("defer_if_reject", "450 4.7.1 Service unavailable", f"{site.shown}: {trouble}")
    return Found("warn", "", f"{site.shown} says nothing of {what}: {trouble}") if trouble else _DUNNO


async def _hit(name: str, listed: Callable[[str], bool], resolver: Resolver | None) -> tuple[str, str]:
    """(the codes, with the list's own words; "": not listed; why it said nothing)."""
    if resolver is None:
        return "", "no resolver"
    try:
        answer = await resolver.query(name, "A")
    except Unavailable as trouble:
        return "", str(trouble)
    codes = [record for record in answer.records if listed(record)]
    if not codes:
        return "", next(filter(None, map(error, answer.records)), "")
    [words] = await resolver.query_all([(name, "TXT")])
    text = "" if isinstance(words, Unavailable) else " / ".join(words.records)[:200]
    return " ".join([*codes, text]).rstrip(), ""
