"""Rows of threats against a whole running gateway, where one process alone proves too little."""

import contextlib
import re
import smtplib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = pytest.mark.peer
Start = Callable[..., Gateway]


def send(gateway: Gateway, content: bytes, helo: str = "client.example.org") -> int:
    """One message; the code of the last answer."""
    with smtplib.SMTP("127.0.0.1", gateway.port, helo, timeout=20) as smtp:
        try:
            smtp.sendmail("a@example.net", ["b@example.com"], content)
        except smtplib.SMTPResponseException as error:
            return error.smtp_code
        return 250


def test_b10_mail_that_goes_round_is_refused(gateway: Start, inner: Inner) -> None:
    running = gateway(workers=1, policies=plain())
    foreign = b"Received: from a by mx%d.example.net; Sat, 21 Nov 2026 00:00:00 +0000\r\n"
    own = b"Received: from a by mx.example.com (Postgate); Sat, 21 Nov 2026 00:00:00 +0000\r\n"
    rest = b"Subject: round\r\n\r\nand round\r\n"
    assert send(running, b"".join(foreign % number for number in range(60)) + rest) == 554
    assert send(running, own * 20 + rest) == 554
    assert send(running, own * 2 + b"".join(foreign % number for number in range(10)) + rest) == 250
    wait_for(lambda: len(inner.messages) == 1, 10, "the mail that came back only twice")
    assert "554 5.4.6 Too many hops" in running.log()
    wait_for(lambda: not running.cli("queue", "list", "--json").stdout, 10, "a refused message to be kept nowhere")


def test_p4_what_a_message_says_is_one_printable_line(gateway: Start, inner: Inner) -> None:
    running = gateway(workers=1, policies=plain())
    evil = b"<\x1b[2Jx\x00\xff\xe2\x80\xae" + b"\x07" * 450 + b"z" * 450 + b"@example.net>"
    forged = b"Subject: x\rpostgate/smtpd[1]: forged: line\n postgate/smtpd[1]: forged\r\n"
    assert send(running, b"Message-ID: " + evil + b"\r\n" + forged + b"\r\nsecret words of the body\r\n") == 250
    wait_for(lambda: inner.messages and " removed" in running.log(), 10, "the delivery")
    lines = (running.root / "gateway.log").read_bytes().decode().splitlines()
    assert any("message-id=" in line for line in lines)
    for line in lines:
        assert line.isprintable(), repr(line)
        assert re.match(r"\w{3} [ \d]\d \d\d:\d\d:\d\d \S+ postgate/\w+\[\d+\]: ", line), line
        assert len(line) < 4096 and not re.search(r"\]: forged|secret words", line), line


def test_p6_a_key_is_nowhere_but_in_its_file_and_in_memory(gateway: Start, tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("mx.example.com")
    pem, key = tmp_path / "mx.pem", tmp_path / "mx.key"
    pem.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    running = gateway(workers=1, policies=plain())
    text = running.config.read_text().replace(
        'name = "public"', f'name = "public"\ntls = {{ certificate = "{pem}", key = "{key}" }}'
    )
    running.config.write_text(text)
    running.cli("reload")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", running.port, timeout=20) as smtp:
        assert smtp.starttls(context=context)[0] == 220
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")  # broken: it is complained of
    running.wait_log("certificate cannot be used")
    secret = issued.private_key_pem.bytes().splitlines()[2]
    told = [running.log().encode(), running.cli("status", "--json").stdout.encode()]
    told += [path.read_bytes() for path in (running.root / "state").rglob("*") if path.is_file()]
    for pid in (pid for pids in running.children().values() for pid in pids):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                told.append(Path(f"/proc/{pid}/{name}").read_bytes())
    assert len(told) > 10
    assert not [text[:200] for text in told if secret in text or b"c2VjcmV0" in text]
