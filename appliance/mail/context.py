"""What is known about a mail while it is judged: one frozen Context per question to the engine.

Contract: a Context is complete for its stage and never changes; a later stage gets a new one that carries the
verdicts so far in `trail`. Whoever judges reads it and does no IO on it.
"""

from typing import Literal

import msgspec

from appliance.mail.identity import Identity
from appliance.mail.login import Login
from appliance.mail.ports import Content
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address

Stage = Literal["connect", "helo", "mail", "rcpt", "data", "message"]
STAGES: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt", "data", "message")

Role = Literal["inbound", "outbound", "reinject"]
ROLES: tuple[Role, ...] = ("inbound", "outbound", "reinject")

#: How far the client's name is proven (RFC 8601 `iprev`): `pass` = the PTR name leads back to the address;
#: `fail` = it does not; `none` = no PTR record; `temperror` = DNS did not answer; `unknown` = not asked (yet).
NameProof = Literal["pass", "fail", "none", "temperror", "unknown"]


class Tls(msgspec.Struct, frozen=True, gc=False):
    """Facts of a TLS session: protocol ("TLSv1.3"), cipher name, key bits; subject and issuer of the peer's
    certificate if any (the issuer: where an MTA in front says it)."""

    version: str
    cipher: str
    bits: int
    subject: str = ""
    issuer: str = ""


class Client(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who is connected. `address` is textual and compressed ("192.0.2.1", "2001:db8::1", or "local" for a unix socket).

    `name` is the forward-confirmed name or "unknown"; `reverse_name` is what PTR claims or "unknown". `server_address`
    and `server_port` are our end of its connection, "" and 0 where nobody knows.
    """

    address: str
    port: int = 0
    name: str = "unknown"
    reverse_name: str = "unknown"
    proof: NameProof = "unknown"
    tls: Tls | None = None
    trusted_relay: bool = False
    server_address: str = ""
    server_port: int = 0


class Recipient(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One accepted (or asked) recipient with its DSN parameters (RFC 3461), values as received, xtext not decoded."""

    address: Address
    notify: str = ""
    orcpt: str = ""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the engine.

    `transaction` is the id that replies, logs and the queue share. `sender` is None before MAIL; its `text` is "" for
    `<>`. `recipient` is set at stage rcpt; `recipients` are those accepted so far. `declared_size` is SIZE= (0 if none),
    `parameters` are all of MAIL as they were sent (names, and values or ""; not from a policy client).
    `signs` are suspicious facts seen on the wire: early_talk, bare_lf, bare_cr, lenient_syntax, pipelining, bad_helo.
    `now` is wall-clock time in seconds. `identity` is who sends, known from stage mail on (None: nobody looked). `trail`
    has what earlier stages found, and at each step what the steps before it in this stage found. `login` and `mta_id` are
    what an MTA in front tells: who has logged in there, and its own id ("": not yet; None: there is no such MTA).
    """

    stage: Stage
    role: Role = "inbound"
    listener: str = ""
    transaction: str = ""
    client: Client
    helo: str = ""
    esmtp: bool = True
    sender: Address | None = None
    smtputf8: bool = False
    declared_size: int = 0
    parameters: tuple[tuple[str, str], ...] = ()
    recipient: Recipient | None = None
    recipients: tuple[Recipient, ...] = ()
    content: Content | None = None
    identity: Identity | None = None
    signs: frozenset[str] = frozenset()
    now: float = 0.0
    trail: tuple[Verdict, ...] = ()
    login: Login | None = None
    mta_id: str | None = None
