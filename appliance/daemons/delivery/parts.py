"""A message as it is cut into transactions, and its octets as they are sent.

Contract: pure, but for reading content. What failure means for the mail: ContentDamaged: nothing of it is delivered.
"""

from collections.abc import Iterator

from appliance.mail import apply
from appliance.queue.content import Content
from appliance.queue.envelope import Trailer

#: Content up to this size goes out in one write.
WHOLE = 128 * 1024
PIECE = 256 * 1024


def parts(trailer: Trailer, indexes: list[int], most: int) -> Iterator[list[int]]:
    """The transactions: recipients of one sender each, `most` at a time."""
    by_sender: dict[str, list[int]] = {}
    for index in indexes:
        by_sender.setdefault(trailer.sender_of(index), []).append(index)
    for those in by_sender.values():
        yield from (those[start : start + most] for start in range(0, len(those), most))


def octets(content: Content, trailer: Trailer) -> bytes | Iterator[bytes]:
    """With the edits made. Raises ContentDamaged, SpoolError, also while it is read."""
    if content.length <= WHOLE:
        return apply.whole(content.whole(), trailer.edits)
    return apply.streamed(content.chunks(PIECE), trailer.edits)
