"""STARTTLS, and the commands of listed relays: XCLIENT and XFORWARD (RFC 3207; protocols.md 5.4, 5.5).

Contract: what came behind STARTTLS in the clear is never looked at: the session ends. TLS forgets everything that the
client said; who it is (PROXY, XCLIENT) and for whom it speaks (XFORWARD) stays. Unlisted clients are refused (threats
B3, B12). What failure means for the mail: a failed handshake ends the session, a refused command changes nothing.
"""

from typing import TYPE_CHECKING

import msgspec

from appliance.daemons.smtpd import record, tls
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.questions import named
from appliance.daemons.smtpd.wire import Step
from appliance.mail.context import Client
from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.attributes import TEMPORARILY_UNAVAILABLE, UNAVAILABLE, parse_attributes
from appliance.protocol.smtp.command import Command

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

READY = b"220 2.0.0 Ready to start TLS\r\n"
NOT_ALLOWED = "550 5.7.0 Error: insufficient authorization"
IN_TRANSACTION = "503 5.5.1 Error: MAIL transaction in progress"
_OK = b"250 2.0.0 Ok\r\n"


def starttls(session: "Session", command: Command) -> Step:
    """STARTTLS."""
    if session.client.tls is not None:
        session.refuse("554 5.5.1 Error: TLS already active")
        return None
    if session.door.name not in session.front.contexts or "STARTTLS" in session.facts.ehlo_off:
        session.refuse("502 5.5.1 Error: command not implemented")
        return None
    return _upgrade(session)


async def _upgrade(session: "Session") -> None:
    session.reset()
    if session.waiting:  # with the command, or read in the same turn of the loop
        record.pipelined(session)
        session.dismiss("554 5.5.0 Error: SMTP protocol synchronization", "pipelining")
        return
    session.ok(READY)
    session.flush()
    patience = session.front.patience(session.rules.limits.timeout_tls)
    deadline = session.loop.time() + patience
    context = session.front.contexts[session.door.name]
    try:
        assert session.transport is not None
        transport, facts = await tls.upgrade(session.transport, session, context, patience)
    except OSError as error:  # asyncio says ConnectionAbortedError when the time is over
        if session.loop.time() >= deadline - 0.01:
            hit("timeout_tls", session.who)
        record.log.info("TLS handshake failed", client=session.who, why=error)
        session.end = "tls"
        session.cut()
        session.connection_lost(None)
        return
    session.transport, session.secured = transport, True
    forget(session)
    session.client = msgspec.structs.replace(session.client, tls=facts)


def forget(session: "Session") -> None:
    """Everything that the client said; what is known of the connection stays."""
    session.reset()
    session.helo, session.esmtp = "", False
    session.asked, session.trail = frozenset(), ()


def _attributes(session: "Session", command: Command, verb: str) -> dict[str, str] | None:
    """What a listed relay says, outside a transaction; None: refused, and answered."""
    if not session.facts.xclient:
        session.refuse(NOT_ALLOWED)
        return None
    if session.transaction is not None:
        session.refuse(IN_TRANSACTION)
        return None
    try:
        return dict(parse_attributes(verb, command.argument))
    except ProtocolError as error:
        session.refuse(error.reply)
        return None


def xclient(session: "Session", command: Command) -> Step:
    """XCLIENT: the session goes on as that of another client."""
    attributes = _attributes(session, command, "XCLIENT")
    return None if attributes is None else _impersonate(session, attributes)


async def _impersonate(session: "Session", attributes: dict[str, str]) -> None:
    await named(session)
    forget(session)
    session.forwarded = {}
    session.client = client = _other(session.client, attributes)
    session.facts = session.door.facts(client.address)._replace(xclient=True)
    session.client = client = msgspec.structs.replace(client, trusted_relay=session.facts.trusted_relay)
    if "ADDR" in attributes and "NAME" not in attributes:
        session.naming = session.front.name_of(session)
    helo = attributes.get("HELO", "")
    session.helo = "" if helo == UNAVAILABLE else helo
    session.esmtp = attributes.get("PROTO") == "ESMTP"
    session.ok(session.rules.banner)


def _other(client: Client, attributes: dict[str, str]) -> Client:
    """`client` with what XCLIENT says of it."""
    changed: dict[str, object] = {}
    if "ADDR" in attributes:
        address = attributes["ADDR"]
        changed |= {"address": "unknown" if address == UNAVAILABLE else address, "port": 0}
        changed |= {"name": "unknown", "reverse_name": "unknown", "proof": "unknown"}
    for name, field in (("PORT", "port"), ("DESTPORT", "server_port")):
        if name in attributes:
            changed[field] = int(attributes[name]) if attributes[name] != UNAVAILABLE else 0
    if "DESTADDR" in attributes:
        changed["server_address"] = attributes["DESTADDR"] if attributes["DESTADDR"] != UNAVAILABLE else ""
    if "NAME" in attributes:
        changed |= _name(attributes["NAME"])
    if "REVERSE_NAME" in attributes:
        name = attributes["REVERSE_NAME"]
        changed["reverse_name"] = "unknown" if name in (UNAVAILABLE, TEMPORARILY_UNAVAILABLE) else name
    return msgspec.structs.replace(client, **changed)


def _name(name: str) -> dict[str, object]:
    if name == UNAVAILABLE:
        return {"name": "unknown", "reverse_name": "unknown", "proof": "none"}
    if name == TEMPORARILY_UNAVAILABLE:
        return {"name": "unknown", "reverse_name": "unknown", "proof": "temperror"}
    return {"name": name, "reverse_name": name, "proof": "pass"}


def xforward(session: "Session", command: Command) -> Step:
    """XFORWARD: facts for the log of the next transaction."""
    attributes = _attributes(session, command, "XFORWARD")
    if attributes is None:
        return None
    session.forwarded = session.forwarded | {
        name: "unknown" if value in (UNAVAILABLE, TEMPORARILY_UNAVAILABLE) else value
        for name, value in attributes.items()
    }
    session.ok(_OK)
    return None
