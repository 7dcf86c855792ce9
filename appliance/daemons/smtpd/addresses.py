"""Addresses rewritten: a recipient at RCPT, where it can still be put off alone; sender, copies and header fields behind
the end of data (Postfix's cleanup).

Contract: one answer to each RCPT. What comes back from a content filter was rewritten before the filter had it: nothing
is done at a listener of role reinject. A redirected message goes where it is sent to, unchanged.
What failure means for the mail: a table that cannot answer, or maps that lead nowhere, are 451; an alias that nobody has
in a domain of aliases is 550 5.1.1.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Literal

import msgspec

from appliance.addresses import Completion, Expansion, Owner, Refused, Rewriter, Step, Unreasonable, header
from appliance.daemons.fronts.content import RamContent
from appliance.daemons.smtpd import record
from appliance.daemons.smtpd.body import FileContent
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.transaction import Transaction
from appliance.daemons.smtpd.wire import Step as Wait
from appliance.engine.pipeline import Group
from appliance.mail import apply
from appliance.mail.context import Recipient
from appliance.mail.later import answered
from appliance.mail.ports import Unavailable
from appliance.protocol.smtp import xtext
from appliance.protocol.smtp.address import NULL_SENDER, Address, parse_address
from appliance.queue.envelope import Expanded, QueuedRecipient, Trailer

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

OK = b"250 2.1.5 Ok\r\n"
#: Recipients of one message behind all aliases: above this the client must send the rest in another transaction.
MOST = 10_000
#: Answers of 452 for that which are no errors yet.
OVERSHOOT = 100
#: Seconds for all the look-ups of one recipient, or of one message behind its end.
DEADLINE = 60.0
LATE = "451 4.3.0 Recipient address rejected: its aliases cannot be looked up just now, please try again later"
UNKNOWN = "550 5.1.1 Recipient address rejected: no such mailbox here"
NOT_REWRITTEN = "451 4.3.0 Error: addresses cannot be rewritten just now, please try again later"


# ---------------------------------------------------------------------- RCPT


def expand(session: "Session", transaction: Transaction, recipient: Recipient) -> Wait:
    """Answer an RCPT that was accepted: with what its address becomes it is a recipient."""
    rewriter = transaction.rules.rewriter
    assert rewriter is not None
    work = _expand(session, transaction, recipient, rewriter)
    waiting = rewriter.now(work)
    return waiting if isinstance(waiting, Coroutine) else None


async def _expand(session: "Session", transaction: Transaction, recipient: Recipient, rewriter: Rewriter) -> None:
    address = complete(recipient.address, transaction.rules.hostname)
    if transaction.expanded >= MOST:
        _refuse(session, transaction, recipient, _too_many(session, transaction))
        return
    try:
        if rewriter.at_once:
            found = await rewriter.reached(address)
        else:
            async with asyncio.timeout(DEADLINE):
                found = await rewriter.reached(address)
    except Refused as why:
        record.not_rewritten(session, transaction, why)
        reply = why.reply
    except (Unavailable, TimeoutError) as why:
        record.not_rewritten(session, transaction, why)
        reply = LATE
        session.errors += isinstance(why, Unreasonable)  # each costs us as much as a map can
    else:
        fits = found is None or not transaction.recipients or transaction.expanded + len(found.finals) <= MOST
        reply = ("" if fits else _too_many(session, transaction)) if found else UNKNOWN
    if session.lost:
        return
    if reply:
        _refuse(session, transaction, recipient, reply)
        return
    assert found is not None
    transaction.expansions[recipient.address.text] = found
    transaction.expanded += len(found.finals)
    transaction.recipients.append(recipient)
    session.ok(OK)


def _too_many(session: "Session", transaction: Transaction) -> str:
    """The reply to a recipient that must come with another copy of the message."""
    if not transaction.overshoot:
        hit("recipients", f"message {transaction.id} of {session.who}: {transaction.expanded} behind aliases")
    transaction.overshoot += 1
    session.errors += transaction.overshoot > OVERSHOOT
    return "452 4.5.3 Error: too many recipients"


def _refuse(session: "Session", transaction: Transaction, recipient: Recipient, reply: str) -> None:
    record.rejected(session, "RCPT", reply, recipient.address.text)
    transaction.refused += 1
    session.refuse(reply)


def complete(address: Address, hostname: str) -> Address:
    """A bare postmaster is that of this host."""
    return address if address.domain else Address(address.local, hostname, f"{address.text}@{hostname}", address.utf8)


# ---------------------------------------------------------------------- behind the end of data


async def apply_to(
    session: "Session",
    transaction: Transaction,
    group: Group,
    trailer: Trailer,
    content: RamContent | FileContent,
    *,
    last: bool,
) -> tuple[Trailer, list[Step]]:
    """What is kept for a group of recipients, with all addresses rewritten, and how. Copies that are nobody's go with the
    `last` group. Raises Unavailable."""
    rules, role, client = transaction.rules, session.door.role, session.client.address
    rewriter, completion = rules.rewriter, rules.completion(role, client)
    work = _Rewriting(rewriter, transaction, trailer)
    alone = role == "reinject" or bool(group.decision.redirect)
    of_headers = (
        rewriter is not None and rewriter.of_headers and (completion.active or rules.rewrites_header(role, client))
    )
    try:
        async with asyncio.timeout(DEADLINE):
            if rewriter is not None:
                await work.envelope(alone=alone, last=last)
            if not alone and (of_headers or completion.active):
                await work.header(content, rewriter if of_headers else None, completion)
    except TimeoutError:
        raise Unavailable(f"look-ups took more than {DEADLINE:g} s") from None
    except Refused as why:
        raise Unavailable(f"{why.place}: {why.text}") from None
    return work.trailer, work.steps


def needed(session: "Session", transaction: Transaction) -> bool:
    """Is there anything that `apply_to` could do?"""
    rules = transaction.rules
    return rules.rewriter is not None or rules.completion(session.door.role, session.client.address).active


class _Rewriting:
    """One entry of the queue on its way."""

    def __init__(self, rewriter: Rewriter | None, transaction: Transaction, trailer: Trailer) -> None:
        self._asked, self._transaction, self.trailer = rewriter, transaction, trailer
        self.steps: list[Step] = []
        self._there: dict[tuple[str, ...], QueuedRecipient] = {}
        self._told: dict[str, tuple[str, ...]] = {}
        self._expanded: list[Expanded] = []

    @property
    def _rewriter(self) -> Rewriter:
        assert self._asked is not None
        return self._asked

    async def envelope(self, *, alone: bool, last: bool) -> None:
        """Sender, recipients, copies; of what is left `alone` only who gets its notices."""
        if alone:
            await self.answers()
            return
        await self.sender()
        await self.recipients()
        if last:
            await self.copies()

    async def sender(self) -> None:
        """The envelope's sender, and who gets a copy of what it sends."""
        address, steps = await self._rewriter.sender(_parsed(self.trailer.sender))
        self._sender = address
        self.steps += steps
        if steps:
            self._change(sender=address.text)
        await self.answers()

    async def answers(self) -> None:
        """Who gets the notices, where the sender is an alias at one of our own names."""
        sender = _parsed(self.trailer.sender)
        if not self.trailer.proven or not await answered(self._rewriter.only_aliases(sender.domain)):
            return
        if told := await self._rewriter.told(sender):
            self._told[sender.text] = tuple(one.text for one in told)
            self._change(told=self._told)

    async def recipients(self) -> None:
        """Each recipient, and who gets a copy of the mail for it."""
        rewriter = self._rewriter
        for queued in self.trailer.recipients:
            named = queued.original or queued.address
            expansion = self._transaction.expansions.get(named)
            copies: list[Expansion] = []
            if expansion is None:  # somebody's copy, or a milter's
                expansion = await rewriter.recipient(_parsed(queued.address))
            else:
                copies = await rewriter.recipient_bcc(expansion.address)
            self.steps += expansion.steps
            self._put(queued, named, expansion)
            self._copied(copies)
        self._change(recipients=tuple(self._there.values()), told=self._told, expanded=tuple(self._expanded))

    async def copies(self) -> None:
        """Copies of everything, and of what this sender sends."""
        self._copied([*await self._rewriter.sender_bcc(self._sender), *await self._rewriter.always_bcc()])
        self._change(recipients=tuple(self._there.values()), told=self._told)

    async def header(self, content: RamContent | FileContent, rewriter: Rewriter | None, completion: Completion) -> None:
        """Header fields that hold addresses."""
        block = content.header if content.header_complete else _begin(content)
        found = await header.rewritten(rewriter, block[: apply.reach(block)], self.trailer.edits, completion)
        if not found.whole:
            hit("header_size", f"message {self.trailer.queue_id}: addresses beyond {header.MOST} are not rewritten")
        self.steps += found.steps
        self._change(edits=found.edits)

    def _copied(self, copies: list[Expansion]) -> None:
        for copy in copies:
            self.steps += copy.steps
            self._put(QueuedRecipient(copy.address.text, copy.address.domain, "NEVER"), copy.address.text, copy)

    def _put(self, queued: QueuedRecipient, named: str, expansion: Expansion) -> None:
        """What a recipient became. Who is others now is reported as that, and not once more by each of them."""
        notify, orcpt = queued.notify, queued.orcpt
        if not orcpt and (expansion.is_expanded or expansion.address.text != named):
            orcpt = _original(named)
        if expansion.is_expanded and "SUCCESS" in notify:
            notify = without_success(notify)
            action: Literal["delivered", "expanded"] = "delivered" if expansion.is_list else "expanded"
            self._expanded.append(Expanded(expansion.address.text, orcpt, action))
        for final in expansion.finals:
            owner = expansion.owners.get(final.text.lower())
            if owner is not None:
                self._member(QueuedRecipient(final.text, final.domain, notify, "", named), owner)
                continue
            changed = final.text != named
            one = QueuedRecipient(
                final.text, final.domain, notify, orcpt if changed else queued.orcpt, named if changed else ""
            )
            self._there.setdefault(one.copy, one)

    def _member(self, queued: QueuedRecipient, owner: Owner) -> None:
        """A member of a list gets what is the list's own message (RFC 3461 5.2.7.3): from its owner, who is told."""
        one = msgspec.structs.replace(queued, owner=owner.sender.text)
        self._told[one.owner] = tuple(told.text for told in owner.told)
        self._there.setdefault(one.copy, one)

    def _change(self, **fields: object) -> None:
        self.trailer = msgspec.structs.replace(self.trailer, **fields)
        recipients = self.trailer.recipients
        addresses = [self.trailer.sender, *(one.address for one in recipients), *{one.owner for one in recipients}]
        if not self.trailer.smtputf8 and not all(map(str.isascii, addresses)):
            self.trailer = msgspec.structs.replace(self.trailer, smtputf8=True)


def without_success(notify: str) -> str:
    """Without a report that the mail arrived: SUCCESS is taken out, alone it means that none is wanted."""
    if "SUCCESS" not in notify:
        return notify
    return ",".join(word for word in notify.split(",") if word != "SUCCESS") or "NEVER"


def _parsed(text: str) -> Address:
    return parse_address(text.encode(), utf8=True)[0] if text else NULL_SENDER


def _original(address: str) -> str:
    """The recipient that was named, as reports have it (RFC 3461 4.2, RFC 6533 3)."""
    if address.isascii():
        return f"rfc822;{xtext.encode(address.encode())}"
    plain = "".join(letter if letter.isascii() and letter != "\\" else f"\\x{{{ord(letter):X}}}" for letter in address)
    return f"utf-8;{xtext.encode(plain.encode())}"


def _begin(content: RamContent | FileContent) -> bytes:
    """The content as far as a header may go."""
    pieces, size = [], 0
    for piece in content.chunks():
        pieces.append(piece)
        size += len(piece)
        if size >= apply.MAX_HEADER:
            break
    return b"".join(pieces)
