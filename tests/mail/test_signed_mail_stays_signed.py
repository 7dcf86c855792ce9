"""What we add to a message leaves its DKIM signature whole; what an operator's own rule edits may break it, as it does in
Postfix."""

import base64
import inspect

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from appliance.checks import antispam
from appliance.engine.marks import mark_edits, strip_forged
from appliance.mail import apply
from appliance.mail.edits import Edit
from tests.checks.test_check_scans import Text, context, ports, spam

TRACE = b"Received: from a by b; Mon, 1 Jan 2024 12:00:00 +0000\r\n"
MAIL = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: =?utf-8?Q?caf=C3=A9?=\r\n and more\r\n"
    b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nbody\r\n.\r\n\r\n"
)


@pytest.fixture(scope="module")
def signed() -> tuple[bytes, bytes]:
    """A signed message under a trace field, and its key record."""
    key = ed25519.Ed25519PrivateKey.generate()
    raw = serialization.Encoding.Raw
    seed = key.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    public = key.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    signature = dkim.sign(
        MAIL,
        b"s",
        b"example.org",
        base64.b64encode(seed),
        signature_algorithm=b"ed25519-sha256",
        canonicalize=(b"simple", b"simple"),
        include_headers=[b"From", b"To", b"Subject", b"Date"],
    )
    return TRACE + signature + MAIL, b"v=DKIM1; k=ed25519; p=" + base64.b64encode(public)


def verifies(message: bytes, record: bytes) -> bool:
    return bool(dkim.verify(message, dnsfunc=lambda name, timeout=5: record))


async def test_a_signed_message_that_is_marked_as_spam_still_verifies(signed: tuple[bytes, bytes]) -> None:
    message, record = signed
    asked = antispam.check(context(Text(message)), antispam.Policy(subject_tag="[SPAM]"), ports(spam(9.0)))
    assert inspect.isawaitable(asked)
    found = await asked
    edits = (*strip_forged(context(Text(message)), ports().site), *found.edits, *mark_edits(["antispam:spam"]))
    sent = apply.whole(message, edits)
    assert b"X-Postgate-Spam: yes" in sent and b"X-Postgate-Mark: antispam=spam" in sent and b"[SPAM]" not in sent
    assert verifies(sent, record)
    tagged = apply.whole(message, (Edit("change", "Subject", "[SPAM] x", 1),))
    assert not verifies(tagged, record), "the test would not notice"


async def test_a_splice_elsewhere_leaves_the_signature_whole(signed: tuple[bytes, bytes]) -> None:
    message, record = signed
    at = message.index(b"Message-ID:")
    length = message.index(b"\r\n", at) + 2 - at
    assert verifies(apply.whole(message, (Edit("splice", index=at, length=length),)), record)
    assert verifies(apply.whole(message, (Edit("splice", value="X-A: b\r\n", index=at),)), record)
    body = message.index(b"\r\n\r\nbody") + 4
    assert not verifies(apply.whole(message, (Edit("splice", value="x", index=body),)), record)
