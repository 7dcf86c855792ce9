"""What goes into the SMTP client and what comes out: the message's envelope, results, events; the envelope as commands.

Contract: values only. A command is built from addresses as `address.parse_address` made them; text that could end a
command early raises ValueError, because then a queue file is not what this gateway wrote.
What failure means for the mail: a message that raises must be kept aside (corrupt), never sent.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from appliance.protocol.smtp.reply import Reply

Kind = Literal["delivered", "deferred", "failed"]
#: What the mail log calls the steps of a dialogue, where otherwise than their commands.
NAMES = {"MAIL": "MAIL FROM", "RCPT": "RCPT TO", "END": "end of DATA"}

#: An address or a parameter that is one word of a command: blanks and brackets only inside quotes, controls nowhere.
_ONE_WORD = re.compile(r'(?>(?:[^"\x00-\x20\x7f<>]|"(?>(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*)")*)')


class OutgoingRecipient(NamedTuple):
    """One recipient in external form without <>, with its DSN parameters as they are relayed ("" if none).
    `original`: what it was before it was rewritten."""

    address: str
    notify: str = ""
    orcpt: str = ""
    original: str = ""


class Outgoing(NamedTuple):
    """One message to hand over. `sender` "" is the null sender; `size` octets of content with CRLF, 0 if not known.

    `smtputf8`: it may only go to a server that offers SMTPUTF8. `body` "", "7BIT" or "8BITMIME": said where 8BITMIME is
    offered; elsewhere the content goes as it is, unchanged, as most mailers do. `xforward`: attributes by name. `plain`:
    the content is known to have CRLF line ends only, the last line's too, and no line that begins with a dot. `together`:
    nobody gets it as long as one of them is put off at RCPT: another try would give it to the others once more; nor does
    a server that offers XFORWARD and refuses it.
    """

    sender: str
    recipients: tuple[OutgoingRecipient, ...]
    size: int = 0
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    xforward: Mapping[str, str] = {}
    plain: bool = False
    together: bool = False


class Result(NamedTuple):
    """What became of one recipient. `text` is the server's whole reply, or what happened in our words (`code` 0).

    `command` is what was answered, in the mail log's words: "MAIL FROM", "RCPT TO", "DATA", "BDAT", "end of DATA".
    `unknown`: the server had everything and did not answer: it may have taken the message, another try may double it.
    """

    kind: Kind
    code: int
    enhanced: str
    text: str
    command: str = ""
    unknown: bool = False


class Write(NamedTuple):
    """Send these octets."""

    data: bytes


class Ready(NamedTuple):
    """The handshake is over: STARTTLS or a message may begin. `features` keyword to argument, empty after HELO."""

    features: Mapping[str, str]


class StartTls(NamedTuple):
    """The server said go: do the TLS handshake now, then call `tls_started`."""


class TlsRefused(NamedTuple):
    """The server offers STARTTLS and does not do it; the session goes on in the clear if that is allowed."""

    reply: Reply


class SendContent(NamedTuple):
    """Stream the content now: `content(chunk)` for each piece, then `end()`."""


class Finished(NamedTuple):
    """The message is through: one result a recipient, in their order. `reusable`: the session can take another.
    `remarks`: what the server refused without harm to the message, for the log."""

    results: tuple[Result, ...]
    reusable: bool
    remarks: tuple[Result, ...] = ()


class Closed(NamedTuple):
    """The session is over: close the connection. `reply` is the server's last word if it had one (refused, 421)."""

    text: str
    reply: Reply | None = None


Event = Write | Ready | StartTls | TlsRefused | SendContent | Finished | Closed


def kind_of(code: int) -> Kind:
    """A 2xx is done, a 5xx is final, all else is to be tried again."""
    if code // 100 == 2:
        return "delivered"
    return "failed" if code // 100 == 5 else "deferred"


def result_of(reply: Reply, step: str) -> Result:
    """What a reply to a step of the dialogue means for whom it was about."""
    kind = kind_of(reply.code)
    # "Too many recipients" was 552 in old servers; the rest of them is welcome later (RFC 5321 4.5.3.1.10).
    if step == "RCPT" and reply.code == 552 and reply.enhanced in ("", "5.5.3"):
        kind = "deferred"
    return Result(kind, reply.code, reply.enhanced, reply.text, NAMES.get(step, step))


def is_unheard(results: Iterable[Result]) -> bool:
    """Did the server answer nothing at all of this message? A kept connection was dead already then."""
    return all(result.kind == "deferred" and not result.code and not result.unknown for result in results)


def is_confused(result: Result) -> bool:
    """Did a server refuse because it does not follow the dialogue (wrong sequence, unknown command or parameter)? That is
    its trouble, or ours, and says nothing of the message."""
    return result.kind == "failed" and (result.code in (500, 502, 503, 504, 555) or result.enhanced.startswith("5.5."))


def is_of_host(result: Result) -> bool:
    """Was it put off for a reason that is no single mailbox's or sender's (4.1.x, 4.2.x, or 450 and 452 at RCPT without a
    class)? Then other mail will fare no better there."""
    if result.kind != "deferred" or result.enhanced[:4] in ("4.1.", "4.2."):
        return False
    return bool(result.enhanced) or result.command != "RCPT TO" or result.code not in (450, 452)


def worded(result: Result, peer: str) -> str:
    """As log, queue and status have it."""
    if not result.code:
        return result.text
    if result.code == 421 and not result.command:
        return f"host {peer} refused to talk to me: {result.text}"
    return f"host {peer} said: {result.text} (in reply to {result.command or 'end of DATA'} command)"


def needs_smtputf8(message: Outgoing) -> bool:
    """Was it accepted under SMTPUTF8, or has it an address that ASCII cannot write?"""
    return message.smtputf8 or not all(map(str.isascii, (message.sender, *(r.address for r in message.recipients))))


def mail_command(message: Outgoing, features: Mapping[str, str]) -> bytes:
    """MAIL with those parameters that `features` allows; SMTPUTF8 whenever it is needed. Raises ValueError."""
    words = [f"MAIL FROM:<{_one_word(message.sender)}>"]
    if "SIZE" in features and message.size:
        words.append(f"SIZE={message.size}")
    if "8BITMIME" in features and message.body:
        words.append(f"BODY={_one_word(message.body)}")
    if needs_smtputf8(message):
        words.append("SMTPUTF8")
    if "DSN" in features:
        words += [f"{key}={_one_word(value)}" for key, value in (("RET", message.ret), ("ENVID", message.envid)) if value]
    return (" ".join(words) + "\r\n").encode()


def rcpt_command(recipient: OutgoingRecipient, features: Mapping[str, str]) -> bytes:
    """RCPT, with DSN parameters where `features` has DSN. Raises ValueError."""
    words = [f"RCPT TO:<{_one_word(recipient.address)}>"]
    if "DSN" in features:
        if recipient.notify:
            words.append(f"NOTIFY={_one_word(recipient.notify)}")
        if recipient.orcpt and (recipient.orcpt.isascii() or "SMTPUTF8" in features):
            words.append(f"ORCPT={_one_word(recipient.orcpt)}")
    return (" ".join(words) + "\r\n").encode()


def _one_word(text: str) -> str:
    if not _ONE_WORD.fullmatch(text):
        raise ValueError(f"would break out of an SMTP command: {text[:80]!r}")
    return text
