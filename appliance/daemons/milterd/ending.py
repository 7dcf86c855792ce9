"""Behind the end of a message: it is judged, and the decision becomes the edits and the one answer that the MTA gets.

Contract: `finish` gives the reply; the edits go out before it (`Session.front` writes them through the connection's
machine). The content is given back whatever happens. What failure means for the mail: what could not be read, or what the
MTA cannot be asked for, is put off.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from appliance.daemons.milterd import changes, outcome, record
from appliance.daemons.milterd.message import Message
from appliance.daemons.milterd.outcome import CONTINUE, DISCARD
from appliance.engine.pipeline import Combined, combine
from appliance.mail import apply
from appliance.mail.context import Context
from appliance.mail.verdict import Decision
from appliance.protocol.milter.packets import Modification, Reply
from appliance.protocol.milter.words import Actions

if TYPE_CHECKING:
    from appliance.daemons.milterd.session import Answer, Session

END = "END-OF-MESSAGE"
_TOO_BIG = "552 5.3.4 Error: message file too big"
_HEADER_OVER = "552 5.3.4 Message header is too large"
_NO_ROOM = "452 4.3.1 Insufficient system storage"


def finish(session: "Session", message: Message) -> "Answer":
    """The answer to the end of a message."""
    collector = message.collect()
    collector.end_of_header()
    if not message.recipients:
        if message.thrown:
            return _concluded(session, message, message.context("message"), Combined("discard"))
        return session.refuse(END, "554 5.5.1 Error: no valid recipients")
    if collector.too_big or collector.header_over or collector.trouble is not None:
        words = _TOO_BIG if collector.too_big else _HEADER_OVER if collector.header_over else _NO_ROOM
        record.unread(message, collector.trouble)
        combined = Combined("defer" if words is _NO_ROOM else "reject", words)
        return _concluded(session, message, message.context("message"), combined)
    if not message.at_data:  # versions 2 and 3 know no DATA
        return at_data(session, message, lambda reply: reply, lambda: _judge(session, message))
    return _judge(session, message)


def at_data(
    session: "Session",
    message: Message,
    then: Callable[[Reply], Reply],
    behind: Callable[[], "Answer"] | None = None,
) -> "Answer":
    """What stands at DATA. `then` hears the reply; `behind`: how it goes on where that accepts."""
    message.at_data = True

    def decided(decision: Decision) -> Reply:
        return then(DISCARD if decision.verb == "discard" else session.stage_reply(decision, "DATA"))

    answer = session.ask(("data",), message.context, decided, message.role)
    if behind is None:
        return answer
    if isinstance(answer, Reply):
        return behind() if answer is CONTINUE else answer
    return _goes_on(answer, behind)


async def _goes_on(answer: Awaitable[Reply], behind: Callable[[], "Answer"]) -> Reply:
    reply = await answer
    if reply is not CONTINUE:
        return reply
    found = behind()
    return found if isinstance(found, Reply) else await found


def _judge(session: "Session", message: Message) -> "Answer":
    content = message.collect().whole()
    ctx = message.context("message", content=content)
    if not session.door.standing[message.role]:
        return _concluded(session, message, ctx, Combined("accept"))
    answer = message.rules.engine.message(ctx, session.talks)
    if isinstance(answer, list):
        return _concluded(session, message, ctx, combine(answer))

    async def judged() -> Reply:
        return _concluded(session, message, ctx, combine(await answer))

    return judged()


def _concluded(session: "Session", message: Message, ctx: Context, combined: Combined) -> Reply:
    """Edits and answer; all of it is written down."""
    for group in combined.groups:
        record.notes(session, END, group.decision)
    agreement = session.machine.agreement
    assert agreement is not None
    found = outcome.conclude(combined, message.written, message.thrown, agreement, session.door.front.mixed)
    asked: list[Modification] = []
    if not found.text and not found.discard:
        asked = [*_modifications(session, message, ctx, found), *found.more]
        if missing := outcome.lacking(asked, agreement):
            found, asked = missing, []
    size = ctx.content.size if ctx.content is not None else 0
    reply = session.refuse(END, found.text) if found.text else found.reply
    record.ended(session, message, ctx, combined, found, len(asked), size)
    session.asked_for = asked
    if not found.text and not found.discard:
        session.front.accepted(message, combined)
    return reply


def _modifications(session: "Session", message: Message, ctx: Context, found: outcome.Outcome) -> list[Modification]:
    collector, agreement = message.collect(), session.machine.agreement
    assert agreement is not None
    asked = changes.of_header(collector.seen, b"Received", found.edits, agreement.leading_space)
    if ctx.content is not None and changes.touches_body(found.edits, collector.body_start):
        asked += changes.of_body(b"".join(apply.streamed(ctx.content.chunks(), found.edits)))
    arguments = agreement.may(Actions.ADD_RECIPIENT_ARGS)
    written = zip((one.address.text for one in message.recipients), message.written, strict=True)
    return asked + changes.of_envelope(found.edits, written, arguments)
