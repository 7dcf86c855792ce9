"""MAIL and RCPT: the envelope of a transaction (RFC 5321 3.3, RFC 1870, RFC 3461, RFC 6531).

Contract: each answers once. The address that is judged is the very value that is kept and relayed. What failure means for
the mail: a refused MAIL leaves no transaction, a refused RCPT leaves that recipient out.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from appliance.daemons.smtpd import addresses, record
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.questions import ask, refused
from appliance.daemons.smtpd.transaction import Transaction
from appliance.daemons.smtpd.wire import Step
from appliance.mail.context import Context, Recipient, Stage
from appliance.mail.ports import Unavailable
from appliance.mail.verdict import Decision
from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.command import Command, mail_parameters, rcpt_parameters
from appliance.protocol.smtp.parameters import MailParameters, RcptParameters

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

Counted = Callable[[str, int, float], Awaitable[int]]

_SENDER_OK = b"250 2.1.0 Ok\r\n"
_RECIPIENT_OK = addresses.OK
_FULL = "452 4.3.1 Insufficient system storage"
_TOO_BIG = "552 5.3.4 Message size exceeds fixed limit"
_NO_MAIL_PARAMETERS, _NO_RCPT_PARAMETERS = MailParameters(), RcptParameters()
_STAGES: tuple[Stage, ...] = ("connect", "helo", "mail")
#: Answers of 452 to recipients over the limit that are no errors yet (Postfix: smtpd_recipient_overshoot_limit).
OVERSHOOT = 1000


def mail(session: "Session", command: Command) -> Step:
    """MAIL: a transaction begins, with the rules that are in force now."""
    session.renew()
    try:
        parameters = mail_parameters(command) if command.parameters else _NO_MAIL_PARAMETERS
    except ProtocolError as error:
        session.refuse(error.reply)
        return None
    if problem := _sequence_problem(session, command):
        session.refuse(problem)
        return None
    if session.messages:
        session.id = next(session.front.ids)
    if problem := _resource_problem(session, parameters):
        session.reject(problem)
        return None
    limits = session.rules.limits
    if session.messages >= limits.messages_per_session > 0:
        hit("messages_per_session", session.who)
        session.dismiss(f"421 4.7.0 {session.rules.hostname} Error: too many messages in one session", "messages")
        return None
    session.messages += 1
    transaction = session.transaction = Transaction(session, command, parameters)
    if limits.message_rate:
        return _rated_mail(session, transaction)
    return _ask_mail(session, transaction)


def _ask_mail(session: "Session", transaction: Transaction) -> Step:
    def make(stage: Stage) -> Context:
        return transaction.context(stage) if stage == "mail" else session.context(stage)

    stages = [stage for stage in _STAGES if stage not in session.asked]
    return ask(session, stages, make, lambda decision: _mail_decided(session, decision))


def _mail_decided(session: "Session", decision: Decision) -> None:
    if refused(session, decision, "MAIL"):
        session.reset()
        return
    if session.transaction is not None:
        session.transaction.discard = decision.verb == "discard"
    session.ok(_SENDER_OK)


def _sequence_problem(session: "Session", command: Command) -> str:
    """Why MAIL may not come now, or ""."""
    if not session.helo:
        return "503 5.5.1 Error: send HELO/EHLO first"
    if session.transaction is not None:
        return "503 5.5.1 Error: nested MAIL command"
    if command.parameters and not session.esmtp:
        return "555 5.5.4 Unsupported option: send EHLO first"
    off = session.facts.ehlo_off
    if off and any(
        {"RET": "DSN", "ENVID": "DSN", "BODY": "8BITMIME"}.get(key, key) in off for key, _ in command.parameters
    ):
        return "555 5.5.4 Unsupported option: it is not offered to this client"
    return ""


def _resource_problem(session: "Session", parameters: MailParameters) -> str:
    limit = session.rules.smtp.size_limit
    if limit and parameters.size > limit:
        hit("size", f"SIZE={parameters.size} of {session.who} [{session.id}]")
        return _TOO_BIG
    if not session.front.has_room(session.rules, parameters.size):
        hit("space", f"MAIL of {session.who} put off [{session.id}]")
        return _FULL
    return ""


def rcpt(session: "Session", command: Command) -> Step:
    """RCPT: one more recipient, if the engine takes it."""
    transaction = session.transaction
    if transaction is None or transaction.decoder is not None:
        session.refuse(f"503 5.5.1 Error: {'need MAIL command' if transaction is None else 'content has begun'}")
        return None
    try:
        parameters = rcpt_parameters(command) if command.parameters else _NO_RCPT_PARAMETERS
    except ProtocolError as error:
        session.refuse(error.reply)
        return None
    if command.parameters and ("DSN" in session.facts.ehlo_off or not session.esmtp):
        session.refuse("555 5.5.4 Unsupported option: DSN is not offered")
        return None
    if len(transaction.recipients) + len(transaction.discarded) >= session.rules.limits.recipients:
        _too_many(session, transaction)
        return None
    assert command.address is not None
    notify = parameters.notify if session.door.role != "inbound" else addresses.without_success(parameters.notify)
    recipient = Recipient(address=command.address, notify=notify, orcpt=parameters.orcpt)
    if session.rules.limits.recipient_rate:
        return _rated_rcpt(session, transaction, recipient)
    return _ask_rcpt(session, transaction, recipient)


def _ask_rcpt(session: "Session", transaction: Transaction, recipient: Recipient) -> Step:
    return ask(
        session,
        ("rcpt",),
        lambda stage: transaction.context(stage, recipient=recipient),
        lambda decision: _rcpt_decided(session, transaction, recipient, decision),
    )


def _too_many(session: "Session", transaction: Transaction) -> None:
    if not transaction.overshoot:
        hit("recipients", f"message {transaction.id} of {session.who}")
    transaction.overshoot += 1
    session.errors += transaction.overshoot > OVERSHOOT
    session.reject("452 4.5.3 Error: too many recipients")


def _rcpt_decided(session: "Session", transaction: Transaction, recipient: Recipient, decision: Decision) -> Step:
    if refused(session, decision, "RCPT", recipient.address.text):
        transaction.refused += 1
        return None
    if decision.verb == "discard" or transaction.discard:
        transaction.discarded.append(recipient)
        record.discarded(session, "RCPT", recipient.address.text)
        session.ok(_RECIPIENT_OK)
        return None
    if transaction.rules.rewriter is not None and session.door.role != "reinject":
        return addresses.expand(session, transaction, recipient)
    transaction.recipients.append(recipient)
    session.ok(_RECIPIENT_OK)
    return None


# ---------------------------------------------------------------------- rates (Postfix's anvil limits)


async def _rated_mail(session: "Session", transaction: Transaction) -> None:
    limits, state = session.rules.limits, session.front.state
    if await _over(session, "message", limits.message_rate, state.messages):
        session.reset()
        session.reject(f"450 4.7.1 Error: too much mail from {session.client.address}")
    elif (step := _ask_mail(session, transaction)) is not None:
        await step


async def _rated_rcpt(session: "Session", transaction: Transaction, recipient: Recipient) -> None:
    limits, state = session.rules.limits, session.front.state
    if await _over(session, "recipient", limits.recipient_rate, state.recipients):
        session.reject(f"450 4.7.1 Error: too many recipients from {session.client.address}")
    elif (step := _ask_rcpt(session, transaction, recipient)) is not None:
        await step


async def _over(session: "Session", what: str, limit: int, counted: Counted) -> bool:
    """Is this client over `limit` a period? While stated is away nobody is."""
    try:
        count = await counted(session.client.address, 1, session.rules.limits.rate_period)
    except Unavailable:
        return False
    if count > limit:
        hit(f"{what}_rate", session.who)
    return count > limit
