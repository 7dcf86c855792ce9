"""The filter's side of one milter connection, without IO: what an MTA sends becomes events, answers become octets.

Contract: `push` what comes, `next` gives one event at a time; each that `wants_answer` must be answered before the next
is given. Events come in an order that makes sense whatever the MTA does: what ends a message that was not ended gives an
`Abort` before itself; what has no place where it stands (content without a sender, a recipient behind the content) comes
with `odd` saying so, and is answered like any other: the filter never falls silent. Octets that are no packets of this
protocol are ProtocolError: the connection must end. What failure means for the mail: its MTA takes the default action.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import decoding
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.framing import PacketReader
from appliance.protocol.milter.negotiation import Agreement, Want, choose
from appliance.protocol.milter.packets import (
    LETTERS,
    Abort,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    Connect,
    DeleteRecipient,
    EndOfMessage,
    FromMta,
    InsertHeader,
    Macros,
    Mail,
    Modification,
    Negotiate,
    Progress,
    Quarantine,
    Quit,
    QuitNc,
    ReplaceBody,
    Reply,
)
from appliance.protocol.milter.words import MAX_CHUNK, MAX_PACKET, UNANSWERED, Actions, Event, Word

#: The action bit that each edit needs.
NEEDS: dict[type, Actions] = {
    AddHeader: Actions.ADD_HEADER,
    InsertHeader: Actions.ADD_HEADER,
    ChangeHeader: Actions.CHANGE_HEADER,
    ReplaceBody: Actions.CHANGE_BODY,
    AddRecipient: Actions.ADD_RECIPIENT,
    DeleteRecipient: Actions.DELETE_RECIPIENT,
    ChangeSender: Actions.CHANGE_SENDER,
    Quarantine: Actions.QUARANTINE,
}
#: Macros of which events are forgotten with the message.
_OF_MESSAGE = ("M", "R", "T", "L", "N", "B", "E")
#: Where a macro is looked for: the latest first.
_LATEST = ("E", "B", "N", "L", "T", "R", "M", "H", "C", "U")
_PLACES = {
    Event.RCPT: ("mail", "rcpt"),
    Event.DATA: ("rcpt",),
    Event.HEADER: ("rcpt", "data", "header"),
    Event.END_OF_HEADER: ("rcpt", "data", "header"),
    Event.BODY: ("rcpt", "data", "header", "body"),
    Event.END_OF_MESSAGE: ("rcpt", "data", "header", "body"),
}
_BECOMES = {
    Event.RCPT: "rcpt",
    Event.DATA: "data",
    Event.HEADER: "header",
    Event.END_OF_HEADER: "body",
    Event.BODY: "body",
}
_UNSEEN = (
    ("ready", Event.CONNECT, "connected"),
    ("connected", Event.MAIL, "mail"),
    ("mail", Event.RCPT, "rcpt"),
)


class FilterMachine:
    """One connection of an MTA."""

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self._reader = PacketReader(limit)
        self._ahead: deque[FromMta] = deque()
        self._open: Event | None = None
        self._macros: dict[str, Mapping[str, str]] = {}
        #: new, ready (agreed), connected, then of a message: mail, rcpt, data, header, body
        self.place = "new"
        #: Why the event at hand has no place here, "" if it has.
        self.odd = ""
        self.agreement: Agreement | None = None
        #: (place, place behind it) of events that the MTA does not send.
        self._unseen: tuple[tuple[str, str], ...] = ()
        self._offered: Negotiate | None = None

    # ------------------------------------------------------------------ from the MTA

    def push(self, data: bytes) -> None:
        """Take octets without looking at them."""
        self._reader.push(data)

    @property
    def unread(self) -> int:
        """Octets of events that were not given yet."""
        return self._reader.unread

    def hang_up(self) -> None:
        """Nothing more is asked for: let go of what is unread."""
        self._reader.drop()

    @property
    def wants_answer(self) -> bool:
        """The event at hand is answered before there is a next one."""
        return self._open is not None

    @property
    def in_message(self) -> bool:
        return self.place in ("mail", "rcpt", "data", "header", "body")

    def next(self) -> FromMta | None:
        """The next event, or None until more comes. Macros are kept, not given. Raises ProtocolError."""
        if self._open is not None:
            raise RuntimeError(f"{self._open.name} was not answered")
        while not self._ahead:
            read = self._reader.next()
            if read is None:
                return None
            self._read(decoding.event(*read))
        event = self._ahead.popleft()
        self._enter(event)
        return event

    def _read(self, event: FromMta) -> None:
        """Put an event in its place, with the abort before it that the MTA has left out."""
        if isinstance(event, Macros):
            self._keep(event)
            return
        if self.agreement is None and not isinstance(event, Negotiate | Quit | Abort):
            raise ProtocolError(f"{LETTERS[type(event)].name} before the negotiation")
        ends = isinstance(event, Negotiate | Connect | Mail | QuitNc) or LETTERS[type(event)] is Event.HELO
        if ends and self.in_message:
            self._ahead.append(Abort())
        self._ahead.append(event)

    def _keep(self, macros: Macros) -> None:
        if macros.of in ("C", "H", "M"):  # what belongs to what comes behind is over
            stale = ("C", "H", *_OF_MESSAGE) if macros.of == "C" else _OF_MESSAGE if macros.of == "M" else ()
            for letter in stale:
                self._macros.pop(letter, None)
        self._macros[macros.of] = macros.values

    def macro(self, *names: str) -> str:
        """The value of the first of these macros (without braces) that is known, "" for none."""
        for name in names:
            for letter in _LATEST:
                if (found := self._macros.get(letter, {}).get(name)) is not None:
                    return found
        return ""

    def _enter(self, event: FromMta) -> None:
        letter = LETTERS[type(event)]
        self.odd = self._oddity(letter)
        self._open = None if letter in UNANSWERED else letter
        if isinstance(event, Abort):
            self._forget_message(keep="M" if self._ahead else "")  # those of the MAIL that ended it came before
        elif isinstance(event, QuitNc):
            self._macros.clear()
            self.place = "ready"
        elif isinstance(event, Negotiate):
            self._offered = event
        elif isinstance(event, Connect):
            self.place = "connected"
        elif isinstance(event, Mail):
            self.place = "mail"
        elif not self.odd and letter in _BECOMES:
            self.place = _BECOMES[letter]

    def _oddity(self, letter: Event) -> str:
        place = self._place_so_far()
        if letter in (Event.HELO, Event.MAIL) and place in ("new", "ready"):
            return f"{letter.name} without a connection"
        places = _PLACES.get(letter)
        if places is None or place in places:
            return ""
        return f"{letter.name} behind {place}"

    def _place_so_far(self) -> str:
        """The place, as if what the filter has declined had come."""
        place = self.place
        for before, behind in self._unseen:
            if place == before:
                place = behind
        return place

    def _forget_message(self, keep: str = "") -> None:
        if self.in_message:
            self.place = "connected"
        for letter in _OF_MESSAGE:
            if letter != keep:
                self._macros.pop(letter, None)

    # ------------------------------------------------------------------ to the MTA

    def negotiate(self, want: Want) -> bytes:
        """Answer the offer. Raises ProtocolError if it has not what is needed."""
        if self._open is not Event.NEGOTIATE or self._offered is None:
            raise RuntimeError("nothing was offered")
        answer, self.agreement = choose(self._offered, want)
        away = self.agreement.kept_away
        self._unseen = tuple((before, behind) for before, event, behind in _UNSEEN if event in away)
        self._open, self.place = None, "ready"
        self._macros.clear()
        return encode(answer)

    def answer(self, reply: Reply) -> bytes:
        """End the step at hand; b"" where the MTA was told to expect no answer."""
        if self._open is None or self.agreement is None or self._open is Event.NEGOTIATE:
            raise RuntimeError("no event waits for an answer")
        step, self._open = self._open, None
        if step in self.agreement.quiet:
            if reply.word != Word.CONTINUE:
                raise RuntimeError(f"{step.name} was declared to get no answer")
            return b""
        if reply.word == Word.SKIP and not (self.agreement.skips and step in (Event.BODY, Event.HEADER)):
            reply = Reply(Word.CONTINUE)
        if step is Event.END_OF_MESSAGE:
            self._forget_message()
        return encode(reply)

    def progress(self) -> bytes:
        """Tell the MTA to go on waiting for the answer to the step at hand."""
        if self._open is None or self._open is Event.NEGOTIATE:
            raise RuntimeError("nobody waits")
        return encode(Progress())

    def edits(self, wanted: Iterable[Modification]) -> Iterator[bytes]:
        """Edits, between the end of a message and its answer; a long new body in pieces. Raises ValueError for what was
        not agreed on."""
        if self._open is not Event.END_OF_MESSAGE or self.agreement is None:
            raise RuntimeError("edits stand between the end of the message and its answer")
        for edit in wanted:
            need = NEEDS[type(edit)]
            if isinstance(edit, AddRecipient) and edit.arguments is not None:
                need = Actions.ADD_RECIPIENT_ARGS
            if not self.agreement.may(need):
                raise ValueError(f"{need.name} was not agreed on")
            yield from self._pieces(edit)

    def _pieces(self, edit: Modification) -> Iterator[bytes]:
        if not isinstance(edit, ReplaceBody):
            yield encode(edit)
            return
        for start in range(0, max(1, len(edit.chunk)), MAX_CHUNK):
            yield encode(ReplaceBody(edit.chunk[start : start + MAX_CHUNK]))


def last_chunk(event: FromMta) -> bytes:
    """The octets of body that an end of message brings along."""
    return event.chunk if isinstance(event, EndOfMessage) else b""
