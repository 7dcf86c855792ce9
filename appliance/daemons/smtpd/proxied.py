"""A content filter before the queue has the message before we answer for it (Postfix: smtpd_proxy_filter).

Contract: only a message that all of its recipients would get alike, and nobody is to look at first, is handed over here;
our queue then holds nothing of it: who took it, the filter or whoever it passed it to, answers for it. Where groups of
recipients are treated differently, are more than MOST, or get it from several senders (members of a list with an owner),
the queue has the mail and the same filter gets it from there (Trailer.filter). A 5xx of the filter refuses, a 4xx puts
off, with its codes and our words. Recipients that it refuses by themselves, while it takes the message for others, are a
copy in quarantine; if it puts one off, nobody gets the content.
What failure means for the mail: 451; a filter that had all of it and was not heard any more may have taken it, as may one
whose client was gone before our answer: it comes again, twice perhaps, and is never lost.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from appliance.config.filters import PROXY
from appliance.daemons.fronts import events as message_events
from appliance.daemons.fronts.content import RamContent
from appliance.daemons.smtpd import record, trailer
from appliance.daemons.smtpd.body import FileContent
from appliance.engine.pipeline import Combined
from appliance.mail import apply
from appliance.mail.replies import Refusal, finish
from appliance.protocol.errors import Unavailable
from appliance.protocol.smtp.outgoing import Outgoing, Result
from appliance.queue.envelope import Trailer
from appliance.queue.outgoing import estimate, outgoing

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session
    from appliance.daemons.smtpd.transaction import Transaction

#: Recipients that any server takes at once (RFC 5321 4.5.3.1.8).
MOST = 100
PIECE = 256 * 1024
AWAY = "451 4.3.0 Error: queue file write error"
WRONG = "451 4.3.5 Server configuration problem"
_PREFIX = f"{PROXY}:"
_ENHANCED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}\Z")


class ClientGone(Exception):
    """The client hung up before the filter had all of its message: it gets none of it."""


class Outcome(NamedTuple):
    """What the client is told ("" = accepted), and the recipients (by index) whose copy goes to quarantine, with why."""

    reply: str
    refused: tuple[int, ...] = ()
    why: str = ""


def chosen(
    session: "Session",
    transaction: "Transaction",
    content: RamContent | FileContent,
    combined: Combined,
    message_id: str,
) -> tuple[Trailer, bytes] | None:
    """The message as a filter before the queue is to have it, with its verdicts; None: it goes to the queue."""
    if len(combined.store) != 1:
        return None
    [group] = combined.store
    if group.decision.keep != "deliver" or not trailer.content_filter(session, group).startswith(_PREFIX):
        return None
    whom = trailer.recipients(session, transaction, group, added=True)
    if not 0 < len(whom) <= MOST:
        return None
    verdicts = message_events.written((*session.trail, *transaction.trail, *group.decision.verdicts))
    made = trailer.build(session, transaction, group, whom, transaction.id, content, message_id, verdicts)
    return made, verdicts if len(combined.groups) == 1 else b""


async def hand_over(
    session: "Session", transaction: "Transaction", content: RamContent | FileContent, made: Trailer
) -> str:
    """Give it to its filter: what the client is told, "" if it is accepted. Raises ClientGone, and SpoolError where a
    copy for quarantine cannot be kept."""
    record.received(session, transaction, made)
    try:
        proxy = transaction.rules.proxy(made.filter.removeprefix(_PREFIX))
        results = await proxy.send(*_message(session, content, made), made.queue_id)
    except Unavailable as error:
        record.proxied(session, made, AWAY, str(error))
        return AWAY
    except ValueError as error:
        record.proxied(session, made, WRONG, str(error))
        return WRONG
    outcome = outcome_of(results, made.queue_id)
    record.proxied(session, made, outcome.reply, "; ".join(dict.fromkeys(result.text for result in results)))
    if outcome.refused:
        transaction.filtered["quarantined"] = [made.recipients[index].address for index in outcome.refused]
        await _quarantine(session, content, made, outcome)
    return outcome.reply


def _message(session: "Session", content: RamContent | FileContent, made: Trailer) -> tuple[Outgoing, Iterator[bytes]]:
    """Envelope and octets."""
    pieces: Iterator[bytes]
    if isinstance(content, RamContent):
        octets = apply.whole(content.octets, made.edits) if made.edits else content.octets
        size, pieces = len(octets), iter((octets,))
    else:
        size, pieces = estimate(made), apply.streamed(content.chunks(PIECE), made.edits)
    return outgoing(made, range(len(made.recipients)), size, together=True), _as_long_as_wanted(session, pieces)


def _as_long_as_wanted(session: "Session", pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The end of the content is only said to the filter if somebody is there to hear what it says."""
    for piece in pieces:
        yield piece
        if session.lost:
            raise ClientGone


async def _quarantine(session: "Session", content: RamContent | FileContent, made: Trailer, outcome: Outcome) -> None:
    """The copy of those whom the filter refused while it took the message for others. Raises SpoolError."""
    copy = msgspec.structs.replace(
        made,
        queue_id=next(session.front.ids),
        recipients=tuple(made.recipients[index] for index in outcome.refused),
        keep="quarantine",
        keep_reason=f"refused by the filter, accepted for other recipients: {outcome.why}",
    )
    if isinstance(content, RamContent):
        await session.front.intake.commit(content.octets, copy)
    else:
        await content.file.commit(copy)
    record.queued(copy)


# ---------------------------------------------------------------------- what its answers mean


def outcome_of(results: tuple[Result, ...], transaction: str) -> Outcome:
    """Any put off: put off. All refused: refused. Else accepted."""
    deferred = next((result for result in results if result.kind == "deferred"), None)
    if deferred is not None:
        return Outcome(_reply(deferred, transaction))
    refused = tuple(index for index, result in enumerate(results) if result.kind == "failed")
    if len(refused) == len(results):
        return Outcome(_reply(results[0], transaction))
    return Outcome("", refused, results[refused[0]].text if refused else "")


def _reply(result: Result, transaction: str) -> str:
    """Its codes, our words: what it found is for the log."""
    permanent = result.kind == "failed"
    digit = "5" if permanent else "4"
    code = result.code
    if not (550 <= code <= 554 if permanent else 450 <= code <= 452):
        code = {"5.3.4": 552, "5.6.7": 550}.get(result.enhanced, 554) if permanent else 451
    enhanced = result.enhanced
    if not (enhanced.startswith(digit) and _ENHANCED.match(enhanced)):
        enhanced = f"{digit}.7.1"
    text = "Message refused" if permanent else "Service unavailable, please try again later"
    return finish(Refusal(code, enhanced, text), transaction)
