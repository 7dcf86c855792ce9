"""clamd's INSTREAM as bytes: what is sent, and what an answer means (clamd(8), "COMMANDS").

Contract: one question a connection, in the z form. Only the exact words of the protocol count: `stream: OK` is clean,
`stream: NAME FOUND` a find, `stream: TEXT ERROR` and the size limit's text are what they say; all else, a missing
terminator, an answer longer than MAX_REPLY, anything behind a first answer is ProtocolError. What failure means for the
mail: ProtocolError is "not scanned", never clean and never infected.
"""

import re
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from appliance.protocol.errors import ProtocolError

START = b"zINSTREAM\0"
VERSION = b"zVERSION\0"
#: A chunk of length nought ends the stream.
END = b"\0\0\0\0"
MAX_REPLY = 4096
#: What a chunk may have at most: its length is an unsigned 32-bit number.
MAX_CHUNK = 0xFFFFFFFF
_LENGTH = struct.Struct(">I")
_FOUND = re.compile(rb"stream: ([!-~]+(?: [!-~]+)*) FOUND\Z")
_ERROR = re.compile(rb"(?:stream: )?([ -~]+) ERROR\Z")
_LIMIT = b"INSTREAM size limit exceeded. ERROR"


class Answer(NamedTuple):
    """`text` is the name of what was found, or clamd's words for its trouble; "" when clean."""

    kind: Literal["clean", "found", "limit", "error"]
    text: str = ""


def announce(length: int) -> bytes:
    """What stands before a chunk of `length` octets (1 to MAX_CHUNK)."""
    return _LENGTH.pack(length)


def frame(chunk: bytes) -> bytes:
    """One chunk, not empty (an empty one would end the stream)."""
    if not chunk:
        raise ValueError("an empty chunk would end the stream")
    return _LENGTH.pack(len(chunk)) + chunk


def stream(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The whole question."""
    yield START
    for chunk in chunks:
        if chunk:
            yield frame(chunk)
    yield END


def parse(line: bytes) -> Answer:
    """One answer without its terminator. Raises ProtocolError."""
    if line == b"stream: OK":
        return Answer("clean")
    if line == _LIMIT:
        return Answer("limit", line.decode("ascii"))
    if found := _FOUND.match(line):
        return Answer("found", found[1].decode("ascii"))
    if error := _ERROR.match(line):
        return Answer("error", error[1].decode("ascii"))
    raise ProtocolError(f"clamd answered {line[:200]!r}")


class ReplyReader:
    """Collects the answer to one question. `feed` what comes; `end` when the stream ends or no more is waited for."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def complete(self) -> bool:
        """A terminator has come: nothing more is due."""
        return b"\0" in self._data

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError when the answer gets too long."""
        self._data += data
        if len(self._data) > MAX_REPLY:
            raise ProtocolError(f"clamd's answer is longer than {MAX_REPLY} octets")

    def end(self) -> Answer:
        """The answer. Raises ProtocolError.

        Behind the text of an error clamd may write a second one before it hangs up; behind a verdict nothing may stand.
        """
        line, terminator, rest = self._data.partition(b"\0")
        if not terminator:
            raise ProtocolError(
                f"clamd hung up in its answer, after {line[:200]!r}" if line else "clamd hung up without an answer"
            )
        answer = parse(line)
        if rest and answer.kind in ("clean", "found"):
            raise ProtocolError(f"clamd wrote on behind its answer: {rest[:200]!r}")
        return answer
