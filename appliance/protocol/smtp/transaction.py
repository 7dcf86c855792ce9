"""One message on a client session: MAIL to the reply behind the content, one result a recipient.

Contract: no IO; `ClientMachine` hands in every reply in order and sends what comes out. Each command that was sent has
its place in a queue, so pipelined replies can never be taken for another command's. A recipient counts as delivered only
by a 2xx that came after all of the content was sent.
What failure means for the mail: a recipient without a clear answer is deferred; `Result.unknown` tells when the server
may have taken the message all the same.
"""

from collections import deque
from collections.abc import Mapping
from functools import cached_property

from appliance.protocol.smtp.attributes import format_xforward
from appliance.protocol.smtp.data import BdatDecoder, DataEncoder
from appliance.protocol.smtp.outgoing import (
    NAMES,
    Event,
    Outgoing,
    Result,
    SendContent,
    Write,
    mail_command,
    needs_smtputf8,
    rcpt_command,
    result_of,
)
from appliance.protocol.smtp.reply import Reply


class Transaction:
    """`reset` sends RSET first (the last transaction did not end by itself); `content` is the whole of it when it is at
    hand, else the driver is asked to stream it; `probe` stops behind RCPT. Raises ValueError for a broken envelope."""

    def __init__(
        self,
        message: Outgoing,
        features: Mapping[str, str],
        *,
        lmtp: bool = False,
        chunking: bool = False,
        pipelining: bool = False,
        reset: bool = False,
        content: bytes | None = None,
        probe: bool = False,
    ) -> None:
        if not message.recipients:
            raise ValueError("a message without recipients")
        self.message, self.lmtp, self.chunking, self.probe = message, lmtp, chunking, probe
        self.pipelining = pipelining
        self.results: list[Result | None] = [None] * len(message.recipients)
        #: What was refused without harm to the message.
        self.remarks: tuple[Result, ...] = ()
        #: envelope -> content -> final -> done; "discard": content that nobody wants was ended by a lone dot.
        self.phase = "envelope"
        #: The server still holds something of this transaction: RSET before the next.
        self.dirty = False
        #: Why the session cannot be used any more, or "".
        self.broken = ""
        self._content = content
        self._sent: deque[tuple[str, int]] = deque()
        self._accepted: dict[int, Reply] = {}
        self._data: Reply | None = None
        self._refusal: Reply | None = None
        self._unsent = deque(self._envelope(features, reset))

    #: Most content is plain and needs neither.
    _encoder = cached_property(lambda self: DataEncoder())
    _chunks = cached_property(lambda self: BdatDecoder())

    def _envelope(self, features: Mapping[str, str], reset: bool) -> list[tuple[str, int, bytes]]:
        commands = [("RSET", 0, b"RSET\r\n")] if reset else []
        if "XFORWARD" in features and self.message.xforward:
            lines = format_xforward(self.message.xforward, features["XFORWARD"])
            commands += [("XFORWARD", 0, line) for line in lines]
        commands.append(("MAIL", 0, mail_command(self.message, features)))
        commands += [("RCPT", i, rcpt_command(r, features)) for i, r in enumerate(self.message.recipients)]
        if not self.chunking and not self.probe:
            commands.append(("DATA", 0, b"DATA\r\n"))
        return commands

    def start(self, features: Mapping[str, str]) -> list[Event]:
        """The first octets to send; none if this server cannot take this message, `phase` is "done" then."""
        if needs_smtputf8(self.message) and "SMTPUTF8" not in features:
            return self._refuse_all("5.6.7", "message needs SMTPUTF8, which the server does not offer")
        limit = features.get("SIZE", "")
        if limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < self.message.size:
            text = f"message size {self.message.size} exceeds the size limit {limit[:20]} of the server"
            return self._refuse_all("5.3.4", text)
        return self._next_commands()

    def _refuse_all(self, enhanced: str, text: str) -> list[Event]:
        self._fill(Result("failed", 0, enhanced, text))
        self.phase = "done"
        return []

    def _next_commands(self) -> list[Event]:
        count = len(self._unsent) if self.pipelining else 1
        if self.message.together and count > 1 and self._unsent[-1][0] == "DATA":
            count -= 1
        taken = [self._unsent.popleft() for _ in range(min(count, len(self._unsent)))]
        self._sent.extend((step, index) for step, index, _ in taken)
        return [Write(b"".join(line for _, _, line in taken))]

    # Replies

    def on_reply(self, reply: Reply) -> list[Event]:
        """Take the next reply of the server (never a 421: that one ends the session, see `cut`)."""
        if not self._sent:
            return self._early(reply)
        step, index = self._sent.popleft()
        if step == "MAIL":
            self._on_mail(reply)
        elif step == "RCPT":
            self._on_rcpt(reply, index)
        elif step == "DATA":
            self._data = reply
        elif step == "BDAT":
            self._on_chunk(reply)
        elif step == "END":
            self._on_end(reply, index)
        elif step == "XFORWARD" and reply.code // 100 != 2:
            self._on_unforwarded(reply)
        return [] if self._sent else self._advance()

    def _on_mail(self, reply: Reply) -> None:
        if reply.code // 100 == 2:
            self.dirty = True
        else:
            self._fill(result_of(reply, "MAIL"))
            self._unsent.clear()

    def _on_unforwarded(self, reply: Reply) -> None:
        """It will take the client for ourselves."""
        if self.message.together:
            self._fill(Result("deferred", 0, "4.5.0", reply.text, "XFORWARD"))
            self._unsent.clear()
        else:
            self.remarks += (result_of(reply, "XFORWARD"),)

    def _on_rcpt(self, reply: Reply, index: int) -> None:
        if self.results[index] is not None:
            return
        if reply.code // 100 == 2:
            self._accepted[index] = reply
        else:
            self.results[index] = result_of(reply, "RCPT")
        # Where DATA was not sent with RCPT, nobody is asked for content that no recipient wants.
        if self._unsent and self._unsent[0][0] == "DATA" and not self._sent and not self._accepted:
            self._unsent.clear()

    def _on_chunk(self, reply: Reply) -> None:
        """A chunk that was not the last. Content stops at the first refusal; replies in flight are waited for."""
        if reply.code // 100 != 2 and self._refusal is None:
            self._refusal = reply
            self.phase = "final"

    def _on_end(self, reply: Reply, index: int) -> None:
        reply = self._refusal or reply
        result = result_of(reply, "BDAT" if self.chunking else "END")
        if index >= 0:
            self.results[index] = result
        else:
            self._fill(result)
        # After DATA the server is idle again whatever it said (RFC 5321 3.3); a failed BDAT leaves the transaction open.
        self.dirty = self.chunking and reply.code // 100 != 2

    def _early(self, reply: Reply) -> list[Event]:
        """A reply to nothing. While content streams a refusal counts; consent before the end is worth nothing."""
        if self.phase == "content" and reply.code // 100 in (4, 5):
            self._fill(result_of(reply, "BDAT" if self.chunking else "DATA"))
            self.broken = f"the server answered before the end of the content: {reply.text}"
        else:
            self.broken = f"the server sent a reply that nobody asked for: {reply.text}"
        self._fill(Result("deferred", 0, "4.5.0", self.broken))
        self.phase = "done"
        return []

    def _advance(self) -> list[Event]:
        if self.message.together and self.phase == "envelope":
            self._put_off_all()
        if self._unsent:
            return self._next_commands()
        if self.phase == "envelope":
            return self._envelope_answered()
        if self.phase == "content":
            return []
        if self._refusal is not None:
            self._fill(result_of(self._refusal, "BDAT"))
        self.phase = "done"
        return []

    def _put_off_all(self) -> None:
        """One recipient is put off: so are the others, before there is content. RSET follows (`dirty`)."""
        first = next((result for result in self.results if result is not None and result.kind == "deferred"), None)
        if first is not None:
            self._fill(first)
            self._accepted.clear()
            self._unsent.clear()

    def _envelope_answered(self) -> list[Event]:
        go_ahead = self._data is not None and self._data.code // 100 == 3
        if self.probe:
            for index, reply in self._accepted.items():
                self.results[index] = result_of(reply, "RCPT")
        elif not self._accepted:
            if go_ahead:
                return self._discard()
        elif go_ahead or self.chunking:
            self.phase = "content"
            return [Write(self._whole(self._content))] if self._content is not None else [SendContent()]
        elif self._data is not None:
            self._fill(self._data_refused(self._data))
        self.phase = "done"
        return []

    def _data_refused(self, reply: Reply) -> Result:
        if reply.code // 100 == 2:
            self.broken = f"the server answered DATA with {reply.text}"
            return Result("deferred", 0, "4.5.0", self.broken, "DATA")
        return result_of(reply, "DATA")

    def _discard(self) -> list[Event]:
        """354 although no recipient is left (DATA was pipelined): end the content before it begins (RFC 2920 3.1).

        An LMTP server owes no reply to that, one for each of no recipients; some send one: the session is given up.
        """
        self.dirty = False
        if self.lmtp:
            self.broken = "the server wants content for no recipient"
            self.phase = "done"
        else:
            self.phase = "discard"
            self._sent.append(("DOT", 0))
        return [Write(b".\r\n")]

    # Content

    def content(self, chunk: bytes) -> bytes:
        """The octets to send for the next piece of content; b"" also when the server has refused already."""
        if self.phase != "content":
            return b""
        if not self.chunking:
            return chunk if self.message.plain else self._encoder.feed(chunk)
        return self._chunk(chunk if self.message.plain else self._chunks.feed(chunk), last=False)

    def end(self) -> bytes:
        """The octets that end the content; b"" when the server has refused already."""
        if self.phase != "content":
            return b""
        return self._ended(self._encoder.finish() if not self.chunking else self._chunks.finish())

    def _whole(self, content: bytes) -> bytes:
        if self.chunking:
            return self._ended(content if self.message.plain else self._chunks.feed(content) + self._chunks.finish())
        if self.message.plain:
            return self._ended(content + b".\r\n")
        return self._ended(self._encoder.feed(content) + self._encoder.finish())

    def _ended(self, data: bytes) -> bytes:
        self.phase = "final"
        if self.chunking:
            return self._chunk(data, last=True)
        self._sent.extend(("END", index) for index in (sorted(self._accepted) if self.lmtp else (-1,)))
        return data

    def _chunk(self, data: bytes, *, last: bool) -> bytes:
        if not data and not last:
            return b""
        self._sent.append(("END", -1) if last else ("BDAT", 0))
        return b"BDAT %d%b\r\n%b" % (len(data), b" LAST" if last else b"", data)

    # The end of the session in mid-transaction

    def cut(self, reason: str, reply: Reply | None = None) -> None:
        """The session is gone (`reply`: its 421): who has no result yet is deferred."""
        step = self._sent[0][0] if self._sent else "DATA"
        # Everything was sent and nothing came back: the server may have the message.
        unknown = reply is None and self.phase == "final"
        if self._refusal is not None:
            self._fill(result_of(self._refusal, "BDAT"))
        elif reply is not None:
            self._fill(result_of(reply, step))
        else:
            text = f"{reason} while {self.waiting_for()}"
            self._fill(Result("deferred", 0, "4.4.2", text, NAMES.get(step, step), unknown))
        self.phase = "done"

    def waiting_for(self) -> str:
        """In the words of the mail log, for "timed out while ..."."""
        if self.phase == "final":
            return "sending end of data -- message may be sent more than once"
        if self.phase == "content":
            return "sending message body"
        step = self._sent[0][0] if self._sent else "DATA"
        return f"sending {NAMES.get(step, step)}" if step != "DATA" else "sending DATA command"

    def _fill(self, result: Result) -> None:
        self.results = [result if known is None else known for known in self.results]
