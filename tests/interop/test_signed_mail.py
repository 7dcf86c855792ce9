"""Signed mail through a running gateway: the result stands on top, and the message still verifies behind us, for a stock
dkimpy in a process of its own that knows nothing of ours (design section 8)."""

import re
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.hostile import Canary, none_late
from tests.faults.inner_peers import Scripted
from tests.faults.senders import talk
from tests.mailauth.signing import ED25519_RECORD, MAIL, record, seal, sign, signature
from tests.mailauth.test_dkim_vectors import KEYS_8463, MAIL_8463, SIGNATURES_8463, crlf
from tests.peers.gateway import ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

POLICIES = plain(message='["size", "loop", "dkim", "arc"]')
KEYS = {"s._domainkey.example.org": record(), "e._domainkey.example.org": ED25519_RECORD, **KEYS_8463}
STOCK = """
import sys, dkim
assert not any(name.startswith("appliance") for name in sys.modules)
keys = dict(line.split(" ", 1) for line in open(sys.argv[2]))
dns = lambda name, timeout=5: keys.get(name.decode().rstrip("."), "").strip().encode()
mail = open(sys.argv[1], "rb").read()
count = mail.partition(b"\\r\\n\\r\\n")[0].lower().count(b"dkim-signature:")
def verify(number):
    try:
        return dkim.DKIM(mail).verify(number, dnsfunc=dns)
    except dkim.ValidationError:  # what it says of a body that was changed
        return False
print([verify(number) for number in range(count)], dkim.arc_verify(mail, dnsfunc=dns)[0])
"""


def strings(text: str) -> str:
    """A TXT record's text in a zone file."""
    return " ".join(f'"{text[start : start + 200]}"' for start in range(0, len(text), 200))


def zone() -> str:
    return ZONE + "".join(f"{name} TXT {strings(text)}\n" for name, text in KEYS.items())


