"""The text of a reply code: what a filter wants the SMTP client to be told (protocol: packet `y`).

Contract: `text` writes what every MTA takes: lines with one code, at most MAX_LINES of MAX_LINE octets, `%` doubled
(the other side formats it). `parse` reads it as strictly as Postfix does: a code of class 4 or 5, a status of the same
class if any, the same code on each line; all else is ProtocolError. What failure means for the mail: a refusal that
cannot be read is still no acceptance; its reader puts off.
"""

import re

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.reply import Reply, from_text, printable

MAX_LINE, MAX_LINES = 980, 32
_LINE = re.compile(rb"([45][0-9][0-9])(?:([ -])(?:([0-9]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z))?(.*))?\Z", re.DOTALL)


def text(reply: str) -> bytes:
    """ "550 5.7.1 Words" as the packet's text; line feeds part lines. Raises ValueError for what is no refusal."""
    found = from_text(reply)
    if not 400 <= found.code <= 599:
        raise ValueError(f"a filter refuses with 4yz or 5yz, not with {found.code}")
    start = f"{found.enhanced} " if found.enhanced else ""
    room = MAX_LINE - 4 - len(start)
    shown = [printable(line).replace("%", "%%")[:room] for line in found.lines[:MAX_LINES]]
    # a cut between the two halves of a doubled % would leave half of it
    whole = [line[:-1] if (len(line) - len(line.rstrip("%"))) % 2 else line for line in shown]
    last = len(whole) - 1
    lines = [f"{found.code}{' ' if at == last else '-'}{start}{line}".rstrip() for at, line in enumerate(whole)]
    return "\r\n".join(lines).encode("ascii")


def parse(data: bytes) -> Reply:
    """What the client is to be told. Raises ProtocolError."""
    lines = data.removesuffix(b"\r\n").replace(b"%%", b"%").split(b"\r\n")
    if len(lines) > MAX_LINES or len(data) > 2 * MAX_LINE * MAX_LINES:
        raise ProtocolError(f"a reply code of {len(lines)} lines, {len(data)} octets")
    code, enhanced, shown = b"", b"", []
    for at, line in enumerate(lines):
        found = _LINE.match(line)
        if found is None or (code and found[1] != code):
            raise ProtocolError(f"no reply code: {data[:200]!r}")
        if found[3] and found[3][:1] != found[1][:1]:
            raise ProtocolError(f"the classes of code and status differ: {data[:200]!r}")
        if (found[2] == b"-") != (at < len(lines) - 1):
            raise ProtocolError(f"a reply code whose lines do not hang together: {data[:200]!r}")
        code, enhanced = found[1], enhanced or found[3] or b""
        shown.append(printable((found[4] or b"").decode("utf-8", "replace")))
    return Reply(int(code), enhanced.decode("ascii"), tuple(shown))
