"""Events of an MTA and our answer to each: (session, event) -> the reply, or something to await.

Contract: `answer` is for events that wait for one, `heed` for the others. An event that has no place where it stands is
answered too: with a deferral where it belongs to a message, for what was not seen as a whole was not judged. Parameters
of MAIL and RCPT that say nothing about whether mail is wanted are the MTA's affair. What failure means for the mail: an
exception is the connection's: a deferral.
"""

from collections.abc import Callable
from typing import Any

from appliance.daemons.milterd import ending, record
from appliance.daemons.milterd.message import Message
from appliance.daemons.milterd.outcome import CONTINUE
from appliance.daemons.milterd.session import Answer, Session
from appliance.mail.context import Client, Context, Recipient, Stage
from appliance.mail.network import textual
from appliance.mail.verdict import Decision
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.packets import LETTERS, FromMta, Reply
from appliance.protocol.smtp.command import Command, mail_parameters, parse

_EARLY: tuple[Stage, ...] = ("connect", "helo", "mail")
_HEARD = (b"SIZE", b"SMTPUTF8")
TOO_MANY = "452 4.5.3 Error: too many recipients"
OUT_OF_PLACE = "451 4.3.0 Error: internal protocol error, please try again later"


def answer(session: Session, event: FromMta) -> Answer:
    """The reply to an event that waits for one."""
    message = session.message
    if message is not None and message.answer is not None and not isinstance(event, p.Mail):
        return message.answer
    if session.machine.odd:
        record.odd(session, session.machine.odd)
        return _out_of_place(session, event)
    return _ANSWERS[type(event)](session, event)


def heed(session: Session, event: FromMta) -> None:
    """An event without an answer."""
    if isinstance(event, p.Abort):
        session.drop()
    elif isinstance(event, p.QuitNc):
        session.forget()


def _out_of_place(session: Session, event: FromMta) -> Answer:
    if isinstance(event, p.Helo):
        session.helo = text(event.name)
        return CONTINUE
    if isinstance(event, p.Data | p.EndOfHeader) and session.message is not None and session.message.recipients:
        return CONTINUE  # twice, or late: it says nothing that is not known
    return session.refuse(LETTERS[type(event)].name, OUT_OF_PLACE)


def text(octets: bytes) -> str:
    """What a stranger wrote, with 8-bit octets as the SMTP server shows them."""
    return octets.decode("ascii", "backslashreplace")


# ---------------------------------------------------------------------- the connection


def _connect(session: Session, event: p.Connect) -> Answer:
    session.forget()
    session.renew()
    address = address_of(event)
    ours, port = _server(session)
    trusted = session.door.trusts(address)
    session.client = Client(
        address=address, port=event.port, trusted_relay=trusted, server_address=ours, server_port=port
    )
    session.role = session.door.role(address)
    session.naming = session.front.name_of(session)
    if session.rules.delay_reject:
        return CONTINUE
    return session.ask(("connect",), session.context, lambda decision: session.stage_reply(decision, "CONNECT"))


def _server(session: Session) -> tuple[str, int]:
    """The MTA's end of the connection. Sendmail's {daemon_addr} is what it listens on, which may be any address of its;
    {if_addr} is the one that the client came to."""
    macro = session.machine.macro
    address, port = textual(macro("if_addr") or macro("daemon_addr")), macro("daemon_port")
    return "" if address in ("0.0.0.0", "::") else address, int(port) if port.isdecimal() and len(port) < 6 else 0


def address_of(event: p.Connect) -> str:
    """The client's address as the SMTP server would have it: Sendmail marks IPv6, Postfix does not."""
    if event.family not in ("4", "6"):
        return "local"
    address = text(event.address).lower().removeprefix("ipv6:")
    return address.removeprefix("::ffff:") if "." in address else address


def _helo(session: Session, event: p.Helo) -> Answer:
    session.helo = text(event.name)
    session.asked -= {"helo"}
    session.trail = tuple(verdict for verdict in session.trail if verdict.stage != "helo")
    session.look_at_tls()
    if session.rules.delay_reject:
        return CONTINUE
    stages: list[Stage] = [stage for stage in _EARLY[:2] if stage not in session.asked]
    return session.ask(stages, session.context, lambda decision: session.stage_reply(decision, "HELO"))


# ---------------------------------------------------------------------- the envelope


