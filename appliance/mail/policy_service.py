"""What a policy service is asked, by whom: the port, and a Context in the attributes of Postfix's protocol.

Contract: pure. Attributes are those of Postfix 3.9, in its order; what this gateway does not know is empty. What failure
means for the mail: a service that does not answer raises Unavailable; its own default says what follows.
"""

import re
from collections.abc import Awaitable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from appliance.mail.context import Context, Stage
from appliance.mail.own_trace import own_trace
from appliance.protocol.policy import ATTRIBUTES, Answer
from appliance.protocol.smtp.address import Address

#: Stages in the words of the protocol.
STATES: dict[Stage, str] = {
    "connect": "CONNECT",
    "helo": "EHLO",
    "mail": "MAIL",
    "rcpt": "RCPT",
    "data": "DATA",
    "message": "END-OF-MESSAGE",
}
_ODD = re.compile(r"[^!-~]|[<>()\\\";@]")


class Place(NamedTuple):
    """Where a service listens: a unix socket, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"inet:[{self.host}]:{self.port}" if ":" in self.host else f"inet:{self.host}:{self.port}"


def parse_place(text: str) -> Place:
    """ "inet:host:port", "inet:[v6]:port", "unix:/path". Raises ValueError."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest.startswith("/"):
        return Place(path=rest)
    host, colon, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if kind == "inet" and colon and host and port.isdecimal() and 0 < int(port) < 65536:
        return Place(host=host, port=int(port))
    raise ValueError(f'"{text}": write "inet:host:port", "inet:[v6]:port" or "unix:/path"')


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service as it is reached: `places` are tried in order, `tries` times, all within `timeout` seconds. A kept
    connection is used for `requests` requests (0: no limit), at most `ttl` seconds, and `idle` seconds without one."""

    name: str
    places: tuple[Place, ...]
    timeout: float = 10.0
    tries: int = 2
    retry_delay: float = 1.0
    idle: float = 300.0
    ttl: float = 1000.0
    requests: int = 0
    connections: int = 50


class PolicyServices(Protocol):
    """Asks policy services. Raises Unavailable, which says who, which step and how long. `pause`: for `sleep`."""

    def ask(self, service: Service, attributes: Mapping[str, str], transaction: str) -> Awaitable[Answer]: ...

    def pause(self, seconds: float) -> Awaitable[None]: ...


def internal(address: Address | None) -> str:
    """An address as Postfix has it inside: without quotes."""
    if address is None or not address.text:
        return ""
    return f"{address.local}@{address.domain}" if address.domain else address.local


def _numeric(address: str) -> str:
    """A unix socket is this host."""
    return "127.0.0.1" if address == "local" else address


def attributes(ctx: Context, context: str = "") -> dict[str, str]:
    """The request about `ctx`; `context` is policy_context."""
    helo = "" if ctx.stage == "connect" else ctx.helo  # it may be known already, and no Postfix says it there
    known = {
        "protocol_state": "HELO" if ctx.stage == "helo" and not ctx.esmtp else STATES[ctx.stage],
        "protocol_name": "ESMTP" if helo and ctx.esmtp else "SMTP",
        "client_address": _numeric(ctx.client.address),
        "client_name": ctx.client.name,
        "client_port": str(ctx.client.port or "unknown"),
        "reverse_client_name": ctx.client.reverse_name,
        "server_address": _numeric(ctx.client.server_address),
        "server_port": str(ctx.client.server_port or ""),
        "helo_name": _ODD.sub("?", helo),
        "sender": internal(ctx.sender),
        "recipient_count": "0",
        "size": str(ctx.declared_size),
        "encryption_keysize": "0",
        "policy_context": context,
        "compatibility_level": "3.9",
        "mail_version": "3.9.0",
    }
    if ctx.sender is not None:
        known["instance"] = ctx.transaction
    if ctx.recipients:
        known["queue_id"] = ctx.transaction
    if ctx.login is not None:
        known |= {"sasl_method": ctx.login.method, "sasl_username": ctx.login.user, "sasl_sender": ctx.login.author}
    known |= _about_recipients(ctx) | _about_tls(ctx)
    return {name: known.get(name, "") for name in ATTRIBUTES if name != "request"}


def _about_recipients(ctx: Context) -> dict[str, str]:
    if ctx.recipient is not None:
        return {"recipient": internal(ctx.recipient.address)}
    if ctx.stage not in ("data", "message"):
        return {}
    told = {"recipient_count": str(len(ctx.recipients))}
    if len(ctx.recipients) == 1:
        told["recipient"] = internal(ctx.recipients[0].address)
    if ctx.content is not None and ctx.stage == "message":
        told["size"] = str(ctx.content.size - own_trace(ctx.content.header))
    return told


def _about_tls(ctx: Context) -> dict[str, str]:
    tls = ctx.client.tls
    if tls is None:
        return {}
    return {"encryption_protocol": tls.version, "encryption_cipher": tls.cipher, "encryption_keysize": str(tls.bits)}
