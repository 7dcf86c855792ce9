"""Reply texts as operators write them: taken apart, made to fit an action, made safe for the wire.

Contract: pure. `finish` is the last word on every refusal: printable ASCII, one line, the transaction id at the end, at
most 510 octets; lines that a milter has parted (BREAK, which no other text brings) stay lines, parted by line feeds. What
failure means for the mail: a text that is no reply raises ValueError when it is read, never later.
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple

#: RFC 5321 section 4.5.3.1.5: 512 octets with CRLF.
MAX_REPLY = 510
#: What an operator may write: room is left for the transaction id.
MAX_TEXT = 400

#: Between the lines of a refusal that a milter wants to have several.
BREAK = "\x1e"

_REPLY = re.compile(r"([0-9]{3})(?: ([0-9]\.[0-9]{1,3}\.[0-9]{1,3}))?(?: (.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")

Subject = Literal["client", "helo", "sender", "recipient", "other"]

#: How a refusal names its class (Postfix's wording).
CLASS: dict[Subject, str] = {
    "client": "Client host",
    "helo": "Helo command",
    "sender": "Sender address",
    "recipient": "Recipient address",
    "other": "Message",
}
#: The detail n of an enhanced code x.1.n belongs to an address: of which kind, says this table; other subjects get x.0.0.
_ADDRESS_DETAIL: dict[Subject, dict[int, str]] = {
    "sender": {1: "1.7", 2: "1.8", 3: "1.7", 4: "1.7", 5: "1.0", 6: "1.7", 7: "1.7", 8: "1.8"},
    "recipient": {1: "1.1", 2: "1.2", 3: "1.3", 4: "1.4", 5: "1.5", 6: "1.6", 7: "1.3", 8: "1.2"},
}


class Refusal(NamedTuple):
    """A reply of class 4 or 5 in its parts."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}".rstrip()

    @property
    def permanent(self) -> bool:
        return self.code >= 500


def parse(reply: str) -> Refusal:
    """The parts of "550 5.7.1 Text". Raises ValueError that says what an operator must mend."""
    if len(reply) > MAX_TEXT:
        raise ValueError(f"a reply has at most {MAX_TEXT} characters, not {len(reply)}")
    if _UNPRINTABLE.search(reply):
        raise ValueError("a reply is one line of printable ASCII")
    found = _REPLY.match(reply)
    if found is None or not found[2] or not (found[3] or "").strip():
        raise ValueError('a reply is written "<code> <enhanced code> <text>", for example "550 5.7.1 Refused"')
    code = int(found[1])
    if not 400 <= code <= 599:
        raise ValueError(f"the code of a refusal is 400 to 599, not {code}")
    if found[2][0] != found[1][0]:
        raise ValueError(f"the classes of {found[1]} and {found[2]} differ")
    return Refusal(code, found[2], found[3].strip())


def repair(enhanced: str, code: int, subject: Subject) -> str:
    """`enhanced` made to suit what is refused, and the class of `code` (Postfix's rules for texts from tables)."""
    found = _ENHANCED.match(enhanced)
    if found is None:
        return f"{code // 100}.7.1"
    rest = f"{found[2]}.{found[3]}"
    if int(found[2]) == 1:
        rest = _ADDRESS_DETAIL[subject].get(int(found[3]), "1.0") if subject in _ADDRESS_DETAIL else "0.0"
    return f"{code // 100}.{rest}"


def as_class(refusal: Refusal, permanent: bool) -> Refusal:
    """The same refusal as one of the other class: 5yz becomes 4yz; 4yz becomes 550 (551 to 553 mean other things)."""
    if refusal.permanent == permanent:
        return refusal
    code = 550 if permanent else refusal.code - 100
    return Refusal(code, f"{code // 100}{refusal.enhanced[1:]}", refusal.text)


def finish(refusal: Refusal, transaction: str = "", soft_bounce: bool = False) -> str:
    """The line for the peer, without CRLF. `soft_bounce` turns every 5 into a 4."""
    if BREAK in refusal.text:
        return "\n".join(_several(refusal, f" [{transaction}]" if transaction else "", soft_bounce))
    line = _line(refusal, soft_bounce)
    if not transaction:
        return line[:MAX_REPLY]
    tail = f" [{transaction}]"
    if not (tail.isascii() and tail.isprintable()):
        tail = _UNPRINTABLE.sub(" ", tail)
    return line[: MAX_REPLY - len(tail)] + tail


def _several(refusal: Refusal, tail: str, soft_bounce: bool) -> list[str]:
    """The first line has the codes: whoever sends them puts these before each, and breaks what is too long."""
    said = as_class(refusal, permanent=False) if soft_bounce else refusal
    lines = f"{said.code} {said.enhanced} {said.text}".split(BREAK)
    lines[-1] += tail
    return [_UNPRINTABLE.sub(" ", line) for line in lines]


def on_one_line(reply: str) -> str:
    """A reply for logs."""
    return reply.replace("\n", " ").replace(BREAK, " ")


@lru_cache(1024)
def _line(refusal: Refusal, soft_bounce: bool) -> str:
    """Printable ASCII. The same refusals come again and again."""
    return _UNPRINTABLE.sub(" ", str(as_class(refusal, permanent=False) if soft_bounce else refusal))
