"""What the milter server writes down: mail log lines in Postfix's wording, counts, one event a message.

Contract: nothing here raises or waits. Texts that a stranger chose are escaped by the log itself. What failure means for
the mail: none; log and journal may lose, mail does not.
"""

import re
from typing import TYPE_CHECKING

from appliance.daemons.fronts import events
from appliance.engine.pipeline import Combined
from appliance.mail.context import Context
from appliance.mail.verdict import Decision
from appliance.observe import lines, maillog, metrics, oplog

if TYPE_CHECKING:
    from appliance.daemons.milterd.message import Message
    from appliance.daemons.milterd.outcome import Outcome
    from appliance.daemons.milterd.session import Session

log = oplog.get("milterd")
_connections = metrics.counter("postgate_milterd_connections_total", "Connections of MTAs to the milter server.")
_open = metrics.gauge("postgate_milterd_sessions", "Connections of MTAs that are open.")
_messages = metrics.counter("postgate_milterd_messages_total", "Messages that MTAs asked about.", ["result"])
_RESULTS = {verb: _messages.labels(verb) for verb in ("accept", "defer", "reject", "discard", "disconnect")}
_refusals = metrics.counter("postgate_milterd_refusals_total", "Refusals by stage and class.", ["stage", "class"])
_late = metrics.counter("postgate_milterd_deadlines_total", "Answers that were given by default.", ["step"])
_broken = metrics.counter("postgate_milterd_protocol_errors_total", "Connections that ended with an error of the MTA.")
_errors = metrics.counter("postgate_milterd_internal_errors_total", "Errors in our own code that an MTA met.")
_RUSH = "milter client that waits for no answer"
_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:(?:[ \t\r\n]*)([^\r\n]{1,500})", re.IGNORECASE | re.MULTILINE)


def connected(count: int) -> None:
    """An MTA is there; `count` are."""
    _connections.inc()
    _open.set(count)


def disconnected(count: int) -> None:
    """One less."""
    _open.set(count)


def _line(session: "Session", text: str) -> None:
    """About a message. An MTA waits for each answer; who does not is somebody that stuffs, and would fill the disk."""
    if session.rushed:
        maillog.capped(_RUSH, text)
    else:
        maillog.log(text)


def begun(session: "Session", message: "Message") -> None:
    """A message begins."""
    _line(session, lines.client(message.id, session.client.name, session.client.address))


def notes(session: "Session", stage: str, decision: Decision) -> None:
    """Checks that are watched (monitor), warn or inform."""
    for note in decision.notes:
        _line(session, f"{_id(session)}: {note}; {stage} from {session.who} helo=<{session.helo}>")


def _id(session: "Session") -> str:
    return session.message.id if session.message is not None else session.id


def decided(session: "Session", decision: Decision) -> None:
    """Why: for us, the reply does not say it."""
    if decision.deciding is not None:
        _line(session, f"{_id(session)}: {decision.verb} by {events.why(decision.deciding)}")


def rejected(session: "Session", stage: str, reply: str, recipient: str) -> None:
    """A client of the MTA is to be refused or put off."""
    message = session.message
    _refusals.labels(stage, reply[:1]).inc()
    _line(
        session,
        lines.judged(
            "milter-reject",
            stage,
            session.client.name,
            session.client.address,
            reply,
            queue_id=_id(session),
            sender=message.sender.text if message is not None else None,
            recipient=recipient or None,
            helo=session.helo,
        ),
    )


def ended(
    session: "Session",
    message: "Message",
    ctx: Context,
    combined: Combined,
    found: "Outcome",
    edits: int,
    size: int,
) -> None:
    """The message is answered."""
    result = combined.verb if not found.lacks else "defer"
    _RESULTS[result].inc()
    if combined.deciding is not None:
        _line(session, f"{message.id}: {combined.done} by {events.why(combined.deciding)}")
    if found.lacks:
        log.warning("put off: a milter cannot do this for some recipients only, or here", id=message.id, why=found.lacks)
    mta_id = session.machine.macro("i")
    message_id = _message_id(ctx)
    if not found.text:
        kept = f", quarantine ({found.kept})" if found.kept else ""
        _line(
            session,
            f"{message.id}: {'discard' if found.discard else 'passed'}: mta_id={mta_id or 'unknown'}, "
            f"from=<{message.sender.text}>, size={size}, nrcpt={len(message.recipients)}, edits={edits}{kept}",
        )
        _line(session, lines.message_id(message.id, message_id))
    if session.rushed and maillog.is_full(_RUSH):
        return
    reply = found.text or "250 2.0.0 Ok"
    events.emit(ctx, combined, message_id, reply, size, result, mta_id=mta_id, front="milter")


def _message_id(ctx: Context) -> str:
    found = _MESSAGE_ID.search(ctx.content.header) if ctx.content is not None else None
    return found[1].decode("utf-8", "replace").strip() if found else ""


def unread(message: "Message", trouble: OSError | None) -> None:
    """The content could not be kept for the checks."""
    if trouble is not None:
        log.error("no place for a message", id=message.id, why=trouble)


def odd(session: "Session", what: str) -> None:
    """An event that has no place where it stands."""
    maillog.capped("milter order", f"warning: {_id(session)}: odd order of events from the MTA: {what}")


def broken(peer: str, why: str, language: str) -> None:
    """What an MTA sends is not the milter protocol."""
    _broken.inc()
    spoken = f"; it looks like {language}" if language else ""
    maillog.capped("milter protocol", f"warning: not the milter protocol from {peer}: {why}{spoken}")


def late(session: "Session", step: str, seconds: float, default: str) -> None:
    """No decision in time: the default is answered."""
    _late.labels(step).inc()
    about = f"mta_id={session.machine.macro('i') or 'unknown'}, client={session.who}, front={session.door.name}"
    text = f"warning: {_id(session)}: no decision at {step} within {seconds:g} s: {default}; {about}"
    maillog.capped("milter deadline", text)


def internal(session: "Session", step: str, error: BaseException) -> None:
    """Our own mistake: the trace is here and nowhere else."""
    _errors.inc()
    log.error("internal error", id=_id(session), client=session.who, step=step, exc_info=error)
