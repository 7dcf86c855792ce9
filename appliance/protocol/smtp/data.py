"""Message content on the wire: DATA with its dots, BDAT without, and the way out (RFC 5321 4.5.2, RFC 3030).

Contract: chunks in, chunks out, split anywhere, at most four octets kept back; what comes out has CRLF line ends only.
A line ends at CRLF and nowhere else: only CRLF "." CRLF ends DATA, and only a dot behind a CRLF is taken away. Bare CR
and bare LF take no part in either; they are made CRLF afterwards, so every later reader sees the same lines. What
failure means for the mail: nothing here fails; whoever refuses bare line ends asks `refused` and answers 550 5.5.2.
"""

from typing import Literal

BareLineEnds = Literal["normalize", "reject"]

_END = b"\r\n.\r\n"
#: What the end of a chunk may hold of the terminator, longest first: it cannot be judged before the next chunk.
_PARTS = tuple(_END[:size] for size in range(len(_END) - 1, 0, -1))


def bare_line_ends(content: bytes) -> tuple[bool, bool]:
    """(is there a bare LF, is there a bare CR). `content` must not cut a CRLF in two."""
    pairs = content.count(b"\r\n")
    return content.count(b"\n") != pairs, content.count(b"\r") != pairs


def normalized(content: bytes) -> bytes:
    """Every CRLF, bare LF and bare CR of `content` as CRLF. `content` must not cut a CRLF in two."""
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


class _Decoder:
    """What DATA and BDAT share: the signs seen on the way, the count, CRLF as the only line end."""

    def __init__(self, bare_lf: BareLineEnds = "normalize") -> None:
        self.bare_lf = bare_lf
        #: What was odd on the wire: bare_lf, bare_cr, nul.
        self.signs: set[str] = set()
        #: Octets of content given out so far.
        self.size = 0

    @property
    def refused(self) -> bool:
        """The policy is "reject" and a bare CR or LF was seen."""
        return self.bare_lf == "reject" and not self.signs.isdisjoint(("bare_lf", "bare_cr"))

    def _clean(self, content: bytes) -> bytes:
        if b"\0" in content:
            self.signs.add("nul")
        lone_lf, lone_cr = bare_line_ends(content)
        if lone_lf or lone_cr:
            self.signs.update(("bare_lf",) * lone_lf + ("bare_cr",) * lone_cr)
            return normalized(content)
        return content


class DataDecoder(_Decoder):
    """What follows 354. After `done`, `rest` holds the octets behind the terminator: the client's next commands."""

    def __init__(self, bare_lf: BareLineEnds = "normalize") -> None:
        super().__init__(bare_lf)
        self.done = False
        self.rest = b""
        # The CRLF that ended the DATA command is the first line end; it is cut off the first octets given out.
        self._held = b"\r\n"
        self._first = True
        self._dotted = False

    @property
    def plain(self) -> bool:
        """Nothing that was given out so far needs a change on its way out: CRLF line ends as they came, and no line
        begins with a dot."""
        return not self._dotted and self.signs.isdisjoint(("bare_lf", "bare_cr"))

    def feed(self, chunk: bytes) -> bytes:
        """The content that `chunk` completes (maybe b""). Once `done`, all that comes is kept in `rest`."""
        if self.done:
            self.rest += chunk
            return b""
        raw = self._held + chunk
        # A chunk without a dot at a line start can neither end nor need unstuffing: one search decides both.
        # The single dot is looked for first: that is a hundred times faster, and many bodies have none.
        dotted = b"." in raw and b"\r\n." in raw
        end = raw.find(_END) if dotted else -1
        if end >= 0:
            self.done, self.rest, self._held = True, raw[end + len(_END) :], b""
            raw = raw[: end + 2]
        else:
            raw = self._hold_back(raw)
        if dotted:
            stuffed, raw = len(raw), raw.replace(b"\r\n.", b"\r\n")
            self._dotted = self._dotted or len(raw) != stuffed
        return self._give(raw)

    def _hold_back(self, raw: bytes) -> bytes:
        """Keep what may begin a terminator; what is left neither cuts a CRLF nor a stuffed dot in two."""
        self._held = b""
        if raw.endswith((b"\r", b"\n", b".")):
            for part in _PARTS:
                if raw.endswith(part):
                    self._held = part
                    return raw[: -len(part)]
        return raw

    def _give(self, raw: bytes) -> bytes:
        if not raw:
            return b""
        content = self._clean(raw)
        if self._first:
            self._first = False
            content = content[2:]
        self.size += len(content)
        return content


class BdatDecoder(_Decoder):
    """All BDAT chunks of one message, one after the other; call `finish` behind the last (RFC 3030)."""

    def __init__(self, bare_lf: BareLineEnds = "normalize") -> None:
        super().__init__(bare_lf)
        self._held = b""
        self._open_line = False

    def feed(self, chunk: bytes) -> bytes:
        """The content that `chunk` completes. The borders of chunks mean nothing: CR | LF is one CRLF."""
        raw = self._held + chunk if self._held else chunk
        self._held = b""
        if raw.endswith(b"\r"):
            raw, self._held = raw[:-1], b"\r"
        return self._give(raw)

    def finish(self) -> bytes:
        """What is missing at the end: the CRLF of a last line that has none, so that the content can go out by DATA."""
        raw, self._held = self._held, b""
        content = self._give(raw)
        if self._open_line:
            content += b"\r\n"
            self.size += 2
            self._open_line = False
        return content

    def _give(self, raw: bytes) -> bytes:
        if not raw:
            return b""
        content = self._clean(raw)
        self._open_line = not content.endswith(b"\n")
        self.size += len(content)
        return content


class DataEncoder:
    """Content to what follows 354: CRLF line ends only, each leading dot doubled after that clean-up."""

    def __init__(self) -> None:
        self._lines = BdatDecoder()
        self._line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """The octets to send for `chunk` (maybe b"")."""
        return self._stuffed(self._lines.feed(chunk))

    def finish(self) -> bytes:
        """The end of the last line if it has none, then the terminator."""
        return self._stuffed(self._lines.finish()) + b".\r\n"

    def _stuffed(self, content: bytes) -> bytes:
        if not content:
            return b""
        first = b"." if self._line_start and content.startswith(b".") else b""
        self._line_start = content.endswith(b"\n")
        if b"\n." in content:
            content = content.replace(b"\n.", b"\n..")
        return first + content if first else content
