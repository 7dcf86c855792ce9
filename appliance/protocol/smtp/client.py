"""The SMTP and LMTP client as a machine without IO: one session, many messages (RFC 5321, 2033, 2920, 3030, 3207).

Contract: `receive(octets)` and the calls that start something return events in order; the driver acts on each (`Write`:
send it) and calls `eof` when the connection ends or a deadline passes. Greeting and EHLO run by themselves up to `Ready`.
Then `starttls()` or `begin(message)`; after `Finished` the next `begin`, or `quit()`. Nothing here raises for what a
server sends: rubbish ends the session with `Closed` and defers who has no result yet (that comes first, as `Finished`).
A transaction that the server may not have forgotten is followed by RSET, sent with the next `begin`.
To give a message up half-way (its content cannot be read), close the connection and call `eof`: without the last dot or
the last chunk the server must forget it.
"""

from collections.abc import Mapping

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp import ehlo
from appliance.protocol.smtp.outgoing import (
    Closed,
    Event,
    Finished,
    Outgoing,
    Ready,
    Result,
    StartTls,
    TlsRefused,
    Write,
)
from appliance.protocol.smtp.reply import Reply, ReplyReader
from appliance.protocol.smtp.transaction import Transaction

_WAITING = {
    "greeting": "receiving the initial server greeting",
    "EHLO": "performing the EHLO handshake",
    "HELO": "performing the HELO handshake",
    "STARTTLS": "sending STARTTLS command",
    "tls": "performing the TLS handshake",
    "quit": "sending QUIT command",
}


