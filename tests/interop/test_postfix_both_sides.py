"""A real Postfix sends through the gateway to a real Postfix behind it."""

import smtplib
from collections.abc import Callable

import pytest

from tests.faults.senders import digest, message
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer


@pytest.fixture
def chain(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner
) -> tuple[Postfix, Gateway, Postfix]:
    """sending Postfix -> gateway -> inner Postfix -> a server that keeps all."""
    behind = make_postfix(hostname="inner.example.com", relay=f"[127.0.0.1]:{inner.port}", relay_domains="example.com")
    made = gateway(inner=behind.port, policies=plain())
    outside = make_postfix(hostname="mail.example.org", relay=f"[127.0.0.1]:{made.port}")
    return outside, made, behind


def test_mail_goes_through_unchanged(chain: tuple[Postfix, Gateway, Postfix], inner: Inner) -> None:
    outside, made, behind = chain
    sizes = [300, 2000, 70_000, 300_000, 2_000_000]
    with smtplib.SMTP("127.0.0.1", outside.port) as client:
        for number, size in enumerate(sizes * 4):
            content = message(number, size)
            client.sendmail("sender@example.org", [f"user{number}@example.com"], content)
    kept = inner.wait(20, 60)
    want = {digest(message(number, size)) for number, size in enumerate(sizes * 4)}
    assert {digest(k.content) for k in kept} == want
    for k in kept:
        assert k.content.count(b"by mx.example.com") == 1
    made.wait_log("status=sent")
    behind.wait_log("client=", 20)
    assert behind.log().count("client=") == 20


def test_a_refused_recipient_is_bounced_by_the_sending_postfix_not_by_us(
    chain: tuple[Postfix, Gateway, Postfix], inner: Inner
) -> None:
    outside, made, _ = chain
    with smtplib.SMTP("127.0.0.1", outside.port) as client:
        client.sendmail("sender@example.com", ["user@example.net", "user@example.com"], message(1, 500))
    bounce, mail = sorted(inner.wait(2, 60), key=lambda kept: kept.sender != "")
    assert mail.recipients == ["user@example.com"]
    assert b"5.7.1" in bounce.content
    made.wait_log(": reject: RCPT")
