"""What attachments may not come in, through a running gateway (threats C1, C4, C5, C8)."""

import base64
import gzip
import io
import json
import smtplib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.senders import talk
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

HEAD = b"From: a@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
MIXED = HEAD + b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nhi\r\n'
EXCEPTION = """
[[exception]]
match = { recipient = "dev@example.com" }
set = { forbidden_extensions = ["txt"], forbidden_types = [] }
reason = "developers"
owner = "postmaster"
"""


def attached(name: bytes, octets: bytes) -> bytes:
    head = b"--x\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
    head += b'Content-Disposition: attachment; filename="' + name + b'"\r\n\r\n'
    return MIXED + head + base64.encodebytes(octets).replace(b"\n", b"\r\n") + b"--x--\r\n"


def zipped(name: str, octets: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, octets)
    return out.getvalue()


EXE = b"MZ\x90\0" + bytes(300)


def quarantined(made: Gateway) -> list[dict[str, Any]]:
    """What is there by now: it is put there while the rest is delivered."""
    return [json.loads(line) for line in made.cli("quarantine", "list", "--json").stdout.splitlines()]


def test_c1_c4_c5_c8_what_may_not_come_in(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made = gateway(policies=plain(message='["size", "loop", "attachments"]'))

    def sent(content: bytes) -> str:
        return talk(made.port, content, "bob@example.com")[1]

    for content in (
        attached(b"invoice.pdf.exe", b"hello"),
        attached(b"invoice.pdf", EXE),
        attached(b"a.zip", zipped("; rm -rf / .js", b"hello")),
        attached(b"a.zip", zipped("b.zip", zipped("c.txt", EXE))),
        HEAD + b'Content-Type: application/pdf; name="x.exe"\r\n\r\nhello\r\n',
        HEAD + b"Content-Type: text/plain\r\n\r\nbegin 644 x.exe\r\n#86)C\r\n`\r\nend\r\n",
    ):
        reply = sent(content)
        assert reply.startswith("550 5.7.1 "), reply
        assert ".exe" not in reply and "dosexec" not in reply
    assert sent(attached(b"a.pdf", b"%PDF-1.4 hello")).startswith("250")
    assert len(inner.wait(1)) == 1
    for content, outcome in (
        (HEAD + b"Content-Type: message/partial; id=1; number=1; total=2\r\n\r\nSubject: y\r\n\r\nhalf\r\n", "partial"),
        (HEAD + b"Content-Type: message/external-body; access-type=url\r\n\r\n\r\n", "partial"),
        (
            attached(b"a.pdf", b"%PDF-1.4 hello").replace(b"MIME", b"Content-Type: text/plain\r\nMIME", 1),
            "mime_ambiguous",
        ),
        (attached(b"a.gz", gzip.compress(b"a" * 40_000_000)), "too_complex"),
    ):
        assert sent(content).startswith("250"), "taken, and kept back"
        made.wait_log(f"attachments:{outcome}")
    assert len(inner.wait(1)) == 1


def test_a_recipient_has_its_own_list(gateway: Callable[..., Gateway], inner: Inner) -> None:
    policies = plain(message='["size", "loop", "attachments"]', attachments=EXCEPTION)
    made = gateway(policies=policies)
    assert talk(made.port, attached(b"a.exe", EXE), "dev@example.com")[0] == "accepted"
    assert talk(made.port, attached(b"a.txt", b"hi"), "dev@example.com")[1].startswith("550 5.7.1")
    assert talk(made.port, attached(b"a.exe", EXE), "bob@example.com")[1].startswith("550 5.7.1")
    assert talk(made.port, attached(b"a.txt", b"hi"), "bob@example.com")[0] == "accepted"
    assert len(inner.wait(2)) == 2


@pytest.mark.parametrize("size", [100, 300_000])
def test_what_only_some_may_have_goes_to_quarantine_for_the_others(
    gateway: Callable[..., Gateway], inner: Inner, size: int
) -> None:
    """One message for both, small and large enough for a file of its own: each by its own list, nothing is bounced."""
    made = gateway(policies=plain(message='["size", "loop", "attachments"]', attachments=EXCEPTION))
    with smtplib.SMTP("127.0.0.1", made.port, timeout=30) as client:
        mail = attached(b"a.exe", EXE + b"\0" * size)
        assert client.sendmail("a@example.org", ["dev@example.com", "bob@example.com"], mail) == {}
    (arrived,) = inner.wait(1)
    assert list(arrived.recipients) == ["dev@example.com"]
    wait_for(lambda: quarantined(made), 20, "the other in quarantine")
    kept = quarantined(made)
    assert [[one["address"] for one in message["recipients"]] for message in kept] == [["bob@example.com"]]
    assert kept[0]["message_size"] > size
    assert made.cli("quarantine", "release", kept[0]["queue_id"]).returncode == 0
    both = inner.wait(2)
    assert both[0].content.endswith(mail[-size:]) and both[1].content.endswith(mail[-size:])


def test_each_domain_has_its_own_list(tmp_path: Path, inner: Inner) -> None:
    """One message for recipients of three domains."""
    exception = """
    [[exception]]
    match = {{ recipient_domain = "{}" }}
    set = {{ forbidden_extensions = {}, forbidden_types = [] }}
    reason = "their work"
    """
    lists = exception.format("dev.example.org", '["txt"]') + exception.format("free.example.net", "[]")
    policies = plain(message='["attachments"]', attachments=lists)
    policies["recipients"] += "@dev.example.org known\n@free.example.net known\n"
    made = Gateway(tmp_path / "gateway", inner.port, policies=policies)
    domains = 'domains = ["example.com", "dev.example.org", "free.example.net"]'
    made.config.write_text(made.config.read_text().replace('domains = ["example.com"]', domains))
    everybody = ["a@example.com", "b@DEV.example.org", "c@free.example.net"]
    made.start()
    try:
        for mail in (attached(b"a.exe", EXE), attached(b"a.txt", b"hi")):
            with smtplib.SMTP("127.0.0.1", made.port, timeout=30) as client:
                assert client.sendmail("a@example.org", everybody, mail) == {}
        arrived = sorted((b"a.exe" in mail.content, *mail.recipients) for mail in inner.wait(4))
        wait_for(lambda: len(quarantined(made)) >= 2, 20, "the others in quarantine")
        kept = quarantined(made)
    finally:
        made.stop()
    assert arrived == [
        (False, "a@example.com"),
        (False, "c@free.example.net"),
        (True, "b@dev.example.org"),
        (True, "c@free.example.net"),
    ]
    refused = sorted(one["address"] for message in kept for one in message["recipients"])
    assert refused == ["a@example.com", "b@dev.example.org"]
