"""Signatures of our own making: dkimpy's own verifier takes them, and no other text."""

import dkim
import pytest

from appliance.mailauth.signing import Key

MAIL = b"From: <joe@example.com>\r\nSubject: one\r\n\r\nText  with blanks \r\n"


@pytest.fixture(scope="module")
def key() -> Key:
    return Key()


@pytest.mark.parametrize(
    ("changed", "stands"),
    [(MAIL, True), (MAIL.replace(b"  with", b" with"), True), (MAIL.replace(b"one", b"two"), False)],
)
def test_a_signature_stands_for_its_mail_alone(key: Key, changed: bytes, stands: bool) -> None:
    signed = key.signature(MAIL, "run", "example.com") + changed
    record = {b"run._domainkey.example.com.": key.record.encode()}
    assert dkim.verify(signed, dnsfunc=lambda name, timeout=5: record[name]) is stands


def test_what_is_no_mail_cannot_be_signed(key: Key) -> None:
    with pytest.raises(ValueError):
        key.signature(b"no field\r\n\r\n", "run", "example.com")
