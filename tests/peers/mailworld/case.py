"""One message of the little Internet with its truth."""

import hashlib
from typing import NamedTuple

from tests.peers.mailworld import zone

DATE = b"Tue, 14 Nov 2023 22:13:20 +0000"
BODY = b"Dear user,\r\n\r\nthis  is a\tmessage. \r\n.. with dots\r\n-- \r\nJoe\r\n"


class Case(NamedTuple):
    """`kind` is the class that differences are told by. `dkim` is the word of each signature from the top of the header;
    `counted` are the domains whose signatures may count for DMARC; `dmarc` the word and the policy asked for."""

    name: str
    kind: str
    content: bytes
    sender: str
    address: str = zone.GOOD
    helo: str = "mail.other.bv"
    spf: str = "pass"
    dkim: tuple[str, ...] = ()
    dmarc: tuple[str, str] = ("none", "")
    author: str = ""
    signers: tuple[str, ...] = ()


def message(author: str, subject: str, body: bytes = BODY, extra: bytes = b"") -> bytes:
    """`author` is the From field's value."""
    number = hashlib.sha256(f"{author} {subject}".encode() + body + extra).hexdigest()[:24]
    lines = [b"From: " + author.encode(), b"To: User <user@example.com>", b"Subject: " + subject.encode()]
    lines += [b"Date: " + DATE, b"Message-ID: <" + number.encode() + b"@mailworld.bv>", b"MIME-Version: 1.0"]
    lines += [b"Content-Type: text/plain; charset=utf-8"]
    return b"\r\n".join(lines) + b"\r\n" + extra + b"\r\n" + body
