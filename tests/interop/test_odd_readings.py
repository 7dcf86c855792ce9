"""What clamd's own reader of mail misses is found in the parts that scand decodes (C1), in a running gateway."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.senders import message, talk
from tests.peers import clamd
from tests.peers.clamd import EICAR, Clamd, eicar_mail, padded
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not clamd.available(), reason="Debian package clamav-daemon is not installed"),
    pytest.mark.timeout(120),
]
BASE64 = base64.encodebytes(EICAR).replace(b"\n", b"\r\n")
FIELDS = b"From: <a@example.org>\r\nSubject: test\r\nMIME-Version: 1.0\r\n"
WHOLE = eicar_mail().partition(b"\r\n\r\n")[2]
#: Mails that clamd takes for clean as they come; some readers of mail show their user the test file.
ODD = {
    "padding in the middle": eicar_mail(body=padded()),
    "an encoded multipart": FIELDS
    + b'Content-Type: multipart/mixed; boundary="frontier"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    + base64.encodebytes(WHOLE).replace(b"\n", b"\r\n"),
    "no line between header and body": eicar_mail().replace(b"base64\r\n\r\n", b"base64\r\n"),
}
POLICIES = plain(message='["content", ["antivirus", "antispam"]]')


def wiring(av: Clamd) -> str:
    return f'[scanners.clamav]\nkind = "clamd"\naddress = "{av.address}"\n'


def test_c1_what_only_some_readers_see_is_found(gateway: Callable[..., Gateway], av: Clamd, inner: Inner) -> None:
    made = gateway(policies=POLICIES, more=wiring(av))
    raw = gateway(policies=POLICIES | {"antivirus.toml": "parts_limit = 0\n"}, more=wiring(av))
    for name, odd in ODD.items():
        assert talk(raw.port, odd, "bob@example.com")[0] == "accepted", f"{name}: clamd sees it by itself"
        kind, reply = talk(made.port, odd, "bob@example.com")
        assert (kind, reply[:9]) == ("refused", "550 5.7.1"), name
    assert len(inner.wait(len(ODD))) == len(ODD)
    made.wait_log("Eicar-Test-Signature.UNOFFICIAL in part '")


def test_a_content_that_comes_again_is_not_scanned_again(
    gateway: Callable[..., Gateway], av: Clamd, inner: Inner
) -> None:
    made = gateway(policies=POLICIES, more=wiring(av), workers=1)
    for _ in range(3):
        assert talk(made.port, message(1, 500), "bob@example.com")[0] == "accepted"
        assert talk(made.port, eicar_mail(), "bob@example.com")[0] == "refused"
    [facts] = [worker["health"] for worker in made.status()["workers"] if worker["service"] == "smtpd"]
    scanner = facts["scanner clamav (clamd)"]
    assert (scanner["clean"], scanner["infected"], scanner["known already"]) == (3, 3, 4)
    assert len(inner.wait(3)) == 3


def test_rules_for_bodies_read_what_is_encoded(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner) -> None:
    (tmp_path / "body").write_text("/^STANDARD|EICAR-STANDARD/ REJECT 5.7.1 nothing of this kind\n")
    rules = f'body = "pcre:{tmp_path}/body"\ndecoded = '
    reading = gateway(policies=plain(message='["content"]', content=f"{rules}true\n"))
    blind = gateway(policies=plain(message='["content"]', content=f"{rules}false\n"))
    mail = eicar_mail().replace(b"application/octet-stream", b"text/plain")
    assert talk(blind.port, mail, "bob@example.com")[0] == "accepted"
    kind, reply = talk(reading.port, mail, "bob@example.com")
    assert kind == "refused"
    assert reply.startswith("550 5.7.1 nothing of this kind [")
    reading.wait_log("decoded 'X5O")
