"""What a hook of handle_DATA left in its envelope, as edits of what we keep.

Contract: pure, but that much content is put together and compared in a thread. What failure means for the mail: what is
no address, or no message, is ValueError, a failure of the hook (451).
"""

import asyncio

from aiosmtpd.smtp import Envelope

from appliance.mail.context import Context
from appliance.mail.differing import changes, crlf
from appliance.mail.edits import Edit
from appliance.mail.ports import Content
from appliance.protocol.smtp.address import AddressError, parse_address

#: Octets put together, and compared, on the event loop (more: in a thread).
_AT_ONCE = 262144


async def whole(content: Content) -> bytes:
    if content.size <= _AT_ONCE:
        return b"".join(content.chunks())
    return await asyncio.to_thread(lambda: b"".join(content.chunks()))


def of_envelope(ctx: Context, envelope: Envelope) -> list[Edit]:
    """What was changed in it (but for the case of letters). Raises ValueError for what is no address."""
    sender = ctx.sender.text if ctx.sender else ""
    left = _address(envelope.mail_from, null=True)
    edits = [Edit("sender", value=left)] if left != sender else []
    before = {recipient.address.text.lower(): recipient.address.text for recipient in ctx.recipients}
    after = {one.lower(): one for one in map(_address, envelope.rcpt_tos)}
    edits += [Edit("delete_recipient", value=one) for key, one in before.items() if key not in after]
    return edits + [Edit("add_recipient", value=one) for key, one in after.items() if key not in before]


def _address(given: object, null: bool = False) -> str:
    if null and given in ("", "<>", None):
        return ""
    try:
        return parse_address(str(given).encode(), utf8=True)[0].text
    except (AddressError, ValueError, IndexError) as error:
        raise ValueError(f"the handler left {given!r} in the envelope, which is no address") from error


async def of_content(before: bytes, after: object) -> tuple[Edit, ...]:
    """Raises ValueError for what is no message."""
    if after is before:
        return ()
    if isinstance(after, str):
        after = after.encode("utf-8", "surrogateescape")
    if not isinstance(after, bytes | bytearray):
        raise ValueError(f"the handler left {type(after).__name__} in envelope.content, which is no message")
    octets = bytes(after)
    if max(len(before), len(octets)) <= _AT_ONCE:
        return _differing(before, octets)
    return await asyncio.to_thread(_differing, before, octets)


def _differing(before: bytes, after: bytes) -> tuple[Edit, ...]:
    try:
        return changes(before, crlf(after) if after.strip() else b"")
    except ValueError as error:
        raise ValueError(f"the handler left no message in envelope.content: {error}") from error
