"""What attachments may not come in, through a running gateway (threats C1, C4, C5, C8)."""

import base64
import gzip
import io
import zipfile
from collections.abc import Callable

from tests.faults.senders import talk
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain

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
