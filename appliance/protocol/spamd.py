"""The SPAMC/SPAMD protocol as bytes: SYMBOLS asked in version 1.5, and what an answer means (spamd's PROTOCOL file).

Contract: one question a connection, the answer ends with it. Code 0, one `Spam:` header with two finite numbers, a body
of the announced length; else the answer is ProtocolError: no score is made up (threats C9). What failure means for the
mail: ProtocolError is "not scored", neither spam nor ham.
"""

import re
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError

MAX_REPLY = 65536
MAX_RULES = 2000
_STATUS = re.compile(rb"SPAMD/\d{1,3}\.\d{1,3} (\d{1,3})(?: ([ -~]{0,200}))?\Z")
_HEADER = re.compile(rb"([A-Za-z][A-Za-z0-9-]{0,60}):[ \t]*([ -~]{0,1000})\Z")
_NUMBER = r"(-?\d{1,7}(?:\.\d{1,6})?)"
_SPAM = re.compile(rf"(True|False|Yes|No) ; {_NUMBER} / {_NUMBER}\Z")
_RULE = re.compile(r"[A-Za-z0-9_]{1,128}\Z")


class Answer(NamedTuple):
    """`spam` is spamd's own opinion: the score reached the threshold. `rules` are names, in spamd's order."""

    spam: bool
    score: float
    threshold: float
    rules: tuple[str, ...]


def request(size: int, user: str = "") -> bytes:
    """What stands before the message of exactly `size` octets; the names of the fields are case-sensitive."""
    who = f"User: {user}\r\n" if user else ""
    return f"SYMBOLS SPAMC/1.5\r\nContent-length: {size}\r\n{who}\r\n".encode("ascii")


def parse(reply: bytes) -> Answer:
    """The whole answer, read to its end. Raises ProtocolError."""
    head, empty, body = reply.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    status = _STATUS.match(lines[0])
    if status is None:
        raise ProtocolError(f"spamd answered {reply[:200]!r}" if reply else "spamd hung up without an answer")
    if int(status[1]) != 0:
        raise ProtocolError(f"spamd answered {int(status[1])} {(status[2] or b'').decode('ascii')}")
    if not empty:
        raise ProtocolError("spamd hung up in the header of its answer")
    headers = _headers(lines[1:])
    _whole(headers.get("content-length"), body)
    spam, score, threshold = _score(headers.get("spam", ""))
    return Answer(spam, score, threshold, _rules(body))


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.match(line)
        if found is None:
            raise ProtocolError(f"spamd answered with the header {line[:200]!r}")
        name = found[1].decode("ascii").lower()
        if name in headers:
            raise ProtocolError(f"spamd answered with two headers {name}")
        headers[name] = found[2].decode("ascii").strip()
    return headers


def _whole(length: str | None, body: bytes) -> None:
    if length is None:
        raise ProtocolError("spamd did not say how long its answer is")
    if not re.match(r"[0-9]{1,9}\Z", length) or int(length) != len(body):
        raise ProtocolError(f"spamd announced {length[:20]} octets and sent {len(body)}")


def _score(value: str) -> tuple[bool, float, float]:
    found = _SPAM.match(value)
    if found is None:
        raise ProtocolError(f"spamd answered with the score {value[:200]!r}")
    return found[1] in ("True", "Yes"), float(found[2]), float(found[3])


def _rules(body: bytes) -> tuple[str, ...]:
    text = body.decode("ascii", "replace").strip("\r\n")
    rules = tuple(text.split(",")) if text else ()
    if len(rules) > MAX_RULES or not all(map(_RULE.match, rules)):
        raise ProtocolError(f"spamd answered with the rules {text[:200]!r}")
    return rules


class ReplyReader:
    """Collects the answer to one question; `end` at end of stream."""

    #: Only the end of the stream ends the answer.
    complete = False

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError when the answer gets too long."""
        self._data += data
        if len(self._data) > MAX_REPLY:
            raise ProtocolError(f"spamd's answer is longer than {MAX_REPLY} octets")

    def end(self) -> Answer:
        """The answer. Raises ProtocolError."""
        return parse(bytes(self._data))
