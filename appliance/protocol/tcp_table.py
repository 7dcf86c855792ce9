"""tcp tables: `get SP key LF` asks, `200 SP text LF`, `500 SP text LF` (not found), `400 SP text LF` answer
(tcp_table(5)).

Contract: both ends as pure functions over octets. Octets up to 32, above 126 and `%` travel as %XX. A line has at most
4096 octets. Raises ProtocolError for anything else. What failure means for the mail: the table cannot answer: put off.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from appliance.protocol.errors import ProtocolError

LONGEST = 4096
FOUND, NOT_FOUND, TROUBLE = "200", "500", "400"
_WRONG = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODED = [bytes([n]) if 32 < n < 127 and n != 37 else b"%%%02x" % n for n in range(256)]


class Answer(NamedTuple):
    code: str
    text: str


def encode(text: str) -> bytes:
    return b"".join(_ENCODED[octet] for octet in text.encode("utf-8", "surrogateescape"))


def decode(octets: bytes) -> str:
    """Raises ProtocolError for a broken %XX."""
    if _WRONG.search(octets):
        raise ProtocolError("a % that is not followed by two hexadecimal digits")
    return unquote_to_bytes(octets).decode("utf-8", "surrogateescape")


class LineReader:
    """Collects one line; nothing may stand behind it."""

    def __init__(self) -> None:
        self._in = bytearray()
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError for a line that is too long, and for more than one."""
        self._in += data
        end = self._in.find(b"\n")
        if end < 0 and len(self._in) > LONGEST:
            raise ProtocolError("an answer without end")
        if 0 <= end < len(self._in) - 1:
            raise ProtocolError("more than one answer")
        self.complete = end >= 0

    def end(self) -> bytes:
        """The line without its end. Raises ProtocolError if it did not come whole."""
        if not self.complete:
            raise ProtocolError("half an answer" if self._in else "no answer")
        return bytes(self._in[:-1]).removesuffix(b"\r")


def question(key: str) -> bytes:
    """What a client sends. Raises ProtocolError for a key that makes too long a line."""
    line = b"get %b\n" % encode(key)
    if len(line) > LONGEST:
        raise ProtocolError("a key that is too long for a tcp table")
    return line


def read_question(line: bytes) -> str:
    """The key, as a server reads it. Raises ProtocolError."""
    verb, _, key = line.partition(b" ")
    if verb != b"get" or not key:
        raise ProtocolError("no question: get, blank, key")
    return decode(key)


def answer(code: str, text: str) -> bytes:
    """What a server sends."""
    return b"%b %b\n" % (code.encode(), encode(text))


def read_answer(line: bytes) -> Answer:
    """Raises ProtocolError for what is none of the three."""
    code, space, text = line.partition(b" ")
    if code not in (b"200", b"400", b"500") or not space:
        raise ProtocolError(f"no answer of a tcp table: {line[:40]!r}")
    return Answer(code.decode(), decode(text.strip(b" ")))
