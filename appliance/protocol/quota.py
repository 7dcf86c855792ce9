"""How many DNS questions one stage of one message may cost, whoever asks: SPF, DKIM, ARC, DMARC, lists (threats A1, D4);
and which message it is, for those who tell whom their trouble touches.

Contract: the engine sets `current` around a stage; tasks that are made meanwhile inherit it. The resolver takes one for
each question that is not at hand, also where another message asks the same. What failure means for the mail: what is over
the quota is Unavailable, so temperror of whoever asked; never "no record".
"""

from contextvars import ContextVar

from appliance.protocol.errors import Unavailable

#: Shipped ([dns] questions).
MOST = 300


class Quota:
    """What is left to `message` (its transaction)."""

    __slots__ = ("left", "message", "most")

    def __init__(self, most: int = MOST, message: str = "") -> None:
        self.most = self.left = most
        self.message = message

    def take(self) -> None:
        """One more question. Raises Unavailable."""
        if self.left <= 0:
            raise Unavailable(f"more than {self.most} DNS questions for one stage of one message")
        self.left -= 1


#: None outside of a stage: nothing is counted.
current: ContextVar[Quota | None] = ContextVar("dns_quota", default=None)


def message() -> str:
    """The message that is judged now, "" outside of a stage."""
    allowed = current.get()
    return allowed.message if allowed is not None else ""
