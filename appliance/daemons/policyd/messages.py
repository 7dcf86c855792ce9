"""What is remembered between the requests about one message: its verdicts, its recipients, what is still to be said.

Contract: a message is known by its `instance` and its client; at most so many are remembered, the oldest are forgotten
first, as is who was silent for KEPT seconds. What was found of a message (10 to 20 KB) that is not among the latest
AT_HAND is folded to a tenth, for most are never asked about again. A message keeps the rules it began with; once others
are in force, one that was silent for IN_PROGRESS seconds goes on with these, so that the old ones can be let go. What
failure means for the mail: a later request about a message that was forgotten is judged by what it says itself.
"""

import sys
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from appliance.mail.context import Recipient
from appliance.mail.identity import Identity
from appliance.mail.verdict import Verdict

if TYPE_CHECKING:
    from appliance.daemons.policyd.rules import Rules

#: Seconds: Postfix's smtpd gives a silent client 300, a message of many recipients takes longer.
KEPT = 3600.0
#: Seconds of silence behind which a message keeps no old rules, and how many are looked at in a turn.
IN_PROGRESS, TURN = 600.0, 20
#: Recipients of one message whose answers are remembered.
RECIPIENTS = 1000
#: Messages whose verdicts stand ready.
AT_HAND = 500
_NONE: set[str] = set()
#: References to a trail that nobody else has, seen from where they are counted.
_ALONE = 3
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[Verdict, ...]).decode


class _Trail:
    """What was found. `late`: what makes the rest of it, once anybody wants it."""

    __slots__ = ("_trail", "late")

    def __init__(self) -> None:
        self._trail: tuple[Verdict, ...] = ()
        self.late: Callable[[], tuple[Verdict, ...]] | None = None

    @property
    def trail(self) -> tuple[Verdict, ...]:
        """What was found."""
        if self.late is not None:
            self._make()
        return self._trail

    @trail.setter
    def trail(self, trail: tuple[Verdict, ...]) -> None:
        self._trail, self.late = trail, None

    def _make(self) -> None:
        late, self.late = self.late, None
        if late is not None:
            self._trail += late()

    def fold(self, identity: Identity | None = None) -> None:
        """Hold it in fewer octets, until it is asked for. What others have as well stays."""
        trail = self._trail
        if self.late is not None or not trail or sys.getrefcount(trail) > _ALONE:
            return
        try:
            packed = zlib.compress(_pack(trail), 1)
        except (TypeError, ValueError, OverflowError):  # evidence that is no plain data
            return
        theirs = tuple(place for place, one in enumerate(trail) if identity is not None and one.identity is identity)
        self._trail, self.late = (), partial(_unfold, packed, identity, theirs)


class Session(_Trail):
    """What was found about a client's connection. `key`: its address, port and HELO."""

    __slots__ = ("asked", "key")

    def __init__(self, key: tuple[str, str, str]) -> None:
        super().__init__()
        self.key = key
        self.asked: frozenset[str] = frozenset()

    def stands(self, known: tuple[frozenset[str], tuple[Verdict, ...]]) -> bool:
        """Whether that was asked and found, and nothing else."""
        return self.asked == known[0] and (self._trail if self.late is None else self.trail) == known[1]


class Message(_Trail):
    """One message. `answers`: what was said about a recipient, said again where Postfix asks again. About most strangers
    nobody asks again."""

    __slots__ = (
        "answers",
        "asked",
        "id",
        "identity",
        "pending",
        "recalled",
        "recipients",
        "rules",
        "said",
        "session",
        "touched",
    )

    def __init__(self, ident: str, rules: "Rules", session: Session, now: float) -> None:
        super().__init__()
        self.id, self.rules, self.session = ident, rules, session
        self.asked: frozenset[str] = frozenset()
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

    def put_by(self) -> None:
        """It is not at hand any more, nor is its session if nobody else has it."""
        self.fold(self.identity)
        if sys.getrefcount(self.session) < _ALONE:
            self.session.fold()

    def renew(self, rules: "Rules") -> None:
        """Go on with other rules, and let go of what holds on to the old ones."""
        self.rules = rules
        late = self.late
        if late is not None and not (isinstance(late, partial) and late.func is _unfold):
            self._make()
            self.put_by()

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

    def drop_fields(self) -> list[str]:
        """Fields that were still to be said and never will: no more are taken behind the end of the message."""
        fields = [action for action in self.pending or () if action.startswith("PREPEND ")]
        if self.pending is not None and fields:
            self.pending = deque(action for action in self.pending if action not in fields)
        return fields


def _unfold(packed: bytes, identity: Identity | None, theirs: tuple[int, ...]) -> tuple[Verdict, ...]:
    """What was found. Checks know an identity by the very object: `theirs` found it."""
    trail = _unpack(zlib.decompress(packed))
    if not theirs:
        return trail
    return tuple(
        msgspec.structs.replace(verdict, identity=identity) if place in theirs else verdict
        for place, verdict in enumerate(trail)
    )


class Brief(Protocol):
    """A message that a stranger to the greylist began, in fewer words: about most of them nobody asks again."""

    @property
    def touched(self) -> float: ...

    def whole(self) -> Message:
        """The message."""


class Messages:
    """All messages of a worker."""

    def __init__(self, most: int) -> None:
        self.most = most
        #: By instance and client.
        self.known: OrderedDict[tuple[str, str], Message | Brief] = OrderedDict()
        self._at_hand: deque[Message] = deque()
        #: Those that began before the rules in force.
        self._overtaken: deque[tuple[str, str]] = deque()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self.known)

    def find(self, instance: str, client: str, now: float) -> Message | None:
        """The message, if it is remembered."""
        found = self.known.get((instance, client))
        if found is not None:
            if not isinstance(found, Message):
                found = self.known[instance, client] = found.whole()
            found.touched = now
            self.known.move_to_end((instance, client))
            if found.late is not None:  # it will be unfolded
                self._at_hand.append(found)
        return found

    def keep(self, instance: str, client: str, message: Message) -> list[Message]:
        """Remember one; those that are forgotten for it."""
        self._at_hand.append(message)
        while len(self._at_hand) > AT_HAND:
            self._at_hand.popleft().put_by()
        self.known[instance, client] = message
        return self.shrink()

    def shrink(self) -> list[Message]:
        """Forget what is too many: the oldest."""
        known = self.known
        gone: list[Message] = []
        while len(known) > self.most:
            oldest = known.popitem(last=False)[1]
            self.forgotten += 1
            if isinstance(oldest, Message):
                gone.append(oldest)
        return gone

    def sweep(self, now: float) -> list[Message]:
        """Forget those that nobody asked about for long."""
        gone = []
        while self.known:
            oldest = next(iter(self.known.values()))
            if oldest.touched + KEPT > now:
                break
            self.known.popitem(last=False)
            if isinstance(oldest, Message):
                gone.append(oldest)
        return gone

    def forget(self) -> list[Message]:
        """All of them."""
        gone = [message for message in self.known.values() if isinstance(message, Message)]
        self.known.clear()
        return gone

    def overtaken(self) -> None:
        """Other rules are in force."""
        self._overtaken = deque(self.known)

    def renew(self, rules: "Rules", now: float) -> None:
        """Look at some that began before these rules."""
        for _ in range(min(TURN, len(self._overtaken))):
            key = self._overtaken.popleft()
            message = self.known.get(key)
            if message is None:
                continue
            if message.touched + IN_PROGRESS > now:
                self._overtaken.append(key)
                continue
            if not isinstance(message, Message):
                message = self.known[key] = message.whole()
            message.renew(rules)
