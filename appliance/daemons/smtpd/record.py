"""What the SMTP server writes down: mail log lines in Postfix's wording, counts, one event a message.

Contract: nothing here raises or waits. Texts that a stranger chose are escaped by the log itself; no message content is
written but Message-ID. What failure means for the mail: none; log and journal may lose, mail does not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from appliance.addresses import Refused, Step
from appliance.addresses.expansion import SHOWN as LISTED
from appliance.daemons.fronts import events as message_events
from appliance.mail.context import Context
from appliance.mail.replies import on_one_line
from appliance.mail.verdict import Decision
from appliance.observe import lines, maillog, metrics, oplog, trouble
from appliance.queue.envelope import PROVEN, Trailer
from appliance.queue.errors import SpoolError

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session
    from appliance.daemons.smtpd.transaction import Transaction
    from appliance.engine.pipeline import Combined

log = oplog.get("smtpd")
#: Changes of addresses that are told for one message.
SHOWN = 100
_connections = metrics.tally("postgate_smtpd_connections_total", "SMTP connections.").counts
_messages = metrics.tally("postgate_smtpd_messages_total", "Messages behind the end of data.", ["result"]).counts
_messages |= {(verb,): 0 for verb in ("accept", "defer", "reject", "discard", "disconnect")}
_octets = metrics.tally("postgate_smtpd_octets_total", "Octets of messages that were accepted.").counts
_refusals = metrics.counter("postgate_smtpd_refusals_total", "Refusals by stage and class.", ["stage", "class"])
_errors = metrics.counter("postgate_smtpd_internal_errors_total", "Errors in our own code that a client met (451 4.3.0).")


def connected(session: "Session") -> None:
    """A session begins."""
    _connections[()] += 1
    maillog.log(lines.connect(session.client.name, session.client.address))


def disconnected(session: "Session") -> None:
    """A session ended."""
    name, address = session.client.name, session.client.address
    if session.end == "lost":
        maillog.log(lines.lost(session.stage, name, address))
    elif session.end == "timeout":
        maillog.log(lines.timed_out(session.stage, name, address))
    counts = {verb: (good, asked) for verb, (good, asked) in session.counts.items()}
    maillog.log(lines.disconnect(name, address, counts))


def rejected(session: "Session", stage: str, reply: str, recipient: str = "") -> None:
    """A client was refused or put off."""
    transaction = session.transaction
    _refusals.labels(stage, reply[:1]).inc()
    maillog.log(
        lines.judged(
            "reject",
            stage,
            session.client.name,
            session.client.address,
            on_one_line(reply),
            sender=transaction.sender.text if transaction else None,
            recipient=recipient or (_only(transaction) if transaction else None),
            protocol="ESMTP" if session.esmtp else "SMTP",
            helo=session.helo,
        )
    )
    if reply[0] == "5":
        session.front.state.errors(session.client.address)


def decided(session: "Session", decision: Decision) -> None:
    """Why a client was refused or put off, or its mail is thrown away: for us, the reply does not say it."""
    if decision.deciding is not None:
        maillog.log(f"{session.id}: {decision.verb} by {message_events.why(decision.deciding)}")


def _only(transaction: "Transaction") -> str | None:
    return transaction.recipients[0].address.text if len(transaction.recipients) == 1 else None


def notes(session: "Session", stage: str, decision: Decision) -> None:
    """Checks that are watched (monitor), warn or inform."""
    for note in decision.notes:
        maillog.log(f"{session.id}: {note}; {stage} from {session.who} helo=<{session.helo}>")


def discarded(session: "Session", stage: str, recipient: str) -> None:
    """An operator's discard: 250 and nothing kept."""
    maillog.log(
        lines.judged(
            "discard",
            stage,
            session.client.name,
            session.client.address,
            "thrown away by policy",
            queue_id=session.id,
            sender=session.transaction.sender.text if session.transaction else None,
            recipient=recipient or None,
            protocol="ESMTP" if session.esmtp else "SMTP",
            helo=session.helo,
        )
    )


def protocol_error(session: "Session", text: str, line: bytes) -> None:
    """A line that is no command of SMTP."""
    shown = line[:80].rstrip(b"\r\n").decode("utf-8", "replace")
    maillog.capped("protocol error", f"protocol error from {session.who} after {session.verb}: {text}: {shown}")
    session.front.state.errors(session.client.address)


def pipelined(session: "Session") -> None:
    """The client did not wait where it must."""
    maillog.log(lines.pipelining(session.verb, session.client.name, session.client.address, "octets behind it"))


def early(session: "Session") -> None:
    """The client spoke before our greeting."""
    maillog.log(lines.pipelining("CONNECT", session.client.name, session.client.address, "before the greeting"))


