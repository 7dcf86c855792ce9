"""RESP2, as much as one look-up needs: a command as an array of bulk strings, one reply that is no array.

Contract: both ends as pure functions over octets; a reply is whole or none, its length and its line end are checked.
Raises ProtocolError for anything else. What failure means for the mail: the table cannot answer: put off.
"""

from typing import NamedTuple

from appliance.protocol.errors import ProtocolError

#: The longest value, and the longest line of a reply.
LONGEST, LINE = 1 << 20, 1024


class Reply(NamedTuple):
    """`kind`: "+" (a status), "-" (an error), ":" (a number), "$" (a value; None where there is none)."""

    kind: str
    value: bytes | None


def command(*words: bytes) -> bytes:
    """What a client sends."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def reply(value: bytes | None) -> bytes:
    """A value as a server sends it."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


class ReplyReader:
    """Collects one reply; nothing may stand behind it."""

    def __init__(self) -> None:
        self._in = bytearray()
        self._reply: Reply | None = None

    @property
    def complete(self) -> bool:
        return self._reply is not None

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError as soon as this can be no reply."""
        if self._reply is not None:
            raise ProtocolError("more than one answer")
        self._in += data
        if self._in and self._in[0] not in b"+-:$":
            raise ProtocolError(f"no answer of a redis server: {bytes(self._in[:40])!r}")
        end = self._in.find(b"\r\n", 0, LINE)
        if end < 0:
            if len(self._in) >= LINE:
                raise ProtocolError("an answer without end")
            return
        kind, line = chr(self._in[0]), bytes(self._in[1:end])
        if kind != "$":
            self._done(Reply(kind, line), end + 2)
        elif line == b"-1":
            self._done(Reply(kind, None), end + 2)
        else:
            self._value(line, end + 2)

    def _value(self, line: bytes, start: int) -> None:
        if not line.isdigit() or len(line) > 7 or int(line) > LONGEST:
            raise ProtocolError(f"a value of {line[:20]!r} octets")
        end = start + int(line)
        if len(self._in) < end + 2:
            return
        if self._in[end : end + 2] != b"\r\n":
            raise ProtocolError("a value that does not end where it should")
        self._done(Reply("$", bytes(self._in[start:end])), end + 2)

    def _done(self, found: Reply, end: int) -> None:
        if len(self._in) > end:
            raise ProtocolError("more than one answer")
        self._reply = found

    def end(self) -> Reply:
        """The reply. Raises ProtocolError if it did not come whole."""
        if self._reply is None:
            raise ProtocolError("half an answer" if self._in else "no answer")
        return self._reply
