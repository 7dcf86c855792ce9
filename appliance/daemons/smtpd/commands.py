"""Commands outside the transaction, and the table of all: (session, command) -> Step (RFC 5321 and its extensions).

Contract: a function answers exactly once, now or when its step was awaited. Wording is that of protocols.md 3.4.
What failure means for the mail: an exception is the session's `on_error`: 451, and nothing of the transaction stays; at
RCPT all but this recipient does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.daemons.smtpd import content, envelope, privileged
from appliance.daemons.smtpd.questions import ask, refused
from appliance.daemons.smtpd.rules import Offers
from appliance.daemons.smtpd.wire import Step
from appliance.mail.context import Stage
from appliance.mail.verdict import Decision
from appliance.protocol.smtp.command import Command
from appliance.protocol.smtp.reply import Reply

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

OK = b"250 2.0.0 Ok\r\n"
BYE = Reply(221, "2.0.0", ("Bye",))
_HELP = b"214 2.0.0 Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY STARTTLS HELP QUIT\r\n"
_VRFY = b"252 2.5.2 Cannot VRFY user, but will take mail for it if RCPT says so\r\n"
_EARLY: tuple[Stage, ...] = ("connect", "helo")


def hello(session: "Session", command: Command) -> Step:
    """EHLO and HELO: the transaction ends, the name counts from now on."""
    session.junk += 1
    session.reset()
    session.helo, session.esmtp = command.argument, command.verb == "EHLO"
    session.asked -= {"helo"}
    if session.trail:
        session.trail = tuple(verdict for verdict in session.trail if verdict.stage != "helo")
    if session.plugged is not None:
        return session.plugged.hello(session)
    if session.rules.delay_reject:
        greet(session)
        return None
    stages = [stage for stage in _EARLY if stage not in session.asked]
    return ask(session, stages, session.context, lambda decision: _decided(session, decision))


def _decided(session: "Session", decision: Decision) -> None:
    if refused(session, decision, "EHLO" if session.esmtp else "HELO"):
        session.helo = ""
    else:
        greet(session)


def greet(session: "Session") -> None:
    """The answer to EHLO or HELO."""
    session.ok(offer(session) if session.esmtp else f"250 {session.rules.hostname}\r\n".encode("ascii", "replace"))


def offer(session: "Session") -> bytes:
    """The answer to EHLO as this client may see it."""
    starttls = session.client.tls is None and session.door.name in session.front.contexts
    return session.door.offer(Offers(starttls, session.facts.xclient, session.rules.utf8, session.facts.ehlo_off))


def _rset(session: "Session", command: Command) -> Step:
    session.junk += 1
    session.reset()
    session.ok(OK)
    return None


def _noop(session: "Session", command: Command) -> Step:
    session.junk += 1
    session.ok(OK)
    return None


def _vrfy(session: "Session", command: Command) -> Step:
    session.junk += 1
    session.ok(_VRFY)
    return None


def _help(session: "Session", command: Command) -> Step:
    session.junk += 1
    session.ok(_HELP)
    return None


def _quit(session: "Session", command: Command) -> Step:
    goodbye(session, BYE)
    return None


def goodbye(session: "Session", reply: Reply) -> None:
    """The answer to QUIT, and the end."""
    session.ok(reply.encode())
    session.end = "quit"
    session.hang_up(linger=False)


def _not_here(session: "Session", command: Command) -> Step:
    session.refuse(f"502 5.5.1 Error: {command.verb} command not implemented")
    return None


Run = Callable[["Session", Command], Step]
VERBS: dict[str, Run] = {
    "EHLO": hello,
    "HELO": hello,
    "MAIL": envelope.mail,
    "RCPT": envelope.rcpt,
    "DATA": content.data,
    "BDAT": content.bdat,
    "RSET": _rset,
    "NOOP": _noop,
    "VRFY": _vrfy,
    "HELP": _help,
    "QUIT": _quit,
    "STARTTLS": privileged.starttls,
    "XCLIENT": privileged.xclient,
    "XFORWARD": privileged.xforward,
    **dict.fromkeys(("EXPN", "ETRN", "AUTH", "LHLO", "TURN"), _not_here),
}
#: Lines that need no parser.
PLAIN = {line: Command(line[:4].decode()) for line in (b"DATA\r\n", b"QUIT\r\n", b"RSET\r\n")}
#: Behind these a client has to wait for our answer (RFC 2920 section 3.1).
LAST_OF_GROUP = frozenset({"EHLO", "HELO", "NOOP", "VRFY", "HELP", "XCLIENT"})