def received(session: "Session", transaction: "Transaction", trailer: Trailer) -> None:
    """An entry is about to be kept. Said before it is: who counts mail by the log must see whose it is before delivery,
    another process, says that it has it."""
    forwarded = transaction.forwarded
    original = f"{forwarded.get('NAME', 'unknown')}[{forwarded['ADDR']}]" if "ADDR" in forwarded else ""
    queue_id = trailer.queue_id
    before = forwarded.get("IDENT", "").removesuffix(PROVEN)
    maillog.log(
        lines.client(queue_id, session.client.name, session.client.address, original=original, original_id=before)
    )
    maillog.log(lines.message_id(queue_id, trailer.message_id), "cleanup")


def queued(trailer: Trailer) -> None:
    """An entry is on disk."""
    if trailer.keep != "deliver":
        maillog.log(f"{trailer.queue_id}: {trailer.keep}: {trailer.keep_reason}; from=<{trailer.sender}>", "cleanup")
    elif trailer.filter:
        maillog.log(f"{trailer.queue_id}: filter: {trailer.filter}; from=<{trailer.sender}>", "cleanup")
    _octets[()] += trailer.size


def proxied(session: "Session", trailer: Trailer, reply: str, text: str) -> None:
    """What a filter before the queue said of a message (`text`, for us alone), in Postfix's words."""
    recipients, name = trailer.recipients, trailer.filter.partition(":")[2]
    if session.transaction is not None:
        session.transaction.filtered = {"name": name, "said": text}
    maillog.log(
        lines.judged(
            "proxy-reject" if reply else "proxy-accept",
            "END-OF-MESSAGE",
            session.client.name,
            session.client.address,
            f"{name} said: {text}",
            queue_id=trailer.queue_id,
            sender=trailer.sender,
            recipient=recipients[0].address if len(recipients) == 1 else None,
            protocol="ESMTP" if session.esmtp else "SMTP",
            helo=session.helo,
        )
    )
    if not reply and session.lost:
        maillog.log(f"{trailer.queue_id}: the client is gone before the answer: it may send the message again")


def rewritten(transaction: "Transaction", queue_id: str, steps: Sequence[Step]) -> None:
    """What became of which address, and why: a line each, the first SHOWN of very many."""
    transaction.rewritten += steps
    for step in steps[:SHOWN]:
        maillog.log(f"{queue_id}: rewritten: {step}", "cleanup")
    if len(steps) > SHOWN:
        maillog.log(f"{queue_id}: rewritten: and {len(steps) - SHOWN} more", "cleanup")


def not_rewritten(session: "Session", transaction: "Transaction", why: Exception) -> None:
    """A map could not be asked, or cannot be meant so; or it refuses."""
    told = str(why) or "the tables took too long"
    if table := getattr(why, "table", ""):
        trouble.tables.note(f"table {table}", told, transaction.id)
    refused = isinstance(why, Refused)
    text = f"{why.place} refuses: {told}" if isinstance(why, Refused) else f"{told} -- not accepted, try again later"
    maillog.log(f"{'' if refused else 'warning: '}{transaction.id}: addresses: {text}; from=<{transaction.sender.text}>")


def abandoned(session: "Session", transaction: "Transaction") -> None:
    """The client went away before its message was kept."""
    maillog.log(f"{transaction.id}: not kept: the client is gone before the answer; from=<{transaction.sender.text}>")


def unkept(session: "Session", transaction: "Transaction", error: SpoolError) -> None:
    """The queue refused."""
    log.error("message not kept", id=transaction.id, client=session.who, why=error)


def internal(session: "Session", error: Exception) -> None:
    """Our own mistake: the trace is here and nowhere else."""
    _errors.inc()
    log.error("internal error", id=session.id, client=session.who, after=session.verb, exc_info=error)


def message(
    session: "Session",
    ctx: Context,
    combined: "Combined",
    message_id: str,
    reply: str,
    size: int,
    verdicts: bytes = b"",
) -> None:
    """The journal's event of a message that was answered. What could not be kept was put off, whatever was judged.
    `verdicts`: all of them, if they were written already."""
    result = "defer" if reply[0] == "4" and combined.verb in ("accept", "discard") else combined.verb
    _messages[result,] += 1
    if combined.deciding is not None:
        maillog.log(f"{ctx.transaction}: {combined.done} by {message_events.why(combined.deciding)}")
    more: dict[str, object] = {}
    if session.transaction is not None and (steps := session.transaction.rewritten):
        more["rewritten"] = [_step(step) for step in steps[:SHOWN]]
    if session.transaction is not None and session.transaction.filtered:
        more["filter"] = session.transaction.filtered
    message_events.emit(ctx, combined, message_id, reply, size, result, verdicts, **more)


def _step(step: Step) -> dict[str, object]:
    """A change of an address as the event has it; of a long list the first few."""
    return {
        "by": step.setting,
        "place": step.place,
        "from": step.before,
        "to": step.after[:LISTED],
        "count": len(step.after),
    }
