"""Postfix's restriction names that a policy server may answer, as far as they need nothing but what is known already.

Contract: pure; replies have postconf(5)'s codes and smtpd(8)'s wording. Names that ask DNS or a list of recipients are in
restrictions_asked. What failure means for the mail: a name that is not known puts it off (policy_services).
"""

from collections.abc import Sequence

from appliance.mail.actions import WORDS
from appliance.mail.context import Context
from appliance.mail.hostnames import is_address, is_literal, is_name, undotted

_HELO, _CLIENT = "Helo command rejected", "Client host rejected"
_NON_FQDN = "need fully-qualified"
NO_LITERAL = f"501 5.5.2 {_HELO}: invalid ip address"
_OF_HELO = frozenset({"reject_invalid_helo_hostname", "reject_non_fqdn_helo_hostname"})


#: Names that Postfix 3.7 still takes, and what they are called now.
OLD = {
    "reject_unknown_client": "reject_unknown_client_hostname",
    "reject_invalid_hostname": "reject_invalid_helo_hostname",
    "reject_non_fqdn_hostname": "reject_non_fqdn_helo_hostname",
    "reject_unknown_hostname": "reject_unknown_helo_hostname",
    "reject_unknown_address": "reject_unknown_sender_domain",
    "reject_rbl": "reject_rbl_client",
    "check_recipient_maps": "reject_unlisted_recipient",
}
#: Permissions of clients that have shown a certificate that is on a list: there is none.
_NOBODY = frozenset({"permit_tls_clientcerts", "permit_tls_all_clientcerts"})
#: Whether the sender is the one who has logged in (at an MTA that asks us). Where nobody has, they are left out with a
#: warning, as a Postfix without SASL does.
LOGINS = frozenset(
    f"reject_{of}_login_mismatch" for of in ("sender", "authenticated_sender", "known_sender", "unauthenticated_sender")
)
#: Those of them that want every sender's address to be the login's own.
_OWNED = frozenset({"reject_sender_login_mismatch", "reject_authenticated_sender_login_mismatch"})


def evaluate(name: str, ctx: Context, ours: bool, our_addresses: Sequence[str] = ()) -> tuple[str, str] | None:
    """(outcome, reply or ""); None: it is none of these. `ours`: whether the recipient's domain is. `our_addresses`:
    those that listeners name."""
    if name in LOGINS:
        return _login(name, ctx)
    if name in WORDS and name in NAMES:
        return WORDS[name], ""
    if name in _OF_HELO and no_literal(ctx.helo):
        return "reject", NO_LITERAL
    if name in _REFUSALS:
        wrong, reply = _REFUSALS[name]
        return ("defer" if reply.startswith("4") else "reject", reply) if wrong(ctx) else ("dunno", "")
    if name in _UNAUTHORISED:
        reply = _UNAUTHORISED[name]
        outside = ctx.recipient is not None and not ours
        return ("defer" if reply.startswith("4") else "reject", reply) if outside else ("dunno", "")
    permits = {
        "permit_mynetworks": ctx.client.trusted_relay or ctx.role == "outbound",
        "permit_inet_interfaces": _is_us(ctx, our_addresses),
        "permit_auth_destination": ours,
        "permit_sasl_authenticated": ctx.login is not None,
        **dict.fromkeys(_NOBODY, False),
    }
    return ("ok" if permits[name] else "dunno", "") if name in permits else None


def _login(name: str, ctx: Context) -> tuple[str, str]:
    """As a Postfix without smtpd_sender_login_maps: no address is anybody's own."""
    if ctx.login is None:
        return "warn", ""
    if name not in _OWNED or ctx.sender is None or not ctx.sender.text:
        return "dunno", ""
    user = "".join(char if char.isprintable() else "?" for char in ctx.login.user)[:100]
    return "reject", f"553 5.7.1 Sender address rejected: not owned by user {user}"


def no_literal(helo: str) -> bool:
    """It begins as an address in brackets, and is none: restrictions that ask for a name refuse that with NO_LITERAL."""
    return helo.startswith("[") and not is_literal(helo)


def _is_us(ctx: Context, our_addresses: Sequence[str]) -> bool:
    """The client is this host: it came over a unix socket or loopback, or from the address that it came to."""
    address = ctx.client.address
    if address == "local" or address == ctx.client.server_address or address in our_addresses:
        return True
    return address == "::1" or address.startswith("127.")


def _is_multi_bounce(ctx: Context) -> bool:
    return ctx.sender is not None and not ctx.sender.text and len(ctx.recipients) > (ctx.stage in ("data", "message"))


def _is_short(domain: str) -> bool:
    """No host's name with a dot, and no address literal."""
    name = undotted(domain)
    return not domain.startswith("[") and ("." not in name or not is_name(name))


def _short_sender(ctx: Context) -> bool:
    return ctx.sender is not None and bool(ctx.sender.text) and _is_short(ctx.sender.domain)


def _short_recipient(ctx: Context) -> bool:
    """RFC 5321 section 4.5.1: postmaster needs no domain."""
    if ctx.recipient is None or ctx.recipient.address.text.lower() == "postmaster":
        return False
    return _is_short(ctx.recipient.address.domain)


def _invalid_helo(ctx: Context) -> bool:
    """As Postfix has it, an address without brackets passes here."""
    name = undotted(ctx.helo)
    return bool(ctx.helo) and not ctx.helo.startswith("[") and not is_name(name) and not is_address(name)


def _short_helo(ctx: Context) -> bool:
    return bool(ctx.helo) and _is_short(ctx.helo)


def _unnamed(ctx: Context) -> bool:
    return ctx.client.proof in ("none", "fail", "temperror")


_REFUSALS = {
    "reject_unknown_client_hostname": (_unnamed, f"450 4.7.25 {_CLIENT}: cannot find your hostname"),
    "reject_unknown_reverse_client_hostname": (
        lambda ctx: ctx.client.reverse_name == "unknown",
        f"450 4.7.1 {_CLIENT}: cannot find your reverse hostname",
    ),
    "reject_multi_recipient_bounce": (_is_multi_bounce, "550 5.5.3 Multi-recipient bounce"),
    "reject_non_fqdn_sender": (_short_sender, f"504 5.5.2 Sender address rejected: {_NON_FQDN} address"),
    "reject_non_fqdn_recipient": (_short_recipient, f"504 5.5.2 Recipient address rejected: {_NON_FQDN} address"),
    "reject_non_fqdn_helo_hostname": (_short_helo, f"504 5.5.2 {_HELO}: {_NON_FQDN} hostname"),
    "reject_invalid_helo_hostname": (_invalid_helo, f"501 5.5.2 {_HELO}: Invalid name"),
    "reject_unauth_pipelining": (
        lambda ctx: "pipelining" in ctx.signs,
        "503 5.5.0 Improper use of SMTP command pipelining",
    ),
    "reject_plaintext_session": (lambda ctx: ctx.client.tls is None, "450 4.7.1 Session encryption is required"),
}
_UNAUTHORISED = {
    "reject_unauth_destination": "554 5.7.1 Recipient address rejected: Relay access denied",
    "defer_unauth_destination": "454 4.7.1 Recipient address rejected: Relay access denied",
}
#: All that evaluate() knows.
NAMES = frozenset(
    {
        *("permit", "reject", "defer", "defer_if_permit", "defer_if_reject"),
        *("permit_mynetworks", "permit_inet_interfaces", "permit_auth_destination", "permit_sasl_authenticated"),
        *_NOBODY,
        *_REFUSALS,
        *_UNAUTHORISED,
        *LOGINS,
    }
)
