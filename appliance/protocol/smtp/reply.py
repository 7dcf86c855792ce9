"""Replies: building them for clients, reading them from servers (RFC 5321 4.2, RFC 2034).

Contract: what is encoded is always well formed: printable ASCII, at most 512 octets a line with its CRLF, every line
with the code and the enhanced code. What is read is bounded, and printable before anybody sees it.
What failure means for the mail: a server that talks rubbish raises ProtocolError; the delivery is put off.
"""

import re
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError

#: Octets of a reply line without its CRLF (RFC 5321 4.5.3.1.5).
MAX_TEXT_LINE = 510

_UNPRINTABLE = re.compile(r"[^ -~]")
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_FULL = re.compile(r"([2-5][0-9][0-9])(?: ([245]\.[0-9]{1,3}\.[0-9]{1,3}))?(?: (.*))?", re.DOTALL)


def printable(text: str) -> str:
    """`text` with everything but printable ASCII as `?`: fit for a reply, a log line, a header."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub("?", text)


class Reply(NamedTuple):
    """One reply: `code` 200..599, `enhanced` "2.1.0" or "" (RFC 3463), `lines` the texts without both codes."""

    code: int
    enhanced: str = ""
    lines: tuple[str, ...] = ("",)

    @property
    def text(self) -> str:
        """All on one line as logs show it: "550 5.1.1 <x>: unknown"."""
        return " ".join(part for part in (str(self.code), self.enhanced, *self.lines) if part)

    def encode(self) -> bytes:
        """The octets; a line that is too long is broken at blanks into several, never cut off."""
        start = f"{self.enhanced} " if self.enhanced else ""
        room = MAX_TEXT_LINE - 4 - len(start)
        texts = [piece for line in self.lines for piece in _wrapped(printable(line), room)] or [""]
        lines = [f"{self.code}-{start}{text}\r\n" for text in texts[:-1]]
        return "".join([*lines, f"{self.code} {start}{texts[-1]}".rstrip(" ") + "\r\n"]).encode("ascii")


def from_text(text: str) -> Reply:
    """The Reply that "550 5.1.1 some words" stands for (a shipped text, `ProtocolError.reply`). Line feeds part lines.

    Raises ValueError if `text` does not begin with a code: that is a mistake of ours or of a policy file.
    """
    match = _FULL.fullmatch(text)
    if not match:
        raise ValueError(f"a reply begins with a code 200 to 599: {text[:60]!r}")
    return Reply(int(match[1]), match[2] or "", tuple((match[3] or "").split("\n")))


def _wrapped(text: str, room: int) -> list[str]:
    pieces = []
    while len(text) > room:
        cut = text.rfind(" ", 1, room + 1)
        head, text = (text[:cut], text[cut + 1 :]) if cut > 0 else (text[:room], text[room:])
        pieces.append(head)
    return [*pieces, text]


class ReplyReader:
    """Octets of a server to replies. `max_line` octets a line, `max_lines` lines a reply; beyond: ProtocolError.

    A line may end with a bare LF: it is unambiguous in this direction. The code of a reply is that of its last line.
    """

    def __init__(self, max_line: int = 2048, max_lines: int = 100) -> None:
        self.max_line = max_line
        self.max_lines = max_lines
        self._buffer = bytearray()
        self._lines: list[str] = []

    def feed(self, data: bytes) -> list[Reply]:
        """All replies that `data` completes. Raises ProtocolError on anything that is no reply."""
        self.push(data)
        replies = []
        while (reply := self.next()) is not None:
            replies.append(reply)
        return replies

    def push(self, data: bytes) -> None:
        """Take octets without looking at them."""
        self._buffer += data

    def next(self) -> Reply | None:
        """The next complete reply, or None. Octets behind it stay unread (STARTTLS needs that)."""
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            if reply := self._take(line):
                return reply
        if len(self._buffer) > self.max_line:
            raise ProtocolError(f"reply line of the server is longer than {self.max_line} octets")
        return None

    def clear(self) -> None:
        """Throw away everything that was not read."""
        self._buffer.clear()
        self._lines.clear()

    @property
    def pending(self) -> bool:
        """Octets wait, or a reply is incomplete."""
        return bool(self._buffer or self._lines)

    def _take(self, line: bytes) -> Reply | None:
        match = _LINE.fullmatch(line)
        if not match or len(line) > self.max_line:
            raise ProtocolError(f"not a reply line: {printable(line[:80].decode('latin-1'))}")
        self._lines.append(printable((match[3] or b"").decode("utf-8", "replace")))
        if match[2] == b"-":
            if len(self._lines) >= self.max_lines:
                raise ProtocolError(f"reply of the server has more than {self.max_lines} lines")
            return None
        lines, self._lines = self._lines, []
        return _assembled(int(match[1]), lines)


def _assembled(code: int, lines: list[str]) -> Reply:
    """Take the enhanced code off the lines that bear it; one whose class is not the code's is text."""
    match = _ENHANCED.match(lines[0])
    if not match or match[1][0] != str(code)[0]:
        return Reply(code, "", tuple(lines))
    enhanced = match[1]
    texts = (line[len(enhanced) :].lstrip(" ") if _bears(line, enhanced) else line for line in lines)
    return Reply(code, enhanced, tuple(texts))


def _bears(line: str, enhanced: str) -> bool:
    return line == enhanced or line.startswith(enhanced + " ")
