"""What the queue is told of a message besides its content: the trailer of an entry (queue.envelope).

Contract: pure but for the clock. What failure means for the mail: an exception is the session's: 451, nothing is kept.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from appliance.config.filters import PROXY
from appliance.daemons.fronts.content import RamContent
from appliance.daemons.smtpd.body import FileContent
from appliance.daemons.smtpd.transaction import Transaction
from appliance.engine.pipeline import Group
from appliance.mail.context import Recipient
from appliance.mail.edits import Edit
from appliance.mail.identity import Identity
from appliance.protocol.smtp.address import parse_address
from appliance.protocol.smtp.data import DataDecoder
from appliance.queue.envelope import PROVEN, Origin, QueuedRecipient, Trailer, pack_verdicts

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:(?:[ \t\r\n]*)([^\r\n]{1,500})", re.IGNORECASE | re.MULTILINE)
_NAME = b"message-id"
_OF_ENVELOPE = frozenset({"add_recipient", "delete_recipient"})


def identity(transaction: Transaction, group: Group) -> Identity | None:
    """Who sends, by all that was found for these recipients."""
    for verdict in reversed(group.decision.verdicts):
        if verdict.identity is not None:
            return verdict.identity
    return transaction.identity


def build(
    session: "Session",
    transaction: Transaction,
    group: Group,
    whom: tuple[QueuedRecipient, ...],
    queue_id: str,
    content: RamContent | FileContent,
    message_id: str,
    verdicts: bytes,
) -> Trailer:
    """What the queue keeps of the message for this group, which goes to `whom`.
    `verdicts`: all that were found for it, written (fronts.events).
    """
    decision, parameters = group.decision, transaction.parameters
    sender = _sender(transaction, decision.edits)
    sent_by = identity(transaction, group)
    return Trailer(
        queue_id=queue_id,
        received=session.front.clock(),
        sender=sender.value,
        recipients=whom,
        size=content.size,
        origin=_origin(session, transaction),
        body=parameters.body,
        smtputf8=transaction.utf8,
        ret=_argument(sender, "RET") or parameters.ret,
        envid=_argument(sender, "ENVID") or parameters.envid,
        message_id=message_id,
        proven=_proven(session, transaction) if sent_by is None else sent_by.answerable,
        keep=decision.keep,
        keep_reason=decision.keep_reason,
        edits=decision.edits,
        verdicts=pack_verdicts(verdicts),
        policy=transaction.rules.snapshot.hash,
        filter=content_filter(session, group),
        plain=isinstance(transaction.decoder, DataDecoder) and transaction.decoder.plain,
    )


def content_filter(session: "Session", group: Group) -> str:
    """The filter that gets this mail, behind the queue or before it ("proxy:..."): a rule's word comes before the
    listener's."""
    listen = session.door.listen
    return group.decision.filter or (f"{PROXY}:{listen.proxy_filter}" if listen.proxy_filter else listen.content_filter)


def _proven(session: "Session", transaction: Transaction) -> bool:
    """Was the sender of mail that a filter hands back authenticated when it came?"""
    return session.door.role == "reinject" and transaction.forwarded.get("IDENT", "").endswith(PROVEN)


def _origin(session: "Session", transaction: Transaction) -> Origin:
    client = session.client
    return Origin(
        client_address=client.address,
        client_name=client.name,
        client_port=client.port,
        helo=session.helo,
        protocol=transaction.protocol,
        listener=session.door.name,
        role=session.door.role,
        tls=f"{client.tls.version} {client.tls.cipher}" if client.tls else "",
    )


def _sender(transaction: Transaction, edits: Sequence[Edit]) -> Edit:
    """The sender, or what a milter made of it: the last one counts."""
    changed = [edit for edit in edits if edit.op == "sender"]
    return changed[-1] if changed else Edit("sender", value=transaction.sender.text)


def _argument(edit: Edit, name: str) -> str:
    """The ESMTP argument of this name, "" without it."""
    if not edit.name:
        return ""
    found = (word.partition("=") for word in edit.name.split())
    return next((value for key, _, value in found if key.upper() == name), "")


def recipients(session: "Session", transaction: Transaction, group: Group, *, added: bool) -> tuple[QueuedRecipient, ...]:
    """Who gets this copy: the group, or whom it is redirected to; blind copies too. Milters take recipients out, and put
    some in: these, which are nobody's copy, are in this one if `added`. Who is named twice gets one (checks and filters
    have seen both)."""
    found = _recipients(session, transaction, group, added)
    if len(found) < 2:
        return found
    there: dict[tuple[str, ...], QueuedRecipient] = {}
    for one in found:
        there.setdefault(one.copy, one)
    return tuple(there.values())


def _recipients(session: "Session", transaction: Transaction, group: Group, added: bool) -> tuple[QueuedRecipient, ...]:
    decision = group.decision
    named = [transaction.recipients[index] for index in group.recipients]
    if _OF_ENVELOPE.isdisjoint([edit.op for edit in decision.edits]):
        return _queued_all(session, group, named)
    put_in: dict[str, Edit] = {}
    there = {one.address.text.lower() for one in transaction.recipients}
    for edit in decision.edits:
        key = edit.value.lower()
        if edit.op == "add_recipient" and added:
            put_in[key] = edit
        elif edit.op == "delete_recipient":
            put_in.pop(key, None)
            there.discard(key)  # who is put in again behind that gets it all the same
            named = [one for one in named if one.address.text.lower() != key]
    more = tuple(_put_in(edit) for key, edit in put_in.items() if key not in there)
    return (*(_queued_all(session, group, named) if named else ()), *more)


def _put_in(edit: Edit) -> QueuedRecipient:
    """A recipient of a milter's."""
    made = _added(edit.value)
    notify = _argument(edit, "NOTIFY") or made.notify
    return QueuedRecipient(made.address, made.domain, notify, _argument(edit, "ORCPT"), made.original)


def _queued_all(session: "Session", group: Group, named: Sequence[Recipient]) -> tuple[QueuedRecipient, ...]:
    decision = group.decision
    if decision.redirect:
        queued = [_added(decision.redirect, named[0].address.text if len(named) == 1 else "")]
    else:
        queued = [_queued(session, recipient) for recipient in named]
    known = {one.address.lower() for one in queued}  # who gets it anyway gets no blind copy of it
    return (*queued, *(copy for copy in map(_added, decision.bcc) if copy.address.lower() not in known))


def _queued(session: "Session", recipient: Recipient) -> QueuedRecipient:
    address = recipient.address
    text, domain = address.text, address.domain
    if not domain or (domain == session.rules.unrelayed and address.local.lower() == "postmaster"):
        domain = session.rules.home  # ours (RFC 5321 4.5.1) is that of our first domain
        text = f"{address.local}@{domain}"
    return QueuedRecipient(text, domain, recipient.notify, recipient.orcpt, address.text if text != address.text else "")


def _added(address: str, original: str = "") -> QueuedRecipient:
    parsed, _ = parse_address(address.encode(), utf8=True)
    return QueuedRecipient(parsed.text, parsed.domain, "NEVER" if not original else "", "", original)


def message_id(header: bytes) -> str:
    """The Message-ID field's value, "" if there is none."""
    lower = header.lower()
    at = lower.find(_NAME)
    while at >= 0:  # far cheaper than a search without regard to case
        if found := _MESSAGE_ID.match(header, at):
            return found[1].decode("utf-8", "replace").strip()
        at = lower.find(_NAME, at + 1)
    return ""
