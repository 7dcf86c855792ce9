"""Behind the end of data: the message is judged, kept, and answered (design sections 3, 5, 11).

Contract: 250 only when every entry of the message is on disk. Entries that wait for an operator are committed before
those that are delivered, so that a failure in between repeats nothing inside. What a content filter before the queue
takes is not kept here (proxied). A client that is gone before the commit gets nothing stored (it comes again); once a
commit has begun, it ends whatever the client does. What failure means for the mail: no room is 452, any other trouble
451; nothing of it is delivered.
"""

from typing import TYPE_CHECKING

import msgspec

from appliance.daemons.fronts import events as message_events
from appliance.daemons.fronts.content import RamContent
from appliance.daemons.smtpd import addresses, proxied, record, trailer
from appliance.daemons.smtpd.body import BdatReceiver, DataReceiver, FileContent
from appliance.daemons.smtpd.content import BARE, trouble
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.transaction import Transaction
from appliance.daemons.smtpd.wire import Step
from appliance.engine.pipeline import Combined, combine
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.ports import Unavailable
from appliance.queue.envelope import Trailer
from appliance.queue.errors import SpoolError, SpoolFull
from appliance.queue.large import LargeFile

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

END = "END-OF-MESSAGE"
_SIGNS = frozenset({"bare_lf", "bare_cr", "nul"})


def finish(session: "Session", receiver: DataReceiver | BdatReceiver) -> Step:
    """All content is there: answer the message."""
    transaction = session.transaction
    if transaction is None or transaction.decoder is None:
        raise RuntimeError("content without a transaction")
    if transaction.body is not None:
        transaction.body.end()
    if odd := transaction.decoder.signs & _SIGNS:
        session.signs |= odd
    if problem := _problem(session, transaction):
        record.rejected(session, END, problem)
        ctx, size = transaction.context("message"), transaction.body.size if transaction.body else 0
        session.reset()
        session.reject(problem)
        _tell(session, ctx, Combined("reject" if problem[0] == "5" else "defer"), "", problem, size)
        return None
    return _judge(session, transaction, receiver)


def _problem(session: "Session", transaction: Transaction) -> str:
    """Why this content is not even judged, or ""."""
    body, decoder = transaction.body, transaction.decoder
    if decoder is not None and decoder.refused:
        return BARE.format(host=session.rules.hostname)
    if body is None:
        return "451 4.3.0 Error: content is lost"
    if body.too_big:
        hit("size", f"message {transaction.id} of {session.who}")
        return "552 5.3.4 Error: message file too big"
    return trouble(body.trouble) if body.trouble is not None else ""


async def _judge(session: "Session", transaction: Transaction, receiver: DataReceiver | BdatReceiver) -> None:
    body = transaction.body
    assert body is not None
    content = body.content()
    if not content.header_complete:
        hit(
            "header_size", f"message {transaction.id} of {session.who}: checks see the first {len(content.header)} octets"
        )
    ctx = transaction.context("message", content=content)
    combined = await _combined(session, transaction, ctx)
    message_id = trailer.message_id(content.header)
    if session.lost:  # it never heard of a 250, and comes again
        record.abandoned(session, transaction)
        session.reset()
        return
    reply, verdicts = combined.reply, b""
    if combined.verb in ("accept", "discard"):
        try:
            if (to_proxy := await _for_proxy(session, transaction, content, combined, message_id)) is not None:
                made, verdicts = to_proxy
                reply = await proxied.hand_over(session, transaction, content, made)
                combined = _refused(combined, reply)
            else:
                reply, verdicts = "", await _keep(session, transaction, content, combined, message_id)
        except SpoolError as error:
            reply = trouble(error)
            record.unkept(session, transaction, error)
        except Unavailable as why:
            reply = addresses.NOT_REWRITTEN
            record.not_rewritten(session, transaction, why)
        except proxied.ClientGone:
            record.abandoned(session, transaction)
            session.reset()
            return
    _answer(session, transaction, receiver, combined, reply)
    _tell(session, ctx, combined, message_id, reply or "250 2.0.0 Ok", content.size, verdicts)
    session.reset()


async def _for_proxy(
    session: "Session", transaction: Transaction, content: RamContent | FileContent, combined: Combined, message_id: str
) -> tuple[Trailer, bytes] | None:
    """What a filter before the queue is to have, with its addresses rewritten. Raises Unavailable."""
    chosen = proxied.chosen(session, transaction, content, combined, message_id)
    if chosen is None or not addresses.needed(session, transaction):
        return chosen
    [group] = combined.store
    made, steps = await addresses.apply_to(session, transaction, group, chosen[0], content, last=True)
    if len(made.recipients) > proxied.MOST or made.expanded or any(one.owner for one in made.recipients):
        return None
    record.rewritten(transaction, made.queue_id, steps)
    return made, chosen[1]


def _refused(combined: Combined, reply: str) -> Combined:
    """The same where a filter before the queue had the last word."""
    if not reply:
        return combined
    return msgspec.structs.replace(combined, verb="reject" if reply[0] == "5" else "defer", reply=reply, store=())


def _tell(
    session: "Session",
    ctx: Context,
    combined: Combined,
    message_id: str,
    reply: str,
    size: int,
    verdicts: bytes = b"",
) -> None:
    """The event of a message that is answered: a second answer would be taken for that of the next command."""
    try:
        record.message(session, ctx, combined, message_id, reply, size, verdicts)
    except Exception as error:
        record.internal(session, error)


