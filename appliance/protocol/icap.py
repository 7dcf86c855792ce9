"""ICAP as bytes (RFC 3507), the client's side: OPTIONS, RESPMOD and REQMOD with previews, and what an answer says.

Contract: one question at a time on a connection. Questions always allow 204. Answers are read strictly: an encapsulated
head at its announced offset, a chunked body whose octets are not kept but compared with what was sent. What failure means
for the mail: ProtocolError is "not scanned".
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from appliance.protocol import http
from appliance.protocol.errors import ProtocolError
from appliance.protocol.http import Chunks, Head, HeadReader

RESPMOD, REQMOD = "RESPMOD", "REQMOD"
#: Octets of a preview at most, seconds that OPTIONS count at most.
MAX_PREVIEW, MAX_TTL = 65536, 3600
#: Octets that an answer's body may be longer than what was sent: a page that says what was found.
MORE = 1024 * 1024
END, WHOLE = b"0\r\n\r\n", b"0; ieof\r\n\r\n"
_NUMBER = re.compile(r"\d{1,9}\Z")
_SECTION = re.compile(r"(req-hdr|res-hdr|req-body|res-body|opt-body|null-body)=(\d{1,7})\Z")


class Options(NamedTuple):
    """What a service says of itself. `preview`: octets that it wants to see first, None: all at once."""

    methods: frozenset[str]
    preview: int | None
    tag: str
    ttl: int


class Answer(NamedTuple):
    """`status`: of the HTTP answer inside, 0 where none came. `unchanged`: the body that came back is the one that was
    sent; None: none came."""

    code: int
    reason: str
    head: Head
    status: int = 0
    unchanged: bool | None = None
    reusable: bool = False


class Envelope(NamedTuple):
    """What a content is sent as: where, how it is called, its type, and more fields of the ICAP head."""

    host: str
    service: str
    name: str
    kind: str
    fields: tuple[tuple[str, str], ...] = ()


def options(host: str, service: str) -> bytes:
    """The question what the service can do."""
    fields = [("Host", host), ("User-Agent", "Postgate"), ("Encapsulated", "null-body=0")]
    return http.head(f"OPTIONS icap://{host}/{service} ICAP/1.0", fields)


def parse_options(answer: Answer) -> Options:
    """Raises ProtocolError."""
    if answer.code != 200:
        raise ProtocolError(f"the service answered OPTIONS with {answer.code} {answer.reason}")
    methods = {word.strip().upper() for value in answer.head.every("methods") for word in value.split(",")}
    preview, ttl = answer.head.get("preview"), answer.head.get("options-ttl")
    for value in (preview, ttl):
        if value and not _NUMBER.match(value):
            raise ProtocolError(f"the service says {value[:20]!r} where a number should be")
    complete = ",".join(answer.head.every("transfer-complete")).lower()
    wants = bool(preview) and "eml" not in complete and "*" not in complete
    return Options(
        frozenset(methods),
        min(int(preview), MAX_PREVIEW) if wants else None,
        answer.head.get("istag").strip('"'),
        min(int(ttl), MAX_TTL) if ttl else MAX_TTL,
    )


def head(method: str, envelope: Envelope, size: int, preview: int | None) -> bytes:
    """All that stands before the content of `size` octets."""
    url = f"http://{envelope.host}/{envelope.name}"
    about = [("Content-Type", envelope.kind), ("Content-Length", str(size))]
    if method == REQMOD:
        inner = http.head(f"POST {url} HTTP/1.1", [("Host", envelope.host), *about])
        sections = f"req-hdr=0, req-body={len(inner)}"
    else:
        request = http.head(f"GET {url} HTTP/1.1", [("Host", envelope.host)])
        inner = request + http.head("HTTP/1.1 200 OK", about)
        sections = f"req-hdr=0, res-hdr={len(request)}, res-body={len(inner)}"
    fields = [("Host", envelope.host), ("User-Agent", "Postgate"), ("Allow", "204"), *envelope.fields]
    if preview is not None:
        fields.append(("Preview", str(preview)))
    fields.append(("Encapsulated", sections))
    return http.head(f"{method} icap://{envelope.host}/{envelope.service} ICAP/1.0", fields) + inner


def chunk(octets: bytes) -> bytes:
    """One chunk, not empty."""
    return b"%x\r\n%s\r\n" % (len(octets), octets)


class Question:
    """A content on its way: first() is sent at once, rest() when the service says so (with a preview) or behind it."""

    def __init__(self, start: bytes, pieces: Iterable[bytes], size: int, preview: int | None) -> None:
        self._start, self._size = start, size
        self._preview = preview
        self._pieces = iter(pieces)
        self._kept = b""
        self._digest = hashlib.blake2b(digest_size=20)
        #: The preview, or all of the content with its end, was taken and sent: whoever sends came back for more.
        self.shown = self.whole = False

    @property
    def waits(self) -> bool:
        """Whether the rest is sent only if it is asked for."""
        return self._preview is not None and self._size > self._preview

    def first(self) -> Iterator[bytes]:
        """Head and preview, or all."""
        if self._preview is None:
            yield from chain((self._start,), self._chunks(self._pieces), (END,))
            self.whole = True
            return
        shown = b""
        while len(shown) < min(self._preview, self._size):
            shown += next(self._pieces)
        shown, self._kept = shown[: self._preview], shown[self._preview :]
        yield self._start + b"".join(self._chunks((shown,))) + (END if self.waits else WHOLE)
        self.shown, self.whole = self.waits, not self.waits

    def rest(self) -> Iterator[bytes]:
        """What comes behind the preview."""
        yield from chain(self._chunks((self._kept,)), self._chunks(self._pieces), (END,))
        self.whole = True

    def _chunks(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if piece:
                self._digest.update(piece)
                yield chunk(piece)

    def digest(self) -> bytes:
        """Of what was sent."""
        return self._digest.digest()


class AnswerReader:
    """Collects one answer. `limit`: octets of an encapsulated body. `go_on`: the service wants the rest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reading = HeadReader(folds=True)
        self._head: Head | None = None
        self._status = http.Status("", 0, "")
        self._inner = bytearray()
        self._inner_left = 0
        self._inner_status = 0
        self._chunks: Chunks | None = None
        self._digest = hashlib.blake2b(digest_size=20)
        self._last_head = -1
        self._behind = False
        self.go_on = False

    @property
    def complete(self) -> bool:
        """Nothing more is due."""
        if self._head is None or self._inner_left > len(self._inner):
            return False
        return self._chunks is None or self._chunks.done

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError."""
        while self._head is None:
            found = self._reading.feed(data)
            if found is None:
                return
            data = b""
            self._begin(found)
        data = self._reading.take() + data
        missing = self._inner_left - len(self._inner)
        if missing > 0:
            self._inner += data[:missing]
            data = data[missing:]
            if len(self._inner) < self._inner_left:
                return
            self._read_inner()
        if self._chunks is not None and not self._chunks.done:
            self._chunks.feed(data)
            self._behind |= bool(self._chunks.rest)
        else:
            self._behind |= bool(data)

    def _begin(self, found: Head) -> None:
        status = http.status(found)
        if status.version != "ICAP/1.0":
            raise ProtocolError(f"answered {found.start[:200]!r}")
        if status.code == 100 and not self.go_on:
            self.go_on = True
            return
        if status.code < 200:
            raise ProtocolError(f"answered {found.start[:200]!r}")
        self._head, self._status = found, status
        sections = _sections(found.get("encapsulated"))
        name, self._inner_left = sections[-1] if sections else ("null-body", 0)
        if self._inner_left > http.MAX_HEAD:
            raise ProtocolError(f"announced a head of {self._inner_left} octets")
        if name != "null-body":
            self._chunks = Chunks(self._limit, self._digest.update)
        self._last_head = next((start for section, start in sections if section == "res-hdr"), -1)

    def _read_inner(self) -> None:
        """The status of the HTTP answer inside, if there is one."""
        if self._last_head < 0:
            return
        block, end, _ = bytes(self._inner[self._last_head :]).partition(b"\r\n\r\n")
        if not end:
            raise ProtocolError("the HTTP head inside does not end where it should")
        status = http.status(http.parse_head(block, folds=True))
        if not status.version.startswith("HTTP/"):
            raise ProtocolError(f"the HTTP answer inside begins with {block[:50]!r}")
        self._inner_status = status.code

    def end(self, sent: bytes = b"") -> Answer:
        """The answer, when it is complete or the stream has ended; `sent`: digest of what was. Raises ProtocolError."""
        if self._head is None:
            raise ProtocolError(
                f"hung up in its answer, after {bytes(self._reading.rest[:200])!r}"
                if self._reading.rest or self.go_on
                else "hung up without an answer"
            )
        if not self.complete:
            raise ProtocolError("hung up in the body of its answer")
        if self._behind:
            raise ProtocolError("wrote on behind its answer")
        unchanged = None if self._chunks is None else self._digest.digest() == sent
        kept = http.stays(self._head, by_default=True)
        return Answer(self._status.code, self._status.reason, self._head, self._inner_status, unchanged, kept)


def _sections(value: str) -> list[tuple[str, int]]:
    """The parts of an encapsulated message and where they begin. Raises ProtocolError."""
    found = []
    for item in value.split(",") if value else ():
        match = _SECTION.match(item.strip())
        if match is None:
            raise ProtocolError(f"announced the sections {value[:100]!r}")
        found.append((match[1], int(match[2])))
    starts = [start for _, start in found]
    if starts and (starts[0] != 0 or starts != sorted(starts) or not found[-1][0].endswith("-body")):
        raise ProtocolError(f"announced the sections {value[:100]!r}")
    return found
