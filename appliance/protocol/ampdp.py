"""AM.PDP, the policy protocol of amavisd as bytes (its README.protocol): both ends of attributes, and what an answer
means.

Contract: lines `name=value` that end with CRLF, an empty line behind the last; values are fields joined by one blank,
each escaped. An answer has exactly one return_value of the five; edits are bounded in number. All else is
ProtocolError. What failure means for the mail: ProtocolError, and "tempfail", are "not judged".
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError

MAX_REPLY, MAX_LINES = 262144, 2000
RETURN_VALUES = frozenset({"continue", "accept", "reject", "discard", "tempfail"})
_NAME_UNSAFE = re.compile(rb"[^0-9a-zA-Z_-]")
_VALUE_UNSAFE = re.compile(rb"[^\x21-\x24\x26-\x7e]")
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")
_LINE = re.compile(rb"([^\x00 =]{1,200})=([^\x00]*)\Z")
_FIELD_NAME = re.compile(r"[!-9;-~]{1,100}\Z")
_REPLY = re.compile(r"[245]\d\d\Z")
_NUMBER = re.compile(r"\d{1,6}\Z")

#: An attribute: its name, and the fields of its value.
Attribute = tuple[str, tuple[str, ...]]


class HeaderEdit(NamedTuple):
    """`op`: delete, change (the `number`-th field of that name), insert (so far from the top), add (at the end)."""

    op: str
    number: int
    name: str
    value: str = ""


class Answer(NamedTuple):
    """`reply`: code, enhanced code and text for the client, ("", "", "") without any."""

    value: str
    reply: tuple[str, str, str] = ("", "", "")
    edits: tuple[HeaderEdit, ...] = ()
    added: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    quarantine: str = ""
    log_id: str = ""


def encode(attributes: Iterable[Attribute]) -> bytes:
    """A whole request or answer."""
    lines = []
    for name, fields in attributes:
        value = b" ".join(_escaped(_VALUE_UNSAFE, field) for field in fields)
        lines.append(_escaped(_NAME_UNSAFE, name) + b"=" + value + b"\r\n")
    return b"".join(lines) + b"\r\n"


def _escaped(unsafe: re.Pattern[bytes], text: str) -> bytes:
    return unsafe.sub(lambda found: b"%%%02x" % found[0][0], text.encode("utf-8", "surrogateescape"))


def _plain(octets: bytes) -> str:
    whole = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), octets)
    return whole.decode("utf-8", "surrogateescape")


class Reader:
    """Collects one request or answer; `end` when it is complete, or the stream ends."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._seen = 0

    @property
    def complete(self) -> bool:
        """The empty line has come."""
        return self._end() >= 0

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError when it gets too long."""
        self._data += data
        if len(self._data) > MAX_REPLY:
            raise ProtocolError(f"amavisd's answer is longer than {MAX_REPLY} octets")

    def _end(self) -> int:
        if self._data.startswith(b"\r\n"):
            return 0
        found = self._data.find(b"\r\n\r\n", self._seen)
        if found < 0:
            self._seen = max(0, len(self._data) - 3)
            return -1
        self._seen = found
        return found + 2

    def attributes(self) -> list[Attribute]:
        """Raises ProtocolError."""
        end = self._end()
        if end < 0:
            raise ProtocolError(
                f"amavisd hung up in its answer, after {bytes(self._data[:200])!r}"
                if self._data
                else "amavisd hung up without an answer"
            )
        if len(self._data) > end + 2:
            raise ProtocolError(f"amavisd wrote on behind its answer: {bytes(self._data[end + 2 : end + 202])!r}")
        lines = bytes(self._data[:end]).split(b"\r\n")[:-1]
        if len(lines) > MAX_LINES:
            raise ProtocolError(f"amavisd answered with {len(lines)} lines")
        return [_attribute(line) for line in lines]

    def end(self) -> Answer:
        """The answer. Raises ProtocolError."""
        return parse(self.attributes())


def _attribute(line: bytes) -> Attribute:
    found = _LINE.match(line)
    if found is None:
        raise ProtocolError(f"amavisd answered {line[:200]!r}")
    return _plain(found[1]), tuple(_plain(field) for field in found[2].split(b" "))


def parse(attributes: Iterable[Attribute]) -> Answer:
    """What an answer means. Raises ProtocolError."""
    values: dict[str, list[tuple[str, ...]]] = {}
    edits = []
    for name, fields in attributes:
        if name in ("delheader", "chgheader", "insheader", "addheader"):
            edits.append(_edit(name, fields))
        else:
            values.setdefault(name, []).append(fields)
    said = [" ".join(fields) for fields in values.get("return_value", [])]
    if len(said) != 1 or said[0] not in RETURN_VALUES:
        raise ProtocolError(f"amavisd answered with the return_value {', '.join(said)[:100]!r}")
    return Answer(
        said[0],
        _reply(values.get("setreply", [])),
        tuple(edits),
        tuple(fields[0] for fields in values.get("addrcpt", [])),
        tuple(fields[0] for fields in values.get("delrcpt", [])),
        " ".join(values.get("quarantine", [("",)])[0]),
        values.get("log_id", [("",)])[0][0][:100],
    )


def _reply(said: list[tuple[str, ...]]) -> tuple[str, str, str]:
    if not said:
        return "", "", ""
    fields = said[0]
    if len(said) > 1 or len(fields) != 3 or not _REPLY.match(fields[0]):
        raise ProtocolError(f"amavisd answered with the setreply {' '.join(fields)[:200]!r}")
    return fields[0], fields[1], fields[2]


def _edit(name: str, fields: tuple[str, ...]) -> HeaderEdit:
    op = {"delheader": "delete", "chgheader": "change", "insheader": "insert", "addheader": "add"}[name]
    rest = fields if op == "add" else fields[1:]
    number = "0" if op == "add" else fields[0]
    if len(rest) != (1 if op == "delete" else 2) or not _NUMBER.match(number) or not _FIELD_NAME.match(rest[0]):
        raise ProtocolError(f"amavisd answered with {name} {' '.join(fields)[:200]!r}")
    return HeaderEdit(op, int(number), rest[0], rest[1] if len(rest) > 1 else "")
