"""Takes one message apart (in a child of the nursery): readings, parts, archives, documents. Parses hostile content.

Contract: `read` gives a Report, whatever the content is. Headers and decoded octets of parts go to `kept`, as far as
there is room; what is over a limit ends the reading and is named. No recursion: what is found inside waits in a
queue.
What failure means for the mail: what could not be looked into is named in the report; a crash is "not inspected".
"""

import encodings.aliases
import re
import signal
import time
from collections import deque
from mmap import mmap
from typing import NamedTuple

from appliance.daemons.scand import archives, filetypes, macros
from appliance.daemons.scand.members import Members
from appliance.daemons.scand.parts import Parts
from appliance.mail.inspection import Report
from appliance.protocol import mime
from appliance.protocol.mime import hosts, parameters, readings, transfer
from appliance.protocol.mime.structure import Piece

#: Hosts of one message, octets of one text in which they are looked for.
MAX_HOSTS, _TEXT = 2000, 4 * 1024 * 1024
_ENCODING_FIELD = re.compile(rb"^content-transfer-encoding", re.MULTILINE | re.IGNORECASE)
_FREE = 1024 * 1024
#: Octets of a header that YARA rules are shown.
_HEAD = 512 * 1024
#: Share of a job's time that taking apart may take of CPU: content that needs more is over the limit of time. A machine
#: that has no time for us is not charged to content: at the end of all its time the child is killed, which says nothing.
_SHARE = 0.25


class _Message(NamedTuple):
    """A message to be read: the whole one, or one that was encoded as a whole."""

    octets: mime.Octets
    start: int
    depth: int
    prefix: str
    alternate: bool


class Taking:
    """One message on its way to a Report."""

    def __init__(self, limits: mime.Limits, kept: mmap | None, size: int, until: float) -> None:
        self.limits = limits
        self.parts = Parts(kept)
        self.members = Members(self.parts, limits, archives.Caps(limits, size, until))
        self.count = self.depth = 0
        self.ambiguous: set[str] = set()
        self.hosts: dict[str, None] = {}
        self.over = ""
        self._waiting: deque[_Message] = deque()
        #: Octets of messages that were encoded as a whole.
        self._room = 4 * size + _FREE

    def run(self, octets: mime.Octets, start: int) -> None:
        """Everything."""
        self._waiting.append(_Message(octets, start, 0, "", False))
        try:
            self._top(octets, start)
            while self._waiting:
                self._message(self._waiting.popleft())
        except mime.Over as error:
            self.over = str(error)
        except MemoryError:
            self.over = "memory"

    def _top(self, octets: mime.Octets, start: int) -> None:
        """The header of the message by the YARA rules."""
        head = bytes(octets[start : start + _HEAD])
        self.parts.look("header", (), re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0], "", "header")

    def _message(self, message: _Message) -> None:
        limits = self.limits._replace(parts=max(self.limits.parts - self.count, 0))
        found = readings.read(message.octets, message.start, None, limits, message.depth, message.prefix)
        self.count += found.parts
        self.depth = max(self.depth, found.depth)
        self.ambiguous |= found.ambiguous
        for index, piece in enumerate(found.pieces):
            self._piece(message.octets, piece, message.alternate or index >= found.common)
        if found.over:
            raise mime.Over(found.over)

    def _piece(self, octets: mime.Octets, piece: Piece, alternate: bool) -> None:
        flags = {"alternate"} if alternate else set()
        header = bytes(octets[piece.header[0] : piece.header[1]])
        if piece.kind in ("before", "after"):
            self._text(bytes(octets[piece.start : piece.end]), piece, {*flags, "outside"})
            return
        if piece.fields.partial:
            flags.add("partial")
        if piece.fields.external:
            flags.add("external")
        encoded = [encoding for encoding in piece.fields.encodings if encoding]
        if piece.kind != "leaf" or ((piece.fields.multipart or any(piece.fields.message)) and encoded):
            self._inside_out(octets, piece, header, flags, encoded)
        if piece.kind == "leaf":
            self._leaf(bytes(octets[piece.start : piece.end]), piece, header, flags)

    def _inside_out(self, octets: mime.Octets, piece: Piece, header: bytes, flags: set[str], encoded: list[str]) -> None:
        """A multipart or message; one that is encoded as a whole waits to be read once more, decoded."""
        if piece.kind != "leaf":
            self.parts.add(piece, {*flags, "message" if piece.kind == "message" else "multipart"}, header)
        for encoding in encoded:
            self.ambiguous.add("encoded_composite")
            body = bytes(octets[piece.start : piece.end])
            for whole in transfer.decode(body, encoding)[0]:
                if piece.fields.multipart:
                    whole = _ENCODING_FIELD.sub(b"X-Encoding", header).rstrip(b"\r\n") + b"\r\n\r\n" + whole
                self._room -= len(whole)
                if self._room < 0:
                    raise mime.Over("octets")
                self._waiting.append(_Message(whole, 0, piece.depth + 1, piece.path, True))

    def _leaf(self, body: bytes, piece: Piece, header: bytes, flags: set[str]) -> None:
        """A part: every decoding of it is a Part of its own."""
        found: dict[bytes, None] = {}
        for encoding in piece.fields.encodings or ("",):
            decoded, odd = transfer.decode(body, encoding)
            found.update(dict.fromkeys(decoded))
            if odd:
                self.ambiguous.add(odd)
        if len(found) > 1:
            found.setdefault(body)
        plain = not any(piece.fields.encodings)
        if plain and not piece.fields.charset and transfer.looks_encoded(body):
            found.update(dict.fromkeys(transfer.decode(body, "base64")[0]))
        for index, octets in enumerate(found):
            self._part(octets, piece, header, {*flags, "alternate"} if index else flags)

    def _part(self, octets: bytes, piece: Piece, header: bytes, flags: set[str]) -> None:
        fields = piece.fields
        textual = not fields.types or fields.types[0].startswith("text/")
        if not textual or fields.names or fields.disposition.startswith("attachment"):
            flags = {*flags, "attachment"}
        detected = filetypes.detect(octets, deep="attachment" in flags)
        part = self.parts.add(piece, flags, header, octets, detected)
        if textual or detected.startswith("text/"):
            self._text(octets, piece, flags, detected == "text/html")
        self.members.look(part, octets)

    def _text(self, octets: bytes, piece: Piece, flags: set[str], is_html: bool = False) -> None:
        """Hosts of its URLs; files that stand encoded in it."""
        if "outside" in flags:
            if not octets.strip():
                return
            self.parts.add(piece, flags, b"", octets)
        is_html = is_html or any(kind.startswith("text/html") for kind in piece.fields.types)
        if len(self.hosts) < MAX_HOSTS:
            text = _decoded(octets[:_TEXT], piece.fields.charset)
            self.hosts.update(dict.fromkeys(hosts.hosts(text, is_html)))
        for number, item in enumerate(transfer.embedded(octets), 1):
            name = parameters.readable(item.name)
            inner = piece._replace(path=f"{piece.path}.u{number}", fields=piece.fields._replace(types=(), names=(name,)))
            detected = filetypes.detect(item.octets)
            part = self.parts.add(inner, {"attachment", "alternate"}, b"", item.octets, detected)
            self.members.look(part, item.octets)

    def report(self) -> Report:
        return Report(
            self.count,
            self.depth,
            self.over or self.members.over or self.parts.over,
            tuple(self.parts.listed),
            tuple(sorted(self.ambiguous)),
            tuple(self.members.unread[:1000]),
            missing(),
            tuple(self.hosts)[:MAX_HOSTS],
            self.parts.used,
            tuple(self.parts.hits),
            self.parts.rules,
        )


