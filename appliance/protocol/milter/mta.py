"""The MTA's side of one milter connection, without IO: events become octets, what the filter says becomes answers.

Contract: `negotiate` first, then `connect` to `end_of_message` in the order of SMTP, each with the macros that are
known; a call gives the octets to send (b"" where the filter does not want the event, or has accepted already) and says
whether an answer is waited for: then `receive` until there is one. Nothing here has a clock: `Heard.progress` says when
the filter asks for more time. ProtocolError is everything that the protocol does not have: an answer that nobody waits
for, one that does not belong to the step, an edit that was not agreed on or stands before the end of the message, more
than the limits. The connection is of no use then. What failure means for the mail: the filter's default action, by its
configuration.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import decoding
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.filter import NEEDS
from appliance.protocol.milter.framing import PacketReader
from appliance.protocol.milter.negotiation import Agreement, agreed, offer
from appliance.protocol.milter.packets import (
    LETTERS,
    Abort,
    AddRecipient,
    Body,
    Connect,
    Data,
    EndOfHeader,
    EndOfMessage,
    FromFilter,
    FromMta,
    Header,
    Helo,
    Macros,
    Mail,
    Modification,
    Negotiate,
    Progress,
    Quit,
    QuitNc,
    Rcpt,
    ReplaceBody,
    Reply,
    Unknown,
)
from appliance.protocol.milter.words import DEFAULT_MACROS, MACRO_STAGES, MAX_CHUNK, MAX_PACKET, Actions, Event, Word

#: Answers that each step may have; CONN_FAIL and SHUTDOWN, which end the connection, at every one.
_COMMON = frozenset({Word.CONTINUE, Word.ACCEPT, Word.REJECT, Word.TEMPFAIL, Word.DISCARD, Word.REPLY_CODE})
_ENDING = frozenset({Word.SHUTDOWN, Word.CONN_FAIL})
_SKIPPABLE = frozenset({Event.HEADER, Event.BODY})
#: Steps of the connection: what ends them ends it.
_OF_CONNECTION = frozenset({Event.CONNECT, Event.HELO})
_NO_MACROS: Mapping[str, str] = {}


class Limits(NamedTuple):
    """What one filter may say: octets of a packet, edits of a message, octets of all its edits (a new body among them),
    and how often it may ask for more time in one step."""

    packet: int = MAX_PACKET
    edits: int = 10_000
    octets: int = 64 << 20
    progress: int = 100_000


class Sent(NamedTuple):
    """What to send, and whether an answer is waited for."""

    octets: bytes = b""
    waits: bool = False


class Heard(NamedTuple):
    """What the filter said. `step` is what it answers (NEGOTIATE: the offer). `progress`: no answer yet, but it lives.
    `edits` came before the answer to the end of the message, in order. `odd`: what was put up with, for the log."""

    step: Event
    reply: Reply = Reply(Word.CONTINUE)
    edits: tuple[Modification, ...] = ()
    progress: bool = False
    odd: str = ""


class MtaMachine:
    """One connection to a filter."""

    def __init__(self, offered: Negotiate | None = None, limits: Limits | None = None) -> None:
        self.offered = offered or offer()
        self.limits = limits or Limits()
        self.agreement: Agreement | None = None
        self._reader = PacketReader(self.limits.packet)
        #: The step whose answer is waited for.
        self.waiting: Event | None = None
        #: Nothing more is sent: for this connection (an answer to connect or HELO ended it), for this message.
        self.done = self.message_done = False
        self._skipping: set[Event] = set()
        self._in_message = False
        self._edits: list[Modification] = []
        self._octets = self._progress = 0
        self._new_body = False

    # ------------------------------------------------------------------ to the filter

    def negotiate(self) -> Sent:
        """The offer."""
        self.waiting = Event.NEGOTIATE
        return Sent(encode(self.offered), True)

    def macro_names(self, step: Event) -> tuple[str, ...]:
        """The macros to be sent before this step: those the filter asked for, else the usual ones."""
        stage = MACRO_STAGES.get(step)
        if stage is None:
            return ()
        wanted = self.agreement.macros if self.agreement is not None else {}
        return wanted.get(stage, DEFAULT_MACROS[stage])

    def connect(self, event: Connect, macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        return self._send(event, macros)

    def helo(self, name: bytes, macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        """HELO or EHLO; it ends a message that was begun."""
        return self._send(Helo(name), macros)

    def mail(self, address: bytes, parameters: Sequence[bytes] = (), macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        """A message begins. `address` with its brackets."""
        self._new_message(True)
        return self._send(Mail(address, tuple(parameters)), macros)

    def rcpt(self, address: bytes, parameters: Sequence[bytes] = (), macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        return self._send(Rcpt(address, tuple(parameters)), macros)

    def data(self, macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        return self._send(Data(), macros)

    def header(self, name: bytes, value: bytes) -> Sent:
        """One field. `value` is all behind the colon, as it stands in the message (folded lines end with CRLF or LF)."""
        value = value.replace(b"\r\n", b"\n")
        if not (self.agreement is not None and self.agreement.leading_space):
            value = value.removeprefix(b" ")
        return self._send(Header(name, value.replace(b"\0", b"")), _NO_MACROS)

    def end_of_header(self, macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        return self._send(EndOfHeader(), macros)

    def body(self, chunk: bytes) -> Sent:
        """A piece of body, CRLF line ends, at most MAX_CHUNK octets."""
        if len(chunk) > MAX_CHUNK:
            raise ValueError(f"a chunk of {len(chunk)} octets, at most {MAX_CHUNK} go into one packet")
        return self._send(Body(chunk), _NO_MACROS)

    def end_of_message(self, macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        """The last step; edits come with its answer."""
        self._edits, self._octets, self._new_body = [], 0, False
        return self._send(EndOfMessage(), macros)

    def unknown(self, line: bytes, macros: Mapping[str, str] = _NO_MACROS) -> Sent:
        return self._send(Unknown(line), macros)

    def abort(self) -> Sent:
        """The message is given up (RSET, EHLO, a refusal of our own); the connection goes on."""
        if self.waiting is not None:
            raise RuntimeError(f"{self.waiting.name} is not answered yet: what its answer meant would be unknown")
        if not self._in_message:
            return Sent()
        self._new_message(False)
        return Sent(encode(Abort()))

    def quit(self) -> Sent:
        self.done = True
        return Sent(encode(Quit()))

    def quit_nc(self) -> Sent:
        """The end of this SMTP connection; the next begins with `connect` over the same one. Version 6 only."""
        if self.agreement is None or Event.QUIT_NC in self.agreement.kept_away:
            raise ValueError("this filter does not take a second connection")
        self._new_message(False)
        self.done = False
        return Sent(encode(QuitNc()))

    def wants(self, step: Event) -> bool:
        """Would this event be sent? (False: nothing of it need be prepared.)"""
        if self.done or self.agreement is None or step in self.agreement.kept_away:
            return False
        return step in _OF_CONNECTION or not (self.message_done or step in self._skipping)

    def _send(self, event: FromMta, macros: Mapping[str, str]) -> Sent:
        if self.waiting is not None:
            raise RuntimeError(f"{self.waiting.name} is not answered yet")
        if self.agreement is None:
            raise RuntimeError("nothing was agreed on")
        step = LETTERS[type(event)]
        if self.done or (step not in _OF_CONNECTION and self.message_done):
            return Sent()
        told = {name: macros[name] for name in self.macro_names(step) if macros.get(name)} if macros else {}
        octets = encode(Macros(step.value, told)) if told else b""
        if not self.wants(step):
            return Sent(octets)
        octets += encode(event)
        if step in self.agreement.quiet:
            return Sent(octets)
        self.waiting, self._progress = step, 0
        return Sent(octets, True)

    def _new_message(self, begun: bool) -> None:
        self._in_message = begun
        self.message_done = False
        self._skipping.clear()

    # ------------------------------------------------------------------ from the filter

    def receive(self, data: bytes) -> list[Heard]:
        """What the filter said with these octets. Raises ProtocolError."""
        self._reader.push(data)
        heard = []
        while (read := self._reader.next()) is not None:
            if (one := self._hear(decoding.answer(*read), len(read[1]))) is not None:
                heard.append(one)
        if self.waiting is None and self._reader.pending:
            raise ProtocolError("the filter speaks although nobody asked")
        return heard

    def _hear(self, said: FromFilter, size: int) -> Heard | None:
        step = self.waiting
        if step is None:
            if isinstance(said, Reply) and said.word in _ENDING:  # a filter that goes away says so when it likes
                return self._ended(Event.ABORT, said)
            raise ProtocolError(f"the filter says {type(said).__name__} although nobody asked")
        if isinstance(said, Progress):
            return self._goes_on(step)
        if step is Event.NEGOTIATE:
            return self._negotiated(said)
        if isinstance(said, Negotiate):
            raise ProtocolError(f"an offer in answer to {step.name}")
        if not isinstance(said, Reply):
            self._edit(step, said, size)
            return None
        return self._answered(step, said)

    def _goes_on(self, step: Event) -> Heard:
        self._progress += 1
        if self._progress > self.limits.progress:
            raise ProtocolError(f"more than {self.limits.progress} times progress at {step.name}")
        return Heard(step, progress=True)

    def _negotiated(self, said: FromFilter) -> Heard:
        if not isinstance(said, Negotiate):
            raise ProtocolError(f"{type(said).__name__} in answer to the offer")
        self.agreement = agreed(self.offered, said)
        self.waiting = None
        return Heard(Event.NEGOTIATE)

    def _edit(self, step: Event, edit: Modification, size: int) -> None:
        assert self.agreement is not None
        if step is not Event.END_OF_MESSAGE:
            raise ProtocolError(f"{type(edit).__name__} in answer to {step.name}")
        need = NEEDS[type(edit)]
        if isinstance(edit, AddRecipient) and edit.arguments is not None:
            need = Actions.ADD_RECIPIENT_ARGS
        if not self.agreement.may(need):
            raise ProtocolError(f"{type(edit).__name__} was not agreed on")
        if self._new_body and isinstance(edit, ReplaceBody) and not isinstance(self._edits[-1], ReplaceBody):
            raise ProtocolError("a new body in two places")
        self._new_body |= isinstance(edit, ReplaceBody)
        self._octets += size
        self._edits.append(edit)
        if len(self._edits) > self.limits.edits or self._octets > self.limits.octets:
            raise ProtocolError(f"{len(self._edits)} edits of {self._octets} octets are too many")

    def _answered(self, step: Event, reply: Reply) -> Heard:
        assert self.agreement is not None
        if reply.word in _ENDING:
            return self._ended(step, reply)
        may_skip = step in _SKIPPABLE and self.agreement.skips
        if reply.word not in _COMMON and not (reply.word == Word.SKIP and may_skip):
            raise ProtocolError(f"{reply.word.name} in answer to {step.name}")
        self.waiting = None
        if reply.word == Word.DISCARD and step in _OF_CONNECTION:
            return Heard(step, odd=f"DISCARD in answer to {step.name} means nothing")
        edits, self._edits = tuple(self._edits), []
        self._conclude(step, reply.word)
        return Heard(step, reply, edits)

    def _conclude(self, step: Event, word: Word) -> None:
        """What the answer means for what is still to be sent."""
        if word == Word.SKIP:
            self._skipping.add(step)
        elif step is Event.END_OF_MESSAGE:
            self._new_message(False)
        elif word == Word.CONTINUE or step is Event.UNKNOWN:
            return
        elif step in _OF_CONNECTION:
            self.done = True
        elif step is not Event.RCPT or word in (Word.ACCEPT, Word.DISCARD):
            self.message_done = True

    def _ended(self, step: Event, reply: Reply) -> Heard:
        self.waiting, self.done = None, True
        return Heard(step, reply)