async def _combined(session: "Session", transaction: Transaction, ctx: Context) -> Combined:
    if not ctx.recipients:
        return Combined("discard")
    answer = transaction.rules.engine.message(ctx, session.talks)
    groups = answer if isinstance(answer, list) else await answer
    for group in groups:
        if group.decision.notes:
            record.notes(session, END, group.decision)
    combined = combine(groups)
    if session.plugged is not None and combined.verb == "accept":
        said = await session.plugged.ask(ctx)
        if said is not None:
            return _edited(combined, said.edits) if said.verb == "accept" else Combined(said.verb, said.reply)
    return combined


def _edited(combined: Combined, edits: tuple[Edit, ...]) -> Combined:
    """The same with further edits of every message that is stored."""
    replace = msgspec.structs.replace
    store = [replace(one, decision=replace(one.decision, edits=(*one.decision.edits, *edits))) for one in combined.store]
    return replace(combined, store=tuple(store))


def _answer(
    session: "Session",
    transaction: Transaction,
    receiver: DataReceiver | BdatReceiver,
    combined: Combined,
    reply: str,
) -> None:
    if not reply and combined.verb in ("accept", "discard"):
        size = f"{transaction.octets()} bytes " if isinstance(receiver, BdatReceiver) else ""
        session.ok(f"250 2.0.0 Ok: {size}queued as {transaction.id}\r\n".encode("ascii"))
        session.errors = session.junk = 0
        try:
            _praise(session, transaction, combined)
        except Exception as error:  # it is answered
            record.internal(session, error)
        return
    reply = reply or f"451 4.7.1 Service unavailable [{transaction.id}]"
    record.rejected(session, END, reply)
    if combined.verb == "disconnect" or reply.startswith(("421", "521")):
        session.dismiss(reply, "policy")
    else:
        session.reject(reply)


def _praise(session: "Session", transaction: Transaction, combined: Combined) -> None:
    """Client and sender are known for mail that was accepted."""
    address = session.client.address
    if session.front.senders is not None:
        session.front.senders.accepted(_senders(transaction, combined))
    if session.front.connections.praise(address, session.loop.time()):
        session.front.state.accepted(address)


def _senders(transaction: Transaction, combined: Combined) -> tuple[str, ...]:
    """The identities whose mail is delivered: who sent by the envelope, and who by the content."""
    if "deliver" not in [group.decision.keep for group in combined.store]:
        return ()
    found = [transaction.identity, *[trailer.identity(transaction, group) for group in combined.store]]
    return tuple(dict.fromkeys([identity.key for identity in found if identity is not None]))


# ---------------------------------------------------------------------- keeping


async def _keep(
    session: "Session", transaction: Transaction, content: RamContent | FileContent, combined: Combined, message_id: str
) -> bytes:
    """Commit every group's entry; all verdicts as they were written, if there is one group. Raises SpoolError,
    Unavailable (addresses), ClientGone."""
    if not combined.store:
        record.discarded(session, END, "")
        return b""
    groups = sorted(combined.store, key=lambda group: group.decision.keep == "deliver")
    whom = [trailer.recipients(session, transaction, group, added=group is groups[-1]) for group in groups]
    groups = [group for group, those in zip(groups, whom, strict=True) if those]
    whom = [those for those in whom if those]
    if not groups:
        record.discarded(session, END, "")
        return b""
    trail = (*session.trail, *transaction.trail)
    verdicts = [message_events.written((*trail, *group.decision.verdicts)) for group in groups]
    ids = [transaction.id] + [next(session.front.ids) for _ in groups[1:]]
    trailers: list[Trailer] = [
        trailer.build(session, transaction, group, those, queue_id, content, message_id, found)
        for group, those, queue_id, found in zip(reversed(groups), reversed(whom), ids, reversed(verdicts), strict=True)
    ][::-1]
    if addresses.needed(session, transaction):
        for index, group in enumerate(groups):
            trailers[index], steps = await addresses.apply_to(
                session, transaction, group, trailers[index], content, last=group is groups[-1]
            )
            record.rewritten(transaction, trailers[index].queue_id, steps)
        if session.lost:
            raise proxied.ClientGone
    for one in trailers:
        record.received(session, transaction, one)
    if isinstance(content, RamContent):
        commits = [session.front.intake.commit(content.octets, one) for one in trailers]
    else:
        files = _copies(session, content, len(trailers))
        commits = [file.commit(one) for file, one in zip(files, trailers, strict=True)]
    error: Exception | None = None
    for commit in commits:
        try:
            await commit
        except SpoolError as trouble_:
            error = trouble_
    if error is not None:
        raise error
    for one in trailers:
        record.queued(one)
    return verdicts[0] if len(combined.groups) == 1 else b""


def _copies(session: "Session", content: FileContent, count: int) -> list[LargeFile]:
    """The file of the message and as many copies as further groups need, none committed. Raises SpoolError."""
    copies: list[LargeFile] = []
    try:
        for _ in range(count - 1):
            copy = session.front.intake.large()
            if copy is None:
                raise SpoolFull("no granted file is left for a copy")
            copies.append(copy)
            for piece in content.chunks():
                copy.write(piece)
    except (SpoolError, OSError):
        for copy in copies:
            copy.abort()
        raise
    return [*copies, content.file]