def _decoded(octets: bytes, charset: str) -> str:
    """A text in its charset; a byte order mark counts for more."""
    if octets[:2] in (b"\xff\xfe", b"\xfe\xff"):
        charset = "utf-16"
    return octets.decode(charset or "latin-1", "replace")


def missing() -> tuple[str, ...]:
    """Libraries that are not there."""
    absent = {"libmagic1": filetypes.is_missing(), "libarchive13": archives.is_missing(), "olefile": macros.is_missing()}
    return tuple(name for name, is_absent in absent.items() if is_absent)


def read(data: mime.Octets, start: int, limits: mime.Limits, kept: mmap | None, seconds: float = 10.0) -> Report:
    """Take apart data[start:] within about `seconds`."""
    taking = Taking(limits, kept, len(data) - start, time.process_time() + seconds * _SHARE)
    taking.run(data, start)
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    return taking.report()


def arm(seconds: float) -> None:
    """From now on reading ends as "over time" after its share of `seconds` of CPU."""

    def ring(*_: object) -> None:
        raise mime.Over("time")

    signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds * _SHARE, 0.2)


def warm() -> None:
    """Load all that a child may need, while files can still be opened."""
    for name in sorted(set(encodings.aliases.aliases.values())):
        parameters.codec(name.encode())
    filetypes.warm()
    archives.warm()
    macros.warm()
    read(_WARM, 0, mime.LIMITS, None)


_WARM = (
    b'Content-Type: multipart/mixed; boundary="warm"\r\n\r\n--warm\r\n\r\nhttps://warm.example/\r\n--warm\r\n'
    b"Content-Type: text/html; charset=utf-7\r\nContent-Transfer-Encoding: base64\r\n\r\nPGh0bWw+\r\n--warm--\r\n"
)
