"""A real Sendmail asks milterd about its mail: its own spelling of addresses, its index rules, its quarantine."""

import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.test_milterd_postfix import HEADER_RULES, fields, mail
from tests.peers import sendmail
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.sendmail import Sendmail

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not sendmail.available(), reason="Debian package sendmail-bin is not unpacked (make packages)"),
]
FORGED = (
    "Authentication-Results: mx.example.com; spf=pass\r\n"
    "X-Postgate-Mark: dkim=pass\r\n"
    "Authentication-Results: other.example; dkim=pass\r\n"
    "X-Postgate-Mark: spf=pass\r\n"
    "authentication-results: MX.example.com; dkim=pass\r\n"
)


@pytest.fixture
def asked(gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path) -> Iterator[tuple[Sendmail, Gateway]]:
    """Sendmail with milterd, before an inner server."""
    port = free_port()
    policies = plain(
        message='["size", "loop", "dkim", "content"]', content='header = ["pcre:header"]\nbody = ["pcre:body"]\n'
    )
    policies |= {"header": HEADER_RULES, "body": "/^secret (.*)$/ REPLACE hidden $1\n"}
    policies["recipient.toml"] = (
        'tables = ["inline:{ user@example.com=known, other@example.com=known }"]\ncallahead = false\n'
    )
    made = gateway(policies=policies, more=f'[[milterd]]\naddress = "inet:127.0.0.1:{port}"\n')
    mta = Sendmail(
        tmp_path / "sendmail", inner.port, f"Xpostgate, S=inet:{port}@127.0.0.1, F=T, T=C:10s;S:30s;R:30s;E:5m"
    ).start()
    yield mta, made
    mta.stop()


def send(mta: Sendmail, content: bytes, *to: str) -> tuple[int, bytes]:
    with smtplib.SMTP("127.0.0.1", mta.port, "client.example.org") as client:
        try:
            refused = client.sendmail("a@example.org", list(to) or ["user@example.com"], content)
        except smtplib.SMTPResponseException as error:
            return error.smtp_code, error.smtp_error
        except smtplib.SMTPRecipientsRefused as error:
            return next(iter(error.recipients.values()))
    return next(iter(refused.values()), (250, b""))


def test_refusals_edits_and_quarantine(asked: tuple[Sendmail, Gateway], inner: Inner) -> None:
    mta, made = asked
    assert send(mta, mail("plain"), "user@example.com", "nobody@example.com")[0] == 550
    code, text = send(mta, mail("plain"), "nobody@example.com")
    assert code == 550 and b"5.1.1" in text and b"Recipient address rejected: no such mailbox here [" in text
    code, text = send(mta, mail("refuse me"))
    assert code == 550 and b"not this one" in text
    assert send(mta, mail("drop me"))[0] == 250
    body = "secret word\r\nline"
    for subject in ("tag me", "redirect me", "prepend me"):
        assert send(mta, mail(subject, body=body, more=FORGED + "X-Remove: 1\r\n"))[0] == 250
    kept = {next(one for one in fields(k.content) if one.startswith("Subject")): k for k in inner.wait(4, 40)}
    assert set(kept) == {"Subject: plain", "Subject: [tagged] me", "Subject: redirect me", "Subject: prepend me"}
    assert kept["Subject: redirect me"].recipients == ["abuse@example.com"]
    for subject in set(kept) - {"Subject: plain"}:
        content, listed = kept[subject].content, fields(kept[subject].content)
        assert content.endswith(b"\r\n\r\nhidden word\r\nline\r\n") and b"X-Remove" not in content
        results = [one for one in listed if one.lower().startswith("authentication-results")]
        assert results == [
            "Authentication-Results: mx.example.com; dkim=none",
            "Authentication-Results: other.example; dkim=pass",
        ]
        assert listed[0].startswith("Received: from client.example.org") and listed[1] == results[0]
        assert not any(one.startswith("X-Postgate") for one in listed)
    assert "X-Seen: yes" in fields(kept["Subject: prepend me"].content)
    assert send(mta, mail("hold me"))[0] == 250
    wait_for(lambda: [name for name in mta.queued() if name.startswith("hf")], 10, "a message in quarantine")
    made.wait_log("quarantine (hold: content:hold")


def test_several_messages_in_one_session_and_a_large_one(asked: tuple[Sendmail, Gateway], inner: Inner) -> None:
    mta, _ = asked
    large = "0123456789" * 7 + "\r\n"
    with smtplib.SMTP("127.0.0.1", mta.port, "client.example.org") as client:
        for body in ("one", large * 5000, "three"):
            client.sendmail("a@example.org", ["user@example.com"], mail("plain", body=body))
            client.mail("b@example.org")
            client.rset()
    bodies = {kept.content.partition(b"\r\n\r\n")[2].decode() for kept in inner.wait(3, 60)}
    assert bodies == {"one\r\n", large * 5000 + "\r\n", "three\r\n"}