def stock(content: bytes, folder: Path) -> str:
    """What stock dkimpy says of a message: of each signature, and of the chain."""
    (folder / "mail").write_bytes(content)
    (folder / "keys").write_text("".join(f"{name} {text}\n" for name, text in KEYS.items()))
    command = [sys.executable, "-I", "-c", STOCK, str(folder / "mail"), str(folder / "keys")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def results(content: bytes) -> list[str]:
    """Those of our Authentication-Results field, which must be the topmost of its kind."""
    header = re.sub(rb"\r\n[ \t]+", b" ", content.partition(b"\r\n\r\n")[0]).decode()
    fields = [line.partition(": ") for line in header.split("\r\n")]
    ours = [value for name, _, value in fields if name == "Authentication-Results"]
    assert len(ours) == 1 and ours[0].startswith("mx.example.com; ")
    return ours[0].split("; ")[1:]


MESSAGES = {
    "rsa": (sign(), ["dkim=pass header.d=example.org"], "[True] b'none'"),
    "simple": (sign(c="simple/simple"), ["dkim=pass header.d=example.org"], "[True] b'none'"),
    "rfc 8463": (
        crlf(SIGNATURES_8463 + MAIL_8463),
        [
            "dkim=pass header.d=football.example.com header.i=@football.example.com header.s=brisbane",
            "dkim=pass header.d=",
        ],
        "[True, True] b'none'",
    ),
    "double": (
        signature(MAIL) + signature(MAIL, a="ed25519-sha256", s="e") + MAIL,
        ["dkim=pass header.d=example.org header.i=@example.org header.s=s", "dkim=pass header.d=example.org"],
        "[True, True] b'none'",
    ),
    "sealed": (
        seal(seal(sign())),
        ["dkim=pass header.d=example.org", 'arc=pass reason="sealed by example.org"'],
        "[True] b'pass'",
    ),
    "changed": (
        sign().replace(b"Hello", b"Hallo"),
        ['dkim=fail reason="body hash did not verify" header.d=example.org'],
        "[False] b'none'",
    ),
    "unsigned": (MAIL, ["dkim=none"], "[] b'none'"),
}


def test_signed_mail_is_marked_on_top_and_still_verifies_behind_us(
    gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path
) -> None:
    made = gateway(zone=zone(), policies=POLICIES, workers=1)
    for number, (octets, wanted, verified) in enumerate(MESSAGES.values(), 1):
        assert talk(made.port, octets, "bob@example.com")[0] == "accepted"
        kept = inner.wait(number)[-1].content
        assert kept.endswith(octets), "nothing of what was signed is changed"
        found = results(kept)
        assert len(found) == len(wanted), found
        for text, start in zip(found, wanted, strict=True):
            assert text.startswith(start)
        assert stock(kept, tmp_path) == verified


def test_signed_mail_is_a_mark_where_a_key_cannot_be_had(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """The name server is away (its port is closed): temperror, delivered with a mark, never a refusal."""
    made = gateway(policies=POLICIES, workers=1)
    assert talk(made.port, sign(), "bob@example.com")[0] == "accepted"
    kept = inner.wait(1)[0].content
    assert results(kept)[0].startswith("dkim=temperror ")
    assert b"X-Postgate-Mark: dkim=temperror" in kept


@pytest.fixture
def behind() -> Iterator[Scripted]:
    """An inner server that takes lines of any length."""
    server = Scripted().start()
    yield server
    server.stop()


@pytest.mark.fault
def test_hostile_signatures_keep_no_loop_waiting(gateway: Callable[..., Gateway], behind: Scripted) -> None:
    """400 signatures, lines of 40 KB of blanks, a header of 10,000 fields, thousands of folds, 10 MB of body."""
    made = gateway(inner=behind.port, zone=zone(), policies=POLICIES, workers=1, more="[smtp]\nsize_limit = 20000000\n")
    blanks = MAIL + (b" " * 40_000 + b"x\r\n") * 50
    large = MAIL + (b"text  \t text " * 60 + b" \r\n") * 13_000
    attacks = {
        "400 signatures": (signature(MAIL) * 400 + MAIL, "dkim=pass"),
        "blanks": (sign(blanks), "dkim=pass"),
        "10 MB": (sign(large, l="7000000"), "dkim=pass"),
        "fields": (sign(b"X: y\r\n" * 9_900 + MAIL, h="From:X:X:X:To"), "dkim=pass"),
        "folds": (b"DKIM-Signature: v=1;" + b"\r\n a=b;" * 5_000 + b"\r\n" + MAIL, "dkim=permerror"),
        "seals": (b"ARC-Seal: i=1; cv=none\r\n" * 3_000 + MAIL, "dkim=none"),
    }
    began = time.monotonic()
    with Canary() as canary:
        for number, (octets, _) in enumerate(attacks.values()):
            assert talk(made.port, octets, f"user{number}@example.com", seconds=60)[0] == "accepted"
    none_late(made, began, canary.worst)
    wait_for(lambda: len(behind.recipients()) == len(attacks), 30, "all messages")
    marks = {kept.recipients[0]: results(kept.content)[0].split()[0] for kept in behind.messages}
    assert [marks[f"user{number}@example.com"] for number in range(6)] == [mark for _, mark in attacks.values()]


REPLAY = 'replay_networks = 3\n[on]\nreplayed = "reject"\n'
LOOPBACK = "0.127.in-addr.arpa SOA ns.example.org. root.example.org. 1 3600 3600 3600 60\n"


def bring(gateway: Gateway, network: int, octets: bytes) -> str:
    """Send from 127.0.`network`.9; the reply to the end of data."""
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=30, source_address=(f"127.0.{network}.9", 0)) as client:
        client.ehlo("mail.example.net")
        client.mail("someone@example.net")
        client.rcpt("bob@example.com")
        code, text = client.data(octets)
    return f"{code} {text.decode()}"


def test_a3_a_replayed_signature_is_noticed_over_all_workers(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made = gateway(zone=zone() + LOOPBACK, policies=POLICIES | {"dkim.toml": REPLAY}, workers=2)
    for network in (10, 11, 11, 12, 10, 12):
        assert bring(made, network, sign()).startswith("250 ")
    for network in (13, 14, 10):
        reply = bring(made, network, sign())
        assert reply.startswith("550 5.7.1 Message refused: it has been seen too often"), reply
        assert "dkim" not in reply.lower() and "example.org" not in reply
    other = MAIL.replace(b"Hello", b"Another text")
    assert bring(made, 15, sign(other)).startswith("250 "), "another message is another signature"
    assert bring(made, 16, MAIL).startswith("250 "), "nobody signed this one"
    assert len(inner.wait(8)) == 8
    made.wait_log("seen from more than 3 networks")
