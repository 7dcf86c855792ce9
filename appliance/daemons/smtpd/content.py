"""DATA and BDAT: content begins, comes, and is put into its body (RFC 5321 4.1.1.4, RFC 3030).

Contract: nothing that stands behind DATA before our 354 is read as content or as commands. A BDAT chunk's octets are
always consumed before its answer, so a refusal never turns content into commands; BDAT and DATA do not mix.
What failure means for the mail: a refused beginning leaves the transaction or ends it; nothing was promised.
"""

from typing import TYPE_CHECKING

from appliance.daemons.smtpd import record
from appliance.daemons.smtpd.body import BdatReceiver, Body, DataReceiver
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.questions import ask, refused
from appliance.daemons.smtpd.transaction import Transaction
from appliance.daemons.smtpd.wire import Step
from appliance.mail.verdict import Decision
from appliance.protocol.smtp.command import Command, bdat_chunk
from appliance.protocol.smtp.data import BdatDecoder, DataDecoder
from appliance.queue.errors import SpoolError, SpoolFull

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

_START = b"354 End data with <CR><LF>.<CR><LF>\r\n"
SYNCHRONIZATION = "554 5.5.0 Error: SMTP protocol synchronization"
FULL = "452 4.3.1 Insufficient system storage"
WRITE_ERROR = "451 4.3.0 Error: queue file write error"
BARE = "550 5.5.2 {host} Error: bare <LF> received"


def _problem(session: "Session") -> str:
    """Why no content may come now, or ""."""
    transaction = session.transaction
    if transaction is None:
        return "503 5.5.1 Error: need MAIL command"
    if transaction.failed:
        return "503 5.5.1 Error: transaction failed, send RSET"
    if transaction.recipients or transaction.discarded:
        return ""
    return "554 5.5.1 Error: no valid recipients" if transaction.refused else "503 5.5.1 Error: need RCPT command"


def trouble(error: SpoolError) -> str:
    """What a client is told of trouble with the queue."""
    return FULL if isinstance(error, SpoolFull) else WRITE_ERROR


def unread(session: "Session") -> bool:
    """Do the octets of a chunk come now, or lines that did not wait for 354, although nobody takes them?"""
    transaction = session.transaction
    if session.verb == "DATA":
        return transaction is not None and transaction.decoder is None and session.waiting
    return session.verb == "BDAT" and (transaction is None or transaction.decoder is None)


def unplaced(session: "Session") -> Body | None:
    """The body that waits for its file."""
    body = session.transaction.body if session.transaction is not None else None
    return body if body is not None and body.placing is not None else None


async def placed(session: "Session", body: Body, receiver: DataReceiver | BdatReceiver | None = None) -> None:
    """Wait until the body has its file (or has none: then it is in trouble); all is there if `receiver` is given."""
    await body.placed()
    if session.lost:
        session.reset()
    elif receiver is not None and (step := session.on_received(receiver)) is not None:
        await step


# ---------------------------------------------------------------------- DATA


def data(session: "Session", command: Command) -> Step:
    """DATA: 354, then content."""
    if session.waiting:
        record.pipelined(session)
        session.reset()
        session.dismiss(SYNCHRONIZATION, "pipelining")
        return None
    transaction, problem = session.transaction, _problem(session)
    if not problem and transaction is not None and transaction.decoder is not None:
        problem = "503 5.5.1 Error: DATA behind BDAT"
    if problem or transaction is None:
        session.refuse(problem)
        return None
    return ask(session, ("data",), transaction.context, lambda decision: _begin(session, transaction, decision))


def _begin(session: "Session", transaction: Transaction, decision: Decision) -> None:
    if session.waiting:  # it came while the question was open, whatever is answered: the same as behind DATA at once
        record.pipelined(session)
        session.reset()
        session.dismiss(SYNCHRONIZATION, "pipelining")
        return
    if refused(session, decision, "DATA"):
        session.reset()
        return
    if decision.verb == "discard":
        transaction.discarded, transaction.recipients = transaction.discarded + transaction.recipients, []
    decoder = DataDecoder(transaction.rules.smtp.bare_lf)
    session.receiving = DataReceiver(decoder, transaction.open_body(decoder))
    session.out.append(_START)  # DATA counts as accepted when its message is


# ---------------------------------------------------------------------- BDAT


def bdat(session: "Session", command: Command) -> Step:
    """BDAT: a chunk follows at once, whatever we think of it."""
    size, last = bdat_chunk(command)
    if "CHUNKING" in session.facts.ehlo_off:
        return _throw_away(session, size, "502 5.5.1 Error: command not implemented")
    transaction, problem = session.transaction, _problem(session) or _chunk_problem(session, size, last)
    if problem or transaction is None:
        return _throw_away(session, size, problem)
    if transaction.decoder is None:
        return ask(
            session,
            ("data",),
            transaction.context,
            lambda decision: _begin_chunks(session, transaction, decision, size, last),
        )
    return _receive(session, transaction, size, last)


def _chunk_problem(session: "Session", size: int, last: bool) -> str:
    transaction = session.transaction
    assert transaction is not None
    if not size and not last:
        return "551 5.7.1 Error: a chunk without octets"
    limit = transaction.rules.smtp.size_limit
    if limit and transaction.octets() + size > limit:
        hit("size", f"BDAT of {session.who}")
        transaction.failed = True
        transaction.drop()
        return "552 5.3.4 Chunk exceeds message size limit"
    return ""


def _throw_away(session: "Session", size: int, answer: str) -> Step:
    """Consume a chunk that is not wanted; then `answer` ("" = it was said already)."""
    receiver = BdatReceiver(size, None, False, answer)
    if not size:
        return chunk(session, receiver)
    session.receiving = receiver
    return None


def _begin_chunks(session: "Session", transaction: Transaction, decision: Decision, size: int, last: bool) -> None:
    if refused(session, decision, "BDAT"):
        session.reset()
        _throw_away(session, size, "")
        return
    if decision.verb == "discard":
        transaction.discarded, transaction.recipients = transaction.discarded + transaction.recipients, []
    transaction.open_body(BdatDecoder(transaction.rules.smtp.bare_lf))
    _receive(session, transaction, size, last)


def _receive(session: "Session", transaction: Transaction, size: int, last: bool) -> Step:
    session.receiving = BdatReceiver(size, transaction, last)
    return None


def chunk(session: "Session", receiver: BdatReceiver) -> Step:
    """The answer to a chunk that is not the last of its message."""
    transaction = receiver.transaction
    if transaction is None or transaction.body is None or transaction.decoder is None:
        if receiver.answer:
            session.refuse(receiver.answer)
        return None
    problem = ""
    if transaction.decoder.refused:
        problem = BARE.format(host=session.rules.hostname)
    elif transaction.body.trouble is not None:
        problem = trouble(transaction.body.trouble)
    if problem:
        record.rejected(session, "BDAT", problem)
        transaction.failed = True
        transaction.drop()
        session.reject(problem)
    else:
        session.ok(f"250 2.0.0 Ok: {receiver.size} bytes\r\n".encode("ascii"))
    return None
