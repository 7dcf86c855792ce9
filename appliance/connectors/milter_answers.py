"""What the answers of milters mean, and how texts and addresses are put to them.

Contract: pure. An answer that says that the milter cannot go on, or a reply code that cannot be read, is ProtocolError.
What failure means for the mail: the milter's default action.
"""

from appliance.mail.milter import Said, Word
from appliance.mail.replies import BREAK
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import replycode
from appliance.protocol.milter.packets import Reply
from appliance.protocol.milter.words import Word as Letter

GO_ON = Said()
_WORDS: dict[Letter, Word] = {
    Letter.REJECT: "reject",
    Letter.TEMPFAIL: "tempfail",
    Letter.DISCARD: "discard",
    Letter.SHUTDOWN: "shutdown",
}


def meaning(reply: Reply) -> Said:
    """What the milter says. Raises ProtocolError."""
    if reply.word == Letter.CONN_FAIL:
        raise ProtocolError("it says that it cannot go on")
    if reply.word == Letter.REPLY_CODE:
        return _of_code(reply.text)
    word = _WORDS.get(reply.word)
    return Said(word=word) if word is not None else GO_ON


def _of_code(text: bytes) -> Said:
    """A reply code, its text as the client will see it, line by line."""
    found = replycode.parse(text)
    status = found.enhanced or f"{found.code // 100}.7.1"
    lines = [" ".join(line.split()) for line in found.lines]
    words = BREAK.join(lines) if any(lines) else "Command rejected"
    word: Word = "shutdown" if found.code == 421 else "tempfail" if found.code < 500 else "reject"
    return Said(word=word, reply=f"{found.code} {status} {words}")


def octets(text: str) -> bytes:
    """A text without NUL."""
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"")


def path(address: str) -> bytes:
    """An address with its brackets."""
    return b"<%b>" % octets(address)