class ClientMachine:
    """`hostname` is what we call ourselves; `chunking` and `pipelining` allow what the server offers."""

    def __init__(self, hostname: str, *, lmtp: bool = False, chunking: bool = True, pipelining: bool = True) -> None:
        self.hostname, self.lmtp = hostname, lmtp
        self._may_chunk, self._may_pipeline = chunking, pipelining
        #: greeting, EHLO, HELO, ready, STARTTLS, tls, message, quit, closed
        self.state = "greeting"
        self.features: Mapping[str, str] = {}
        self.tls = False
        #: Messages that were begun on the wire, for a limit on reuse.
        self.messages = 0
        self._reader = ReplyReader()
        self._transaction: Transaction | None = None
        self._dirty = False

    @property
    def waiting_for(self) -> str:
        """What a timeout would interrupt, in the mail log's words; the driver chooses its deadlines by it."""
        if self._transaction is not None:
            return self._transaction.waiting_for()
        return _WAITING.get(self.state, "idle")

    @property
    def wants_content(self) -> bool:
        """Content is asked for and not refused: go on calling `content`, then `end`."""
        return self._transaction is not None and self._transaction.phase == "content"

    # What the driver starts

    def starttls(self) -> list[Event]:
        """Ask for TLS (only when `Ready` offered STARTTLS). Comes back as `StartTls` or `TlsRefused`."""
        self._must_be("ready")
        self.state = "STARTTLS"
        return [Write(b"STARTTLS\r\n")]

    def tls_started(self) -> list[Event]:
        """The TLS handshake is done: everything learned in the clear is forgotten, EHLO again (RFC 3207 4.2)."""
        self._must_be("tls")
        self.tls = True
        self.features = {}
        return [self._hello("EHLO")]

    def begin(self, message: Outgoing, content: bytes | None = None, *, probe: bool = False) -> list[Event]:
        """Hand over `message`. With `content` the machine sends it by itself, else it asks by `SendContent`.

        `probe` stops behind RCPT (call-ahead): "delivered" means then that the server would take the recipient.
        Raises ValueError for an envelope that cannot be written as commands; nothing was sent then.
        """
        self._must_be("ready")
        pipelining = self._may_pipeline and "PIPELINING" in self.features
        transaction = Transaction(
            message,
            self.features,
            lmtp=self.lmtp,
            # A chunk has a reply of its own: without PIPELINING each would cost a round trip.
            chunking=self._may_chunk and pipelining and not self.lmtp and "CHUNKING" in self.features,
            pipelining=pipelining,
            reset=self._dirty,
            content=content,
            probe=probe,
        )
        self._transaction, self.state = transaction, "message"
        events = transaction.start(self.features)
        if events:
            self._dirty = False
            self.messages += 1
        return events + self._finish()

    def content(self, chunk: bytes) -> bytes:
        """The octets to send for a piece of content (any split, any line ends); b"" if nobody wants it any more."""
        return self._transaction.content(chunk) if self._transaction is not None else b""

    def end(self) -> bytes:
        """The octets that end the content; b"" if nobody wants it any more."""
        return self._transaction.end() if self._transaction is not None else b""

    def quit(self) -> list[Event]:
        """Say goodbye; the reply, or its absence, comes back as `Closed`."""
        self._must_be("ready")
        self.state = "quit"
        return [Write(b"QUIT\r\n")]

    def eof(self, reason: str = "lost connection") -> list[Event]:
        """The connection ended, or the driver gave up waiting (`reason`: "conversation timed out")."""
        if self.state == "closed":
            return []
        return self._close(f"{reason} while {self.waiting_for}", reason)

    def _must_be(self, state: str) -> None:
        if self.state != state:
            raise RuntimeError(f"the SMTP client is in state {self.state}, not {state}")

    # What the server says

    def receive(self, data: bytes) -> list[Event]:
        """What the octets of the server mean. Never raises for them."""
        events: list[Event] = []
        # What comes between the 220 to STARTTLS and the handshake was not said by whom TLS will prove (threats B3).
        if self.state in ("tls", "closed"):
            return events
        self._reader.push(data)
        try:
            while self.state not in ("tls", "closed") and (reply := self._reader.next()) is not None:
                made = self._on_reply(reply)
                if self._reader.pending and any(type(event) is Write for event in made):
                    made = self._surplus()
                events += made
        except ProtocolError as error:
            events += self._close(self._at_step(str(error)), str(error))
        return events

    def _at_step(self, text: str) -> str:
        """With what was waited for, where no message is on its way (its results say that themselves)."""
        return f"{text} while {_WAITING[self.state]}" if self.state in _WAITING else text

    def _surplus(self) -> list[Event]:
        """What came before the next command was even sent is no answer to it (threats D3): nothing is sent any more."""
        reply = self._reader.next()
        if reply is not None and reply.code == 421:
            return self._on_reply(reply)
        text = "a reply that nobody asked for" + (f": {reply.text}" if reply is not None else "")
        return self._close(self._at_step(text), text)

    def _on_reply(self, reply: Reply) -> list[Event]:
        if reply.code == 421:
            return self._close(reply.text, reply.text, reply)
        if self._transaction is not None:
            return self._transaction.on_reply(reply) + self._finish()
        if self.state in ("EHLO", "HELO"):
            return self._on_hello(reply)
        if self.state == "greeting":
            return self._on_greeting(reply)
        if self.state == "STARTTLS":
            return self._on_starttls(reply)
        text = reply.text
        if self.state != "quit":
            text = f"a reply that nobody asked for: {reply.text} while no command was under way"
        return self._close(text, text, reply)

    def _on_greeting(self, reply: Reply) -> list[Event]:
        if reply.code // 100 != 2:
            return self._close(f"refused to talk to me: {reply.text}", "refused", reply)
        return [self._hello("EHLO")]

    def _hello(self, state: str) -> Write:
        self.state = state
        verb = "LHLO" if self.lmtp else state
        return Write(f"{verb} {self.hostname}\r\n".encode("ascii"))

    def _on_hello(self, reply: Reply) -> list[Event]:
        kind = reply.code // 100
        if kind == 5 and self.state == "EHLO" and not self.lmtp:
            return [self._hello("HELO")]
        if kind != 2:
            return self._close(f"refused to talk to me: {reply.text}", "refused", reply)
        self.features = ehlo.parse(reply.lines) if self.state == "EHLO" else {}
        self.state = "ready"
        return [Ready(self.features)]

    def _on_starttls(self, reply: Reply) -> list[Event]:
        if reply.code != 220:
            self.state = "ready"
            return [TlsRefused(reply)]
        self.state = "tls"
        self._reader.clear()
        return [StartTls()]

    def _finish(self) -> list[Event]:
        """The transaction's results, once it is done."""
        transaction = self._transaction
        if transaction is None or transaction.phase != "done":
            return []
        self._transaction, self.state = None, "ready"
        self._dirty = self._dirty or transaction.dirty
        events: list[Event] = [Finished(_complete(transaction), not transaction.broken, transaction.remarks)]
        return events + (self._close(transaction.broken, "") if transaction.broken else [])

    def _close(self, text: str, reason: str, reply: Reply | None = None) -> list[Event]:
        events: list[Event] = []
        if self._transaction is not None:
            self._transaction.cut(reason, reply)
            events.append(Finished(_complete(self._transaction), False, self._transaction.remarks))
            self._transaction = None
        self.state = "closed"
        return [*events, Closed(text, reply)]


def _complete(transaction: Transaction) -> tuple[Result, ...]:
    results = tuple(result for result in transaction.results if result is not None)
    if len(results) != len(transaction.results):
        raise RuntimeError("a recipient without a result")
    return results
