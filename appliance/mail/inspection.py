"""What is inside a message (scand says so), and how smtpd, scand and the process that takes it apart speak of it.

Contract: msgpack of these values over net.channel; a Job goes with the message's read-only descriptor and, if `room` is
set, with a memory file of that size, into which the reader writes headers and decoded octets of parts. Whoever decodes
does so strictly: a Report is made by the process that read hostile content, so it is believed no further than its types.
What failure means for the mail: no Report, "not inspected", never a guess.
"""

from collections.abc import Iterator
from mmap import mmap
from typing import Annotated

import msgspec

from appliance.protocol.mime import Limits

_Word = Annotated[str, msgspec.Meta(max_length=200)]
_Words = Annotated[tuple[_Word, ...], msgspec.Meta(max_length=100)]
#: A name, a path, a host in a Report.
_Text = Annotated[str, msgspec.Meta(max_length=2048)]
_Names = Annotated[tuple[_Text, ...], msgspec.Meta(max_length=1000)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Span = tuple[_Count, _Count]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """Take apart `size` octets from `offset` in the descriptor, within `seconds` (waiting included)."""

    id: _Count
    offset: _Count
    size: _Count
    seconds: Annotated[float, msgspec.Meta(gt=0)]
    limits: Limits
    #: Octets of the memory file that comes with it, 0 for none.
    room: _Count = 0


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One part in one or more readings, or one member of an archive. All texts are the sender's: data, never paths.

    `path`: "1.2"; a member is "1.2!dir/name.exe", nested "1!a.zip!b.exe". `types` and `names`: of every reading, the
    likeliest first, types in lower case. `detected`: what the octets are ("" = nothing known). `body` and `header` are
    (offset, length) in the parts file; nothing there: length 0. `size`: decoded octets. `flags`: see FLAGS.
    """

    path: _Text
    depth: _Count = 0
    types: _Words = ()
    names: _Names = ()
    detected: _Word = ""
    size: _Count = 0
    body: _Span = (0, 0)
    header: _Span = (0, 0)
    charset: _Word = ""
    flags: _Words = ()


#: attachment: has a name, is said to be one, or is no text. alternate: only some readings have it. member: of an archive.
#: html, archive, macro, encrypted: what it is. partial, external: message/partial, message/external-body. unread: could
#: not be looked into. cut: not whole in the parts file. message: a nested message.
FLAGS = (
    "attachment",
    "alternate",
    "member",
    "html",
    "archive",
    "macro",
    "encrypted",
    "partial",
    "external",
    "message",
    "unread",
    "cut",
)


class Hit(msgspec.Struct, frozen=True, array_like=True):
    """A YARA rule that fits the part `path`; `kind` is what the rule's meta says: infected, suspicious, clean."""

    path: _Text
    rule: _Word
    kind: _Word


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What a message holds. `count` parts (itself among them), `depth` levels; `over` names the limit that ended the
    reading; `ambiguous`: in which ways readers would differ; `unread`: "path: why" of what nobody could look into;
    `missing`: libraries that are not there, so that something was not looked for. `hosts`: of URLs in text and HTML."""

    count: _Count = 0
    depth: _Count = 0
    over: _Word = ""
    parts: Annotated[tuple[Part, ...], msgspec.Meta(max_length=40000)] = ()
    ambiguous: _Words = ()
    unread: _Names = ()
    missing: _Words = ()
    hosts: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=2000)] = ()
    #: Octets of the parts file that are in use.
    used: _Count = 0
    #: What YARA rules found, and which rules were in force ("": none).
    hits: Annotated[tuple[Hit, ...], msgspec.Meta(max_length=200)] = ()
    rules: _Word = ""


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """The answer to Job `id`: a report, or why there is none."""

    id: _Count
    report: Report | None
    why: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Inspection:
    """A Report with its parts file. The octets live as long as this object."""

    __slots__ = ("__weakref__", "_octets", "report")

    def __init__(self, report: Report, octets: bytes | mmap = b"") -> None:
        self.report, self._octets = report, octets

    def body(self, part: Part) -> bytes:
        """The decoded octets of a part, as far as they were kept."""
        return self._octets[part.body[0] : part.body[0] + part.body[1]]

    def header(self, part: Part) -> bytes:
        """The header block of a part as it came, b"" for a member of an archive."""
        return self._octets[part.header[0] : part.header[0] + part.header[1]]

    def chunks(self, part: Part, size: int = 65536) -> Iterator[bytes]:
        """As `body`, in pieces."""
        start, length = part.body
        for at in range(start, start + length, size):
            yield self._octets[at : min(at + size, start + length)]

    @property
    def names(self) -> tuple[str, ...]:
        """What the message calls its attachments, members of archives not among them."""
        return tuple(
            dict.fromkeys(name for part in self.report.parts if "member" not in part.flags for name in part.names)
        )


encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_finding = msgspec.msgpack.Decoder(Finding).decode
