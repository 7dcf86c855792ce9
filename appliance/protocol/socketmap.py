"""socketmap: one question, one answer, each a netstring (Postfix socketmap_table(5), Sendmail's socket map).

Contract: both ends as pure functions over octets. `name SP key` asks; `OK SP data`, `NOTFOUND SP`, `TEMP`, `TIMEOUT`
and `PERM SP reason` answer. Raises ProtocolError for anything else. What failure means for the mail: the table cannot
answer: put off.
"""

from typing import NamedTuple

from appliance.protocol.errors import ProtocolError

#: The longest answer (Postfix: SOCKETMAP_MAX_REPLY), and the digits that such a length has.
LONGEST, DIGITS = 100_000, 6
FOUND, NOT_FOUND = "OK", "NOTFOUND"
STATES = (FOUND, NOT_FOUND, "TEMP", "TIMEOUT", "PERM")


class Answer(NamedTuple):
    state: str
    text: str


def netstring(payload: bytes) -> bytes:
    """`LEN:payload,`."""
    return b"%d:%b," % (len(payload), payload)


class NetstringReader:
    """Collects one netstring; nothing may stand behind it."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._in = bytearray()
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError as soon as this can be no netstring."""
        self._in += data
        head, colon, _ = self._in[: DIGITS + 1].partition(b":")
        if not colon and len(self._in) <= DIGITS and (not head or head.isdigit()):
            return
        length = self._length(bytes(head), bool(colon))
        whole = len(head) + 1 + length + 1
        if len(self._in) > whole:
            raise ProtocolError("more than one answer")
        if len(self._in) == whole:
            if self._in[-1:] != b",":
                raise ProtocolError("a netstring without its comma")
            self.complete = True

    def _length(self, head: bytes, colon: bool) -> int:
        if not colon or not head.isdigit() or (head[0] == 48 and head != b"0"):
            raise ProtocolError(f"no netstring: {head[:20]!r}")
        if int(head) > self._longest:
            raise ProtocolError(f"an answer of {int(head)} octets")
        return int(head)

    def end(self) -> bytes:
        """The payload. Raises ProtocolError if it did not come whole."""
        if not self.complete:
            raise ProtocolError("half an answer" if self._in else "no answer")
        return bytes(self._in[self._in.index(b":") + 1 : -1])


def question(name: str, key: str) -> bytes:
    """What a client sends."""
    return netstring(f"{name} {key}".encode("utf-8", "surrogateescape"))


def read_question(payload: bytes) -> tuple[str, str]:
    """(map, key), as a server reads it. Raises ProtocolError."""
    name, space, key = payload.decode("utf-8", "surrogateescape").partition(" ")
    if not space or not name:
        raise ProtocolError("no question: name, blank, key")
    return name, key


def answer(state: str, text: str = "") -> bytes:
    """What a server sends."""
    return netstring(f"{state} {text}".encode("utf-8", "surrogateescape"))


def read_answer(payload: bytes) -> Answer:
    """Raises ProtocolError for what is none of the five."""
    state, _, text = payload.decode("utf-8", "surrogateescape").partition(" ")
    if state not in STATES:
        raise ProtocolError(f"no answer of a socketmap: {state[:40]!r}")
    return Answer(state, text)