def _command(session: Session, start: bytes, event: p.Mail | p.Rcpt) -> Command:
    """The SMTP command again. Raises ProtocolError."""
    parameters = [part for part in event.parameters if part.partition(b"=")[0].upper() in _HEARD]
    utf8 = any(part.upper() == b"SMTPUTF8" for part in parameters)
    if session.message is not None:
        utf8, parameters = session.message.utf8, []
    command = parse(b" ".join([start + _complete(session, event.address), *parameters]), utf8=utf8)
    if command.lenient:
        session.signs |= {"lenient_syntax"}
    return command


def _complete(session: Session, address: bytes) -> bytes:
    """Local mail has addresses without a domain: they are this host's. (A bare postmaster stays.)"""
    bare = address.strip(b"<>")
    if not bare or b"@" in bare or bare.lower() == b"postmaster":
        return address
    return b"<" + bare + b"@" + session.rules.hostname.encode("ascii", "replace") + b">"


def _mail(session: Session, event: p.Mail) -> Answer:
    session.drop()
    session.renew()
    session.look_at_tls()
    try:
        command = _command(session, b"MAIL FROM:", event)
        parameters = mail_parameters(command)
    except ProtocolError as error:
        return session.refuse("MAIL", error.reply or OUT_OF_PLACE)
    message = session.message = Message(session, command, parameters)

    def make(stage: Stage) -> Context:
        return message.context(stage) if stage == "mail" else session.context(stage, message.role)

    def decided(decision: Decision) -> Reply:
        record.begun(session, message)
        message.discard = decision.verb == "discard"
        reply = session.stage_reply(decision, "MAIL")
        if reply is not CONTINUE:
            message.answer = reply
        return reply

    stages: list[Stage] = [stage for stage in _EARLY if stage not in session.asked]
    return session.ask(stages, make, decided, message.role)


def _rcpt(session: Session, event: p.Rcpt) -> Answer:
    message = session.message
    if message is None:
        return session.refuse("RCPT", OUT_OF_PLACE)
    try:
        command = _command(session, b"RCPT TO:", event)
    except ProtocolError as error:
        return session.refuse("RCPT", error.reply or OUT_OF_PLACE)
    assert command.address is not None
    if len(message.recipients) + len(message.thrown) >= session.rules.limits.recipients:
        return session.refuse("RCPT", TOO_MANY)
    recipient = Recipient(address=command.address)
    message.asking = recipient, event.address

    def decided(decision: Decision) -> Reply:
        reply = session.stage_reply(decision, "RCPT", recipient.address.text)
        if reply is not CONTINUE:
            message.refused += 1
        else:
            message.take(decision.verb == "discard")
        return reply

    return session.ask(("rcpt",), lambda stage: message.context(stage, recipient=recipient), decided, message.role)


# ---------------------------------------------------------------------- the content


def _data(session: Session, event: p.Data) -> Answer:
    message = session.message
    if message is None:
        return session.refuse("DATA", OUT_OF_PLACE)

    def decided(reply: Reply) -> Reply:
        if reply is not CONTINUE:
            message.answer = reply
        return reply

    return ending.at_data(session, message, decided)


def _header(session: Session, event: p.Header) -> Answer:
    if session.message is not None:
        agreed = session.machine.agreement
        blank = b"" if agreed is not None and agreed.leading_space else b" "
        session.message.collect().field(event.name, blank + event.value)
    return CONTINUE


def _end_of_header(session: Session, event: p.EndOfHeader) -> Answer:
    if session.message is not None:
        session.message.collect().end_of_header()
    return CONTINUE


def _body(session: Session, event: p.Body) -> Answer:
    if session.message is not None:
        session.message.collect().body(event.chunk)
    return CONTINUE


def _end_of_message(session: Session, event: p.EndOfMessage) -> Answer:
    if session.message is None:
        return session.refuse("END_OF_MESSAGE", OUT_OF_PLACE)
    session.message.collect().body(event.chunk)
    return ending.finish(session, session.message)


def _unknown(session: Session, event: FromMta) -> Answer:
    return CONTINUE


_ANSWERS: dict[type, Callable[[Session, Any], Answer]] = {
    p.Connect: _connect,
    p.Helo: _helo,
    p.Mail: _mail,
    p.Rcpt: _rcpt,
    p.Data: _data,
    p.Header: _header,
    p.EndOfHeader: _end_of_header,
    p.Body: _body,
    p.EndOfMessage: _end_of_message,
    p.Unknown: _unknown,
}
