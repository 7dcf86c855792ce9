"""tls: mail that must come encrypted, by sender or client.

`senders` and `clients` are tables: a sender's domain (and all below it), or a client's name, address or network; the
value says what is needed: `required` (the version of `minimum`, or newer), a version ("TLSv1.3", or newer), or `may`
(nothing: it ends the search, for a domain below a listed one). The client's table is asked first. Whose client is a relay
of ours was not encrypted by the sender: skipped, as is who is not listed.
Outcomes: ok, missing (no TLS), weak (an older version), skipped. Which certificate a client shows is not judged: a server
asks for none.
What failure means for the mail: a table that cannot be read, or whose value is none of these, is temperror (shipped:
defer_if_permit).
"""

from collections.abc import Awaitable, Iterable
from functools import partial
from typing import Literal

from appliance.checks import knobs
from appliance.checks.knobs import Tables
from appliance.mail.context import Context, Stage
from appliance.mail.later import then, waits
from appliance.mail.lookup import Found, Key, Searched, address_keys, client_keys, search
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict

NAME = "tls"
STAGES: tuple[Stage, ...] = ("mail", "rcpt")
GATE = True
OUTCOMES = {
    "ok": Action.DUNNO,
    "missing": Action.REJECT,
    "weak": Action.REJECT,
    "skipped": Action.DUNNO,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "missing": "530 5.7.0 Must issue a STARTTLS command first",
    "weak": "550 5.7.10 Encryption that is stronger than this is needed",
    "temperror": "451 4.7.0 Encryption cannot be checked at the moment, please try again later",
}
Version = Literal["TLSv1.2", "TLSv1.3"]
#: From old to new.
VERSIONS = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
REQUIRED, MAY = "required", "may"
_NOTHING = Verdict(check=NAME, outcome="skipped", reason="no TLS is demanded")


class Policy(knobs.Policy):
    senders: Tables = ()
    clients: Tables = ()
    minimum: Version = "TLSv1.2"


def demand(value: str, minimum: str) -> str:
    """The version that a table's value asks for; "" = none. Raises ValueError that says what is wrong."""
    word = value.strip().lower()
    if word == MAY:
        return ""
    if word == REQUIRED:
        return minimum
    version = next((one for one in VERSIONS[2:] if one.lower() == word), "")
    if not version:
        raise ValueError(f"{value!r} is none of {REQUIRED}, {MAY}, {', '.join(VERSIONS[2:])}")
    return version


def decide(version: str, wanted: str) -> str:
    """The outcome of a session of `version` ("" = not encrypted) where `wanted` is needed."""
    if not version:
        return "missing"
    known = VERSIONS.index(version) if version in VERSIONS else len(VERSIONS)  # newer than we know
    return "ok" if known >= VERSIONS.index(wanted) else "weak"


def _listed(specs: tuple[str, ...], ports: Ports, keys: Iterable[Key]) -> Searched:
    return search([ports.tables[spec] for spec in specs], keys) if specs else None


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Is the session encrypted as it must be?"""
    if not policy.senders and not policy.clients:
        return _NOTHING
    if ctx.client.trusted_relay or ctx.sender is None:
        return Verdict(
            check=NAME, outcome="skipped", reason="a relay of ours" if ctx.sender is not None else "no envelope"
        )
    senders, keys = policy.senders, address_keys(ctx.sender, ports.site.recipient_delimiter)
    found = _listed(policy.clients, ports, client_keys(ctx.client.name, ctx.client.address))
    if waits(found):
        found = then(found, lambda hit: hit or _listed(senders, ports, keys))
    return then(found or _listed(senders, ports, keys), partial(_judge, ctx, policy))


def _judge(ctx: Context, policy: Policy, found: Found | None) -> Verdict:
    """Is the session encrypted as the entry says?"""
    if found is None:
        return _NOTHING
    facts = ctx.client.tls
    evidence = {
        "table": found.place,
        "key": found.key,
        "demanded": found.value,
        "tls": facts.version if facts else "none",
    }
    try:
        wanted = demand(found.value, policy.minimum)
    except ValueError as error:
        return Verdict(check=NAME, outcome="temperror", reason=f"{found.place}: {error}", evidence=evidence)
    if not wanted:
        return Verdict(
            check=NAME, outcome="skipped", reason=f"{found.place}: {found.key} may be plain", evidence=evidence
        )
    reason = f"{found.place}: {found.key} needs {wanted}, session has {evidence['tls']}"
    return Verdict(check=NAME, outcome=decide(facts.version if facts else "", wanted), reason=reason, evidence=evidence)
