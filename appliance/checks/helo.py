"""helo: what the client calls itself (RFC 5321 section 4.1.1.1).

Contract: syntax and plain facts only, no DNS. A client that bears our name, one of our domains or our address is lying; a
name that is no host name, or a literal of another address, is odd (marked, and a reason for greylisting).
What failure means for the mail: nothing but a mark (temperror) where a table of our domains cannot answer.
"""

import ipaddress
import re
from collections.abc import Awaitable
from functools import partial

from appliance.checks import knobs
from appliance.mail.context import Context, Stage
from appliance.mail.later import then, waits
from appliance.mail.literal import read_literal
from appliance.mail.ports import Ports, Site
from appliance.mail.verdict import Action, Verdict

NAME = "helo"
STAGES: tuple[Stage, ...] = ("helo", "mail", "rcpt")
GATE = False
OUTCOMES = {
    "ok": Action.DUNNO,
    "claims_our_name": Action.REJECT,
    "malformed": Action.MARK,
    "literal_mismatch": Action.MARK,
    "temperror": Action.MARK,
}
REPLIES = {
    "claims_our_name": "550 5.7.1 Helo command rejected: that name is not yours",
    "malformed": "550 5.5.2 Helo command rejected: need a fully-qualified host name",
    "literal_mismatch": "550 5.7.1 Helo command rejected: that address is not yours",
}
_OK = Verdict(check=NAME, outcome="ok")
#: Host names as they are in use: letters, digits, hyphens, underscores; at least two labels; the last is no number.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}\Z")
_NOBODY = frozenset({"localhost", "localhost.localdomain"})


class Policy(knobs.Policy):
    """`our_names`: more names that are ours and that no stranger may bear, besides our host name and domains."""

    our_names: knobs.Texts = ()


def decide(
    helo: str, client: str, site: Site, our_names: tuple[str, ...] = (), ours: bool | None = None
) -> str | Awaitable[str]:
    """The outcome for a HELO argument of a client address. `ours`: whether the name is a domain of ours (None: ask)."""
    name = helo.lower().rstrip(".")
    if name.startswith("["):
        return _literal(name, client, site)
    if name not in _NOBODY:
        if name == site.hostname.lower() or name in our_names:
            return "claims_our_name"
        asked = site.is_ours(name) if ours is None else ours
        if waits(asked):
            return then(asked, partial(decide, helo, client, site, our_names))
        if asked:
            return "claims_our_name"
    if name in site.our_addresses and name != client:
        return "claims_our_name"
    return "ok" if len(name) <= 255 and _NAME.match(name) else "malformed"


def _literal(name: str, client: str, site: Site) -> str:
    address = read_literal(name)
    if address is None:
        return "malformed"
    if str(address) in site.our_addresses and str(address) != client:
        return "claims_our_name"
    if client == "local" or str(address) == str(_plain(client)):
        return "ok"
    return "literal_mismatch"


def _plain(client: str) -> str:
    """The client's address as a literal would write it."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    return str(getattr(address, "ipv4_mapped", None) or address)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Judge the HELO name."""
    outcome = decide(ctx.helo, ctx.client.address, ports.site, policy.our_names)
    return _verdict(ctx, outcome) if isinstance(outcome, str) else then(outcome, partial(_verdict, ctx))


def _verdict(ctx: Context, outcome: str) -> Verdict:
    return _OK if outcome == "ok" else Verdict(check=NAME, outcome=outcome, reason=f"helo={ctx.helo[:255]}")
