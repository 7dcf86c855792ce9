"""Postfix's policy delegation protocol (SMTPD_POLICY_README), both ends: requests of name=value lines, one answer each.

Contract: octets in, values out; no IO. A request is whatever ends with an empty line: attributes in any order, unknown
ones kept, missing ones missing, LF or CRLF. Text is UTF-8; octets that are none survive (surrogateescape). What cannot
be read raises PolicyError once, with words for the log; the stream is worth nothing from there on. Linear in the octets
received, however they are cut. What failure means for the mail: a server loses that connection alone, a client counts a
failed attempt.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

#: A line, a request, an answer (octets with their line ends); Postfix itself has no limit.
MAX_LINE = 8192
MAX_REQUEST = 65536
MAX_ANSWER = 8192
#: Attributes of one request.
MAX_ATTRIBUTES = 512
REQUEST = "smtpd_access_policy"

#: Attributes by the release of Postfix that sends them first, in the order of the wire.
SINCE: dict[str, str] = {
    "request": "2.1",
    "protocol_state": "2.1",
    "protocol_name": "2.1",
    "client_address": "2.1",
    "client_name": "2.1",
    "client_port": "3.0",
    "reverse_client_name": "2.1",
    "server_address": "3.2",
    "server_port": "3.2",
    "helo_name": "2.1",
    "sender": "2.1",
    "recipient": "2.1",
    "recipient_count": "2.3",
    "queue_id": "2.1",
    "instance": "2.1",
    "size": "2.2",
    "etrn_domain": "2.3",
    "stress": "2.5",
    "sasl_method": "2.2",
    "sasl_username": "2.2",
    "sasl_sender": "2.2",
    "ccert_subject": "2.2",
    "ccert_issuer": "2.2",
    "ccert_fingerprint": "2.2",
    "ccert_pubkey_fingerprint": "2.9",
    "encryption_protocol": "2.3",
    "encryption_cipher": "2.3",
    "encryption_keysize": "2.3",
    "policy_context": "3.1",
    "compatibility_level": "3.8",
    "mail_version": "3.8",
}
ATTRIBUTES = tuple(SINCE)
#: What `protocol_state` can be: the SMTP command in progress.
STATES = ("CONNECT", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN")

Attributes = dict[str, str]

_NAME = re.compile(rb"[^\x00-\x20=\x7f]+")
_ATTRIBUTE = re.compile(rb"[^\x00-\x20=\x7f]+=")
#: A request as Postfix 3.1 to 3.9 sends it: all attributes in their order. It is read in a third of the time.
_USUAL = re.compile(
    "\n".join(f"{name}=(.*)" for name in ATTRIBUTES[:-2])
    + "(?:\n"
    + "\n".join(f"{name}=(.*)" for name in ATTRIBUTES[-2:])
    + ")?"
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]+")
#: Who speaks something else on this port, by its first octets.
_OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x16\x03[\x00-\x04]"), "TLS (the policy protocol is plain text)"),
    (re.compile(rb"\x80[\x00-\xff]\x01\x03"), "TLS (an old hello; the policy protocol is plain text)"),
    (re.compile(rb"\x00\x00\x00\x0dO"), "the milter protocol (smtpd_milters names a milter, not this port)"),
    (re.compile(rb"(?:[A-Z]{3,10}) [^\r\n]{0,2048} HTTP/[0-9]"), "HTTP"),
    (re.compile(rb"PRI \* HTTP/2"), "HTTP/2"),
    (
        re.compile(
            rb"(?i:MAIL FROM:|RCPT TO:|(?:[EHL]HLO|HELO|DATA|RSET|NOOP|QUIT|VRFY|STARTTLS|XCLIENT|XFORWARD|AUTH)\b)"
        ),
        "SMTP",
    ),
    (re.compile(rb"[A-Z]{3,8} SPAMC/[0-9]"), "spamd's protocol"),
    (re.compile(rb"PROXY (?:TCP[46]|UNKNOWN)"), "the PROXY protocol (the policy protocol has none)"),
    (re.compile(rb"\n\n\x00\nQUIT\n"), "the PROXY protocol (the policy protocol has none)"),
    (re.compile(rb"get [^\n]*"), "Postfix's tcp table protocol"),
    (re.compile(rb"[0-9]{1,6}:[^\n]* "), "Postfix's socketmap protocol"),
    (re.compile(rb"(?:z|n)?(?:PING|SCAN|INSTREAM|VERSION)\b"), "clamd's protocol"),
    (re.compile(rb"SSH-"), "SSH"),
)


class PolicyError(ValueError):
    """Octets that are no request (or no answer); the text names the mistake."""


def recognise(data: bytes) -> str:
    """The protocol that begins like this, in words, or ""."""
    return next((name for pattern, name in _OTHERS if pattern.match(data)), "")


def _shown(data: bytes) -> str:
    return ascii(bytes(data[:60]))[1:]


# ---------------------------------------------------------------------- the server's end


class RequestReader:
    """Requests out of a stream. After a PolicyError nothing more is read."""

    def __init__(self, max_request: int = MAX_REQUEST, max_line: int = MAX_LINE) -> None:
        self._limit, self._line = max_request, max_line
        self._rest = b""
        #: A request has begun and is not whole.
        self.midway = False
        self._searched = 0
        self._first_seen = False

    def feed(self, data: bytes, found: list[Attributes]) -> None:
        """Put the requests that are whole now into `found`; raises PolicyError behind the good ones."""
        data = self._rest + data if self._rest else data
        if b"\r" in data:  # a CR whose LF is not there yet stays for the next octets
            data = data.replace(b"\r\n", b"\n")
        at = 0
        while True:
            end = data.find(b"\n\n", max(at, self._searched))
            if end < 0:
                break
            self._searched = 0
            found.append(self._request(data[at:end], data, at))
            self._first_seen = False
            at = end + 2
        self._rest = rest = data[at:]
        self.midway = bool(rest)
        if rest:
            self._partial(rest)
        else:
            self._searched = 0

    def _request(self, block: bytes, data: bytes, at: int) -> Attributes:
        if len(block) > self._line:
            self._measure(block)
        if not block.startswith(b"request=") and not _is_attribute(block.partition(b"\n")[0]):
            raise _wrong(data[at:])
        text = block.decode("utf-8", "surrogateescape")
        if usual := _USUAL.fullmatch(text):
            made = dict(zip(ATTRIBUTES, usual.groups(), strict=True))
            if made["mail_version"] is None:
                del made["compatibility_level"], made["mail_version"]
            return made
        try:
            made = dict([line.split("=", 1) for line in text.split("\n")])
        except ValueError:
            raise _wrong(data[at:]) from None
        if len(made) > MAX_ATTRIBUTES:
            raise PolicyError(f"a request of more than {MAX_ATTRIBUTES} attributes")
        return made

    def _measure(self, block: bytes) -> None:
        if len(block) > self._limit:
            raise PolicyError(f"a request of more than {self._limit} octets")
        if max(map(len, block.split(b"\n"))) > self._line:
            raise PolicyError(f"a line of more than {self._line} octets")

    def _partial(self, rest: bytes) -> None:
        """Look at what is not whole yet, so that nobody waits for the end of what is no request."""
        self._searched = max(0, len(rest) - 3)
        if len(rest) > self._limit:
            raise PolicyError(f"a request of more than {self._limit} octets")
        if len(rest) > self._line and rest.find(b"\n", len(rest) - self._line) < 0:
            raise PolicyError(f"a line of more than {self._line} octets")
        if self._first_seen:
            return
        line, end, _ = rest.partition(b"\n")
        if end and not _is_attribute(line):
            raise _wrong(rest)
        self._first_seen = bool(end)
        binary = rest[0] >= 0x80 or (rest[0] < 0x20 and rest[0] != 0x0D) or b"\x00" in rest
        if binary and (len(rest) >= 5 or recognise(rest)):
            raise _wrong(rest)


def _is_attribute(line: bytes) -> bool:
    return _ATTRIBUTE.match(line) is not None


def _wrong(data: bytes) -> PolicyError:
    """What is the matter with octets that are no request."""
    if other := recognise(data):
        return PolicyError(f"the client speaks {other}")
    if data.startswith(b"\n"):
        return PolicyError("an empty line where a request begins")
    for number, line in enumerate(data.split(b"\n"), 1):
        if b"=" not in line or (number == 1 and not _is_attribute(line)):
            return PolicyError(f"line {number} of a request is no name=value: {_shown(line)}")
    return PolicyError(f"octets that are no text: {_shown(data)}")


def encode_answer(action: str) -> bytes:
    """One answer: control characters become blanks, and it is never empty (that would mean OK to some)."""
    if not action.isprintable():
        action = _UNPRINTABLE.sub(" ", action)
    return b"action=%b\n\n" % (action.strip() or "DUNNO").encode("utf-8", "replace")


# ---------------------------------------------------------------------- the client's end


class Answer(NamedTuple):
    """What a policy server says: the verb in upper case, and the text behind it. `oddity`: what was tolerated."""

    verb: str
    text: str = ""
    oddity: str = ""


def encode_request(attributes: Mapping[str, str]) -> bytes:
    """One request; `request` comes first. Line ends and NUL in values become blanks, as no request can hold them."""
    lines = [f"request={attributes.get('request', REQUEST)}"]
    for name, value in attributes.items():
        if name == "request":
            continue
        if _NAME.fullmatch(name.encode("utf-8", "surrogateescape")) is None:
            raise ValueError(f"{name!r} cannot be the name of an attribute")
        lines.append(f"{name}={value}" if value.isprintable() else f"{name}={_UNPRINTABLE.sub(' ', value)}")
    return ("\n".join(lines) + "\n\n").encode("utf-8", "surrogateescape")


class AnswerReader:
    """The one answer that a request waits for. Octets behind it are `surplus`: the connection is worth nothing then."""

    def __init__(self, limit: int = MAX_ANSWER) -> None:
        self._limit = limit
        self._data = b""
        self.surplus = False

    def feed(self, data: bytes) -> Answer | None:
        """The answer, None while it is not whole; raises PolicyError."""
        start = max(0, len(self._data) - 3)
        self._data += data
        if self._data.startswith((b"\n", b"\r\n")):
            raise PolicyError("an empty answer")
        ends = [(at, at + len(end)) for end in (b"\n\n", b"\n\r\n") if (at := self._data.find(end, start)) >= 0]
        if not ends:
            if len(self._data) > self._limit:
                raise PolicyError(f"an answer of more than {self._limit} octets: {_shown(self._data)}")
            return None
        end, behind = min(ends)
        if end > self._limit:
            raise PolicyError(f"an answer of more than {self._limit} octets: {_shown(self._data)}")
        self.surplus = behind < len(self._data)
        return parse_answer(self._data[:end])


def parse_answer(block: bytes) -> Answer:
    """The lines of one answer, without the empty one. The first `action` counts, other lines are skipped."""
    odd = "CR at line ends" if b"\r" in block else ""
    for line in block.replace(b"\r\n", b"\n").rstrip(b"\r").split(b"\n"):
        name, equals, value = line.partition(b"=")
        if name == b"action" and equals:
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError:
                raise PolicyError(f"an action that is not UTF-8: {_shown(value)}") from None
            verb, _, rest = _UNPRINTABLE.sub(" ", text).strip().partition(" ")
            return Answer(verb.upper(), rest.strip(), odd)
    raise PolicyError(f"an answer without action=: {_shown(block)}")
