"""What mail becomes when it leaves by SMTP or LMTP: addresses of envelope and header through the generic maps.

Contract: gives another Trailer of the same recipients, in their order, for one transaction; what is kept in the queue,
its records, logs and notices have the addresses as they were. What failure means for the mail: Unavailable: it waits,
and nobody is connected to for it.
"""

from collections.abc import Sequence

import msgspec

from appliance.addresses import header
from appliance.addresses.expansion import Step
from appliance.addresses.generic import Generic
from appliance.mail import apply
from appliance.observe import maillog, oplog
from appliance.protocol.smtp.address import NULL_SENDER, Address, AddressError, parse_address
from appliance.queue.envelope import QueuedRecipient, Trailer
from appliance.queue.item import Item
from appliance.queue.spool import Spool

#: Changes of one message that the log tells.
SHOWN = 50
log = oplog.get("delivery")


async def left(generic: Generic, spool: Spool, item: Item, indexes: Sequence[int]) -> Trailer:
    """The message for these of its recipients, all of one sender. Raises Unavailable, ContentDamaged, SpoolError."""
    trailer, steps = item.trailer.sent_to(indexes[0]), list[Step]()
    sender = await generic.one(_address(trailer.sender), "envelope_sender", steps)
    recipients = list(trailer.recipients)
    for index in indexes:
        new = await generic.one(_address(recipients[index].address), "envelope_recipient", steps)
        recipients[index] = _renamed(recipients[index], new)
    block = _begin(spool, item)
    fields = await header.rewritten(generic, block[: apply.reach(block)], trailer.edits)
    steps += fields.steps
    for step in steps[:SHOWN]:
        maillog.log(f"{item.queue_id}: {step}", "smtp")
    if not fields.whole:
        log.warning(f"addresses beyond {header.MOST} of a header leave as they are", id=item.queue_id)
    return msgspec.structs.replace(
        trailer,
        sender=sender.text,
        recipients=tuple(recipients),
        edits=fields.edits,
        smtputf8=trailer.smtputf8 or not all(text.isascii() for step in steps for text in step.after),
    )


def _address(text: str) -> Address:
    """An address of a trailer; one that is none is not looked up."""
    if not text:
        return NULL_SENDER
    try:
        return parse_address(text.encode(), utf8=True)[0]
    except (AddressError, UnicodeEncodeError):
        return Address("", "", text)


def _renamed(recipient: QueuedRecipient, new: Address) -> QueuedRecipient:
    if new.text == recipient.address:
        return recipient
    return msgspec.structs.replace(recipient, address=new.text, domain=new.domain)


def _begin(spool: Spool, item: Item) -> bytes:
    """The content's begin, with all of its header that edits reach."""
    if item.content is not None:
        return item.content[: apply.MAX_HEADER + 1]
    with spool.open_content(item) as content:
        return content.read(0, apply.MAX_HEADER + 1)
