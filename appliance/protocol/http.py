"""HTTP/1.1 of a client that asks one thing at a time, and what ICAP has of it: heads, chunked bodies, whole answers.

Contract: strict and bounded: CRLF line ends, field names of tokens, one length, bodies up to a limit. What does not fit
is ProtocolError, and the connection is of no use any more; `reusable` says whether it is. What failure means for the
mail: ProtocolError is "not scanned".
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError

MAX_HEAD, MAX_FIELDS, MAX_CHUNK_LINE = 65536, 200, 256
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\Z")
_FOLD = re.compile(rb"\r\n[ \t]+")
_STATUS = re.compile(r"(HTTP/1\.[01]|ICAP/1\.0) ([1-5]\d\d)(?: ([\t -~\x80-\xff]{0,500}))?\Z")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[ \t]*([\t -~]*))?\Z")
_LENGTH = re.compile(r"\d{1,15}\Z")
#: What a field of a request may hold: nothing that ends it.
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Head(NamedTuple):
    """A first line and its fields, in order. Texts are octets read as latin-1."""

    start: str
    fields: tuple[tuple[str, str], ...]

    def every(self, name: str) -> list[str]:
        """The values of a field."""
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str:
        """The value of a field that stands at most once, "" for none. Raises ProtocolError."""
        found = self.every(name)
        if len(set(found)) > 1:
            raise ProtocolError(f"answered with two different fields {name}")
        return found[0] if found else ""


class Status(NamedTuple):
    """What the first line of an answer says."""

    version: str
    code: int
    reason: str


class Answer(NamedTuple):
    """A whole answer; `reusable`: the connection may be used for the next question."""

    code: int
    reason: str
    head: Head
    body: bytes
    reusable: bool


def parse_head(octets: bytes, *, folds: bool = False) -> Head:
    """A head without the empty line at its end. `folds`: lines that go on are taken, a tab stands for each fold.
    Raises ProtocolError."""
    if folds:
        octets = _FOLD.sub(b"\t", octets)
    start, *lines = octets.split(b"\r\n")
    if len(lines) > MAX_FIELDS:
        raise ProtocolError(f"answered with more than {MAX_FIELDS} fields")
    fields = []
    for line in lines:
        found = _FIELD.match(line)
        if found is None:
            raise ProtocolError(f"answered with the field {line[:200]!r}")
        fields.append((found[1].decode("ascii"), found[2].decode("latin-1").strip(" \t")))
    return Head(start.decode("latin-1"), tuple(fields))


def status(head: Head) -> Status:
    """The first line of an answer. Raises ProtocolError."""
    found = _STATUS.match(head.start)
    if found is None:
        raise ProtocolError(f"answered {head.start[:200]!r}")
    return Status(found[1], int(found[2]), found[3] or "")


def stays(head: Head, *, by_default: bool) -> bool:
    """Whether the connection stays behind this answer."""
    words = {word.strip().lower() for value in head.every("connection") for word in value.split(",")}
    return "close" not in words and (by_default or "keep-alive" in words)


def safe(text: str) -> str:
    """`text` as the value of a field: what could end it is escaped."""
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text).strip(" \t")


def head(start: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """A head with its empty line; values are made safe, what is not ASCII goes as UTF-8."""
    lines = [start, *(f"{name}: {safe(value)}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def request(method: str, target: str, fields: Iterable[tuple[str, str]], length: int = 0) -> bytes:
    """What stands before a body of exactly `length` octets."""
    return head(f"{method} {target} HTTP/1.1", [*fields, ("Content-Length", str(length))])


class HeadReader:
    """Collects a head; what stands behind it stays in `rest`."""

    def __init__(self, *, folds: bool = False) -> None:
        self.rest = bytearray()
        self._seen = 0
        self._folds = folds

    def feed(self, data: bytes) -> Head | None:
        """The head once it is there. Raises ProtocolError."""
        self.rest += data
        end = self.rest.find(b"\r\n\r\n", self._seen)
        self._seen = 0 if end >= 0 else max(0, len(self.rest) - 3)
        if (len(self.rest) if end < 0 else end) > MAX_HEAD:
            raise ProtocolError(f"its head is longer than {MAX_HEAD} octets")
        if end < 0:
            return None
        found = parse_head(bytes(self.rest[:end]), folds=self._folds)
        del self.rest[: end + 4]
        return found

    def take(self) -> bytes:
        """What stood behind the head so far."""
        behind = bytes(self.rest)
        self.rest.clear()
        return behind


class Chunks:
    """A chunked body, given to `take` as it comes. `done` at its end, `rest`: what stands behind, `size` so far."""

    def __init__(self, limit: int, take: Callable[[bytes], object]) -> None:
        self._limit, self._take = limit, take
        self._data = bytearray()
        self._left = 0
        self._ending = False
        self._trailer = 0
        self.size = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError."""
        self._data += data
        while not self.done and self._data and self._step():
            pass
        if self.done:
            self.rest += bytes(self._data)
            self._data.clear()

    def _step(self) -> bool:
        """A chunk's octets, their end, or a line; False: more is needed."""
        if self._left:
            taken = bytes(self._data[: self._left])
            self._take(taken)
            del self._data[: len(taken)]
            self._left -= len(taken)
            self._ending = not self._left
            return True
        if self._ending:
            if not b"\r\n".startswith(self._data[:2]):
                raise ProtocolError("a chunk does not end where it should")
            if len(self._data) < 2:
                return False
            del self._data[:2]
            self._ending = False
            return True
        end = self._data.find(b"\r\n", 0, MAX_CHUNK_LINE)
        if end < 0 and len(self._data) >= MAX_CHUNK_LINE:
            raise ProtocolError(f"a chunk begins with {bytes(self._data[:60])!r}")
        if end < 0:
            return False
        line = bytes(self._data[:end])
        del self._data[: end + 2]
        self._line(line)
        return True

    def _line(self, line: bytes) -> None:
        if self._trailer:
            self._trailer += 1
            if line and (not _FIELD.match(line) or self._trailer > MAX_FIELDS):
                raise ProtocolError(f"a trailer has the field {line[:60]!r}")
            self.done = not line
            return
        found = _CHUNK.match(line)
        if found is None:
            raise ProtocolError(f"a chunk begins with {line[:60]!r}")
        self._left = int(found[1], 16)
        self._trailer = int(not self._left)
        self.size += self._left
        if self.size > self._limit:
            raise ProtocolError(f"its body is longer than {self._limit} octets")


