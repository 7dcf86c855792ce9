"""What a handler's hooks return, as replies of ours: aiosmtpd sends a status to the client as it stands.

Contract: a text (or octets) that begins with a code; "250-one\r\n250 two" is one reply of two lines. What failure means
for the mail: ValueError for what is no reply, a failure of the hook (451).
"""

from collections.abc import Sequence

from appliance.mail.replies import MAX_REPLY
from appliance.mail.verdict import Decision, Verb
from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.reply import Reply, ReplyReader, from_text

#: Characters of a status: more is no reply.
MOST = 65536


def read(status: object) -> Reply:
    """Raises ValueError."""
    if isinstance(status, str | bytes | bytearray) and len(status) > MOST:
        raise ValueError(f"a reply of {len(status)} characters (at most {MOST})")
    text = status.decode("ascii", "replace") if isinstance(status, bytes | bytearray) else str(status)
    if text[3:4] != "-":
        return from_text(text)
    try:
        (reply,) = ReplyReader().feed(text.encode("ascii", "replace") + b"\r\n")
    except (ProtocolError, ValueError) as error:
        raise ValueError(f"no reply of several lines: {text[:60]!r}") from error
    return reply


def objection(reply: Reply, transaction: str) -> Decision | None:
    """What it means for the mail; None: go on."""
    if reply.code < 400:
        return None
    verb: Verb = "disconnect" if reply.code in (421, 521) else "defer" if reply.code < 500 else "reject"
    enhanced = reply.enhanced or f"{reply.code // 100}.7.1"
    tail = f" [{transaction}]"
    text = f"{reply.code} {enhanced} {' '.join(reply.lines)}"
    return Decision(verb=verb, reply=text[: MAX_REPLY - len(tail)] + tail)


def good(reply: Reply) -> bytes:
    """A good answer to a command, with the enhanced code that we promise for each (RFC 2034). Raises ValueError."""
    _must_be_good(reply)
    return reply._replace(enhanced=reply.enhanced or "2.0.0").encode()


def parting(reply: Reply) -> Reply:
    """An answer to QUIT, whatever its code, with the enhanced code that it lacks (there is none for 3xx)."""
    lacks = not reply.enhanced and reply.code // 100 != 3
    return reply._replace(enhanced=f"{reply.code // 100}.0.0") if lacks else reply


def greeting(reply: Reply, offered: Sequence[str] = ()) -> bytes:
    """The answer to HELO, or to EHLO: behind what we offer, in place of our last line. Raises ValueError."""
    _must_be_good(reply)
    kept = offered[:-1] if offered and offered[-1] == "250 HELP" else offered
    return "".join(f"250-{line[4:]}\r\n" for line in kept).encode("ascii") + reply.encode()


def lines(answer: object) -> bytes:
    """A whole answer to EHLO. Raises ValueError for what is none."""
    given = answer if isinstance(answer, list | tuple) else [answer]
    last = len(given) - 1
    for number, line in enumerate(given):
        start = "250 " if number == last else "250-"
        if not isinstance(line, str) or not (line.startswith(start) and line.isascii() and line.isprintable()):
            raise ValueError(f"handle_EHLO returned {line!r}, which is no line of an answer to EHLO")
    return "".join(f"{line}\r\n" for line in given).encode("ascii")


def _must_be_good(reply: Reply) -> None:
    if reply.code // 100 != 2:
        raise ValueError(f"a code between 200 and 299, or an error, was due: {reply.text[:60]!r}")
