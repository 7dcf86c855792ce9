"""What is remembered between the requests about one message: its verdicts, its recipients, what is still to be said.

Contract: a message is known by its `instance` and its client; at most so many are remembered, the oldest are forgotten
first, as is who was silent for KEPT seconds. What failure means for the mail: a later request about a message that was
forgotten is judged by what it says itself.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.mail.context import Recipient
from appliance.mail.identity import Identity
from appliance.mail.verdict import Verdict

if TYPE_CHECKING:
    from appliance.daemons.policyd.rules import Rules

#: Seconds: Postfix's smtpd gives a silent client 300, a message of many recipients takes longer.
KEPT = 3600.0
#: Recipients of one message whose answers are remembered.
RECIPIENTS = 1000
_NONE: set[str] = set()


class Session:
    """What was found about a client's connection. `key`: its address, port and HELO."""

    __slots__ = ("asked", "key", "trail")

    def __init__(self, key: tuple[str, str, str]) -> None:
        self.key = key
        self.asked: frozenset[str] = frozenset()
        self.trail: tuple[Verdict, ...] = ()


class Message:
    """One message. `answers`: what was said about a recipient, said again where Postfix asks again. `late`: what makes
    the rest of `trail`, once anybody wants it: about most strangers nobody asks again."""

    __slots__ = (
        "_trail",
        "answers",
        "asked",
        "id",
        "identity",
        "late",
        "pending",
        "recalled",
        "recipients",
        "rules",
        "said",
        "session",
        "touched",
    )

    def __init__(self, ident: str, rules: "Rules", session: Session, now: float) -> None:
        self.id, self.rules, self.session = ident, rules, session
        self.asked: frozenset[str] = frozenset()
        self._trail: tuple[Verdict, ...] = ()
        self.late: Callable[[], tuple[Verdict, ...]] | None = None
        self.identity: Identity | None = None
        self.recipients: tuple[Recipient, ...] = ()
        self.answers: dict[str, str] = {}
        #: What was found of client and sender was judged without a recipient.
        self.recalled = False
        #: Actions that found no place in an answer yet (an answer holds one), and those that were wanted ever.
        self.pending: deque[str] | None = None
        self.said: set[str] = _NONE
        self.touched = now

    @property
    def judged(self) -> bool:
        """Whether what was found of client and sender has been judged: with the first recipient, as a rule."""
        return bool(self.answers) or self.recalled

    @property
    def trail(self) -> tuple[Verdict, ...]:
        """What was found."""
        late, self.late = self.late, None
        if late is not None:
            self._trail += late()
        return self._trail

    @trail.setter
    def trail(self, trail: tuple[Verdict, ...]) -> None:
        self._trail = trail

    def add(self, recipient: Recipient) -> None:
        """One more that was not refused here."""
        if len(self.recipients) < RECIPIENTS:
            self.recipients += (recipient,)

    def remember(self, recipient: str, answer: str) -> None:
        """What was answered for a recipient."""
        if len(self.answers) < RECIPIENTS:
            self.answers[recipient] = answer

    def want(self, actions: list[str]) -> None:
        """Say these once, as soon as there is room."""
        if self.pending is None:
            self.pending, self.said = deque(), set()
        for action in actions:
            if action not in self.said:
                self.said.add(action)
                self.pending.append(action)

    def next(self) -> str:
        """The next one, or ""."""
        return self.pending.popleft() if self.pending else ""


class Messages:
    """All messages of a worker."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: OrderedDict[tuple[str, str], Message] = OrderedDict()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, instance: str, client: str, now: float) -> Message | None:
        """The message, if it is remembered."""
        found = self._known.get((instance, client))
        if found is not None:
            found.touched = now
            self._known.move_to_end((instance, client))
        return found

    def knows(self, instance: str, client: str) -> bool:
        """Whether the message is remembered."""
        return (instance, client) in self._known

    def keep(self, instance: str, client: str, message: Message) -> list[Message]:
        """Remember one; those that are forgotten for it."""
        self._known[instance, client] = message
        gone = []
        while len(self._known) > self.most:
            gone.append(self._known.popitem(last=False)[1])
        self.forgotten += len(gone)
        return gone

    def end(self, instance: str, client: str) -> None:
        """Nothing more will be asked about it."""
        self._known.pop((instance, client), None)

    def sweep(self, now: float) -> list[Message]:
        """Forget those that nobody asked about for long."""
        gone = []
        while self._known:
            oldest = next(iter(self._known.values()))
            if oldest.touched + KEPT > now:
                break
            gone.append(self._known.popitem(last=False)[1])
        return gone