class AnswerReader:
    """Collects the answer to one request (not to HEAD). `limit`: octets of the body. Class 1xx is passed over."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reading = HeadReader()
        self._head: Head | None = None
        self._status: Status | None = None
        self._chunks: Chunks | None = None
        self._length: int | None = None
        self._body = bytearray()
        self._behind = False

    @property
    def complete(self) -> bool:
        """Nothing more is due; an answer without a length ends with the stream."""
        if self._head is None:
            return False
        if self._chunks is not None:
            return self._chunks.done
        return self._length is not None and len(self._body) >= self._length

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError."""
        while self._head is None:
            found = self._reading.feed(data)
            if found is None:
                return
            data = b""
            self._begin(found)
        data = self._reading.take() + data
        if self._chunks is not None:
            self._chunks.feed(data)
            self._behind |= bool(self._chunks.rest)
            return
        self._body += data
        if self._length is not None and len(self._body) > self._length:
            self._behind = True
        elif len(self._body) > self._limit:
            raise ProtocolError(f"its body is longer than {self._limit} octets")

    def _begin(self, found: Head) -> None:
        first = status(found)
        if not first.version.startswith("HTTP/"):
            raise ProtocolError(f"answered {found.start[:200]!r}")
        if first.code < 200:
            return
        self._head, self._status = found, first
        coding, length = found.get("transfer-encoding").lower(), found.get("content-length")
        if coding and (coding != "chunked" or length):
            raise ProtocolError(f"answered with transfer-encoding {coding[:50]!r} and content-length {length[:20]!r}")
        if coding:
            self._chunks = Chunks(self._limit, self._body.extend)
        elif first.code in (204, 304):
            self._length = 0
        elif length:
            if not _LENGTH.match(length):
                raise ProtocolError(f"announced {length[:20]!r} octets")
            self._length = int(length)
            if self._length > self._limit:
                raise ProtocolError(f"its body is longer than {self._limit} octets")

    def end(self) -> Answer:
        """The answer, when it is complete or the stream has ended. Raises ProtocolError."""
        if self._head is None or self._status is None:
            raise ProtocolError(
                f"hung up in the head of its answer, after {bytes(self._reading.rest[:200])!r}"
                if self._reading.rest
                else "hung up without an answer"
            )
        if not self.complete and (self._chunks is not None or self._length is not None):
            raise ProtocolError("hung up in the body of its answer")
        if self._behind:
            raise ProtocolError("wrote on behind its answer")
        return Answer(self._status.code, self._status.reason, self._head, bytes(self._body), self._reusable())

    def _reusable(self) -> bool:
        assert self._head is not None
        assert self._status is not None
        return self.complete and stays(self._head, by_default=self._status.version == "HTTP/1.1")
