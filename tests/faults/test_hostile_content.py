"""Hostile mail through the real gateway with the shipped plan, while an honest sender goes on: every message has
its outcome in bounded time, and nobody else waits (tests/faults/siege.py)."""

import base64
import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.hostile import Heard, attack, tidy
from tests.faults.inner_peers import Scripted
from tests.faults.siege import siege
from tests.faults.test_bad_input import DATA, LIMITS, PROBE, nested, parts
from tests.mailauth.test_author import AMBIGUOUS
from tests.peers import dns
from tests.peers.gateway import Gateway
from tests.peers.mailworld import zone
from tests.peers.mailworld.case import message
from tests.peers.mailworld.keys import ed25519, rsa
from tests.peers.mailworld.odd import KEYS
from tests.peers.mailworld.signing import HEADERS, sign
from tests.peers.policies import RECIPIENTS
from tests.peers.ports import wait_for

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
MIB = 1 << 20
TAKEN, NO_AUTHOR, UNPROVEN = b"250 ", b"550 5.7.1 ", b"550 5.7.26 "
FORBIDDEN = b"550 5.7.1 "
AUTHOR = "Joe <joe@keys.bv>"
#: name -> (content, how the reply to its end begins). The author's domain asks for the rejection of what fails DMARC.
Cases = dict[str, tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def behind() -> Iterator[Scripted]:
    server = Scripted().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway_of_all(tmp_path_factory: pytest.TempPathFactory, behind: Scripted) -> Iterator[Gateway]:
    """One worker, the shipped stages; greylisting alone is off."""
    records: dict[str, list[str]] = {}
    for line in zone.records():
        name, kind, data = line.split(" ", 2)
        records.setdefault(f"{name.rstrip('.')} {kind}", []).append(data)
    server = dns.Dns({key: tuple(data) for key, data in records.items()}).start()
    policies = {
        "recipient.toml": RECIPIENTS,
        "recipients": "@example.com known\n",
        "greylist.toml": 'mode = "off"\n',
    }
    root: Path = tmp_path_factory.mktemp("gateway")
    made = Gateway(root, behind.port, workers=1, more=LIMITS, policies=policies, zone="", nameserver=server.address)
    try:
        yield made.start()
    finally:
        made.stop()
        server.stop()


@pytest.fixture
def play(gateway_of_all: Gateway, behind: Scripted) -> Iterator[Callable[[Cases], dict[str, Heard]]]:
    """Send all cases, six at a time, and hold each reply against what is right."""
    made = gateway_of_all
    wait_for(lambda: mail(made.port, PROBE.replace(b"Subject", b"From: a@example.org\r\nSubject")).replies, 10, "a reply")
    with siege(made, behind):

        def send(cases: Cases) -> dict[str, Heard]:
            with ThreadPoolExecutor(6) as crowd:
                heard = dict(zip(cases, crowd.map(lambda case: mail(made.port, case[0]), cases.values()), strict=True))
            for name, (_, expected) in cases.items():
                tidy(heard[name])
                reply = heard[name].replies[-2] if len(heard[name].replies) > 1 else b""
                assert reply.startswith(expected), (name, heard[name].replies[-3:])
                assert heard[name].seconds < 15, (name, heard[name].seconds)
            return heard

        yield send


def mail(port: int, content: bytes) -> Heard:
    return attack(port, content.replace(b"\r\n.", b"\r\n..") + b".\r\nQUIT\r\n", opening=DATA)


def signed(subject: str, selector: str = "r1", body: bytes = b"text\r\n", extra: bytes = b"", **how: object) -> bytes:
    key = how.pop("key", rsa(1024))
    return sign(message(AUTHOR, subject, body, extra), key, "keys.bv", selector, **how)  # type: ignore[arg-type]


def test_a4_an_ambiguous_author_is_refused_in_every_form(play: Callable[[Cases], dict[str, Heard]]) -> None:
    assert len(AMBIGUOUS) >= 40
    tail = b"\r\nSubject: x\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <%d@x.example>\r\n\r\ntext\r\n"
    cases = {repr(value[:60]): (b"From: " + value + tail % n, NO_AUTHOR) for n, (value, _) in enumerate(AMBIGUOUS)}
    heard = play(cases)
    assert all(b"it needs exactly one author" in one.replies[-2] for one in heard.values())


def test_a2_keys_of_every_bad_kind_prove_nothing_and_cost_nothing(
    play: Callable[[Cases], dict[str, Heard]],
) -> None:
    cases = {name: (signed("key", name), TAKEN if word == "pass" else UNPROVEN) for name, word in KEYS.items()}
    cases |= {
        "good": (signed("key"), TAKEN),
        "512 bits": (signed("key", "weak", key=rsa(512)), UNPROVEN),
        "two keys": (signed("key", "two"), TAKEN),
        "testing": (signed("key", "testing"), UNPROVEN),
        "an ed25519 key of three octets": (signed("key", "short25519", key=ed25519()), UNPROVEN),
        "exact": (signed("key", "exact", tags={"i": "joe@news.keys.bv"}), UNPROVEN),
    }
    play(cases)


def test_a2_signatures_without_end_are_read_up_to_a_limit(play: Callable[[Cases], dict[str, Heard]]) -> None:
    rubbish = b"DKIM-Signature: v=1; a=rsa-sha256; d=keys.bv; s=s%d; h=from; bh=AAAA; b=AAAA\r\n"
    many = b"".join(rubbish % n for n in range(400))
    good, header = signed("many"), b"".join(b"X-F%d: y\r\n" % n for n in range(9_900))
    names = tuple(f"x-f{n}" for n in range(9_900))
    cases = {
        "400 below a good one": (good.replace(b"\r\nFrom:", b"\r\n" + many + b"From:", 1), TAKEN),
        "400 over a good one": (many + good, UNPROVEN),
        "400 equal ones": (sign_often(good, 400), TAKEN),
        "9,900 fields": (signed("fields", extra=header), TAKEN),
        "9,900 fields, all signed": (signed("fields", extra=header, headers=(*HEADERS, *names)), UNPROVEN),
        "9,900 times From in h=": (signed("fields", headers=(*HEADERS, *["from"] * 9_900)), UNPROVEN),
        "10,001 fields": (b"X-F: y\r\n" * 10_001 + good, b"552 5.3.4"),
        "a signature of 300 KB": (signed("long", tags={"z": "x" * 300_000}), UNPROVEN),
        "40,000 tags": (signed("tags", tags={"x0": "; ".join(f"t{n}=y" for n in range(40_000))}), UNPROVEN),
    }
    play(cases)


def sign_often(content: bytes, times: int) -> bytes:
    """The same signature again and again on top."""
    end = content.index(b"\r\nFrom:") + 2
    return content[:end] * times + content[end:]


BODIES = {
    "40 KB of blanks in a line": (b"a" + b" " * 40_000 + b"b\r\n") * 20,
    "40 KB of blanks at the end of lines": (b"a" + b" \t" * 20_000 + b"\r\n") * 20,
    "lines of blanks": (b" " * 40_000 + b"\r\n") * 20,
    "a million empty lines": b"text\r\n" + b"\r\n" * MIB,
    "a million empty lines and an end": b"\r\n" * MIB + b"text\r\n",
    "lines of one blank": b" \r\n" * MIB + b"text\r\n",
    "8 MB in one line": b"a b  c\t" * MIB + b"\r\n",
}


def test_a2_bodies_of_blanks_are_canonicalised_in_linear_time(play: Callable[[Cases], dict[str, Heard]]) -> None:
    cases: Cases = {}
    for name, body in BODIES.items():
        for how in ("relaxed/relaxed", "simple/simple"):
            cases[f"{name}, {how}"] = (signed(name, body=body, how=how), TAKEN)
            cases[f"{name}, {how}, altered"] = (signed(name, body=body, how=how) + b"x\r\n", UNPROVEN)
    play(cases)


def attached(octets: bytes, disposition: bytes) -> bytes:
    """A message with one attachment, plain octets in base64."""
    lines = b"\r\n".join(base64.b64encode(octets[n : n + 57]) for n in range(0, len(octets), 57))
    head = b"From: joe@plain.example\r\nSubject: x\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\nMIME-Version: 1.0\r\n"
    head += (
        b"Message-ID: <x@plain.example>\r\nContent-Type: multipart/mixed; boundary=zz\r\n\r\n--zz\r\n\r\ntext\r\n--zz\r\n"
    )
    head += b"Content-Type: application/octet-stream\r\nContent-Disposition: attachment; " + disposition + b"\r\n"
    return head + b"Content-Transfer-Encoding: base64\r\n\r\n" + lines + b"\r\n--zz--\r\n"


def zipped(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, octets in members:
            archive.writestr(name, octets)
    return file.getvalue()


def deep(levels: int) -> bytes:
    octets = zipped(("text.txt", b"text"))
    for level in range(levels):
        octets = zipped((f"level{level}.zip", octets))
    return octets


def test_c2_bombs_and_nests_cost_themselves_only(
    play: Callable[[Cases], dict[str, Heard]], gateway_of_all: Gateway
) -> None:
    author = b"From: joe@plain.example\r\n"
    zeros = bytes(100 * MIB)
    bomb = zipped(("a.bin", zeros))
    tenfold = zipped(*((f"{n}.zip", bomb) for n in range(10)))
    cases = {
        "zip of 300 MB": (attached(zipped(*((f"{n}.bin", zeros) for n in range(3))), b"filename=a.zip"), TAKEN),
        "ten zips of 100 MB in one": (attached(tenfold, b"filename=a.zip"), TAKEN),
        "gzip of 100 MB in gzip": (attached(gzip.compress(gzip.compress(zeros)), b"filename=a.gz"), TAKEN),
        "20 zips deep": (attached(deep(20), b"filename=a.zip"), TAKEN),
        "50,000 members": (attached(zipped(*((f"{n}.txt", b"") for n in range(50_000))), b"filename=a.zip"), TAKEN),
        "a program, 3 zips deep": (attached(zipped(("b.zip", zipped(("a.exe", b"MZ")))), b"filename=a.zip"), FORBIDDEN),
        "half a zip": (attached(bomb[: MIB // 20], b"filename=a.zip"), TAKEN),
        "90 multiparts deep": (author + nested(90), TAKEN),
        "90 messages deep": (author + b"Content-Type: message/rfc822\r\n\r\n" * 90 + b"Subject: x\r\n\r\nx\r\n", TAKEN),
        "10,000 parts": (author + parts(10_000), TAKEN),
    }
    before = quarantined(gateway_of_all)
    play(cases)
    wait_for(lambda: quarantined(gateway_of_all) >= before + 8, 20, "eight of them in quarantine")


def quarantined(made: Gateway) -> int:
    return len(made.cli("quarantine", "list", "--json").stdout.splitlines())


PIECES = b"; ".join(b'filename*%d="%b"' % (n, piece) for n, piece in enumerate([b"in", b"voice", b".e", b"xe"]))
HEXED = b"filename*0*=utf-8''invoice%2E; filename*1*=%65x; filename*2=e"
SHUFFLED = b'filename*3="xe"; filename*1="voice"; filename*0="in"; filename*2=".e"'
MANY = b"; ".join(b"filename*%d=%b" % (n, b"a" if n < 4_990 else b".exe"[n - 4_990 :][:1] or b"e") for n in range(4_994))
SHELL = [
    b"$(reboot).txt",
    b"`id`.txt",
    b"a;rm -rf x|&.txt",
    b"..%2f..%2fetc%2fpasswd",
    b"-rf.txt",
    b"%s%n${IFS}.txt",
    b"{{7*7}}.txt",
]


def test_c3_names_in_pieces_and_names_for_a_shell(play: Callable[[Cases], dict[str, Heard]], behind: Scripted) -> None:
    cases: Cases = {
        "in pieces": (attached(b"text", PIECES), FORBIDDEN),
        "in pieces, percent-encoded": (attached(b"text", HEXED), FORBIDDEN),
        "in pieces, in another order": (attached(b"text", SHUFFLED), FORBIDDEN),
        "in 4,994 pieces": (attached(b"text", MANY), b""),
    }
    for name in SHELL:
        cases[name.decode()] = (attached(b"text", b'filename="' + name + b'"'), TAKEN)
        cases[f"{name.decode()}, a program"] = (attached(b"text", b'filename="' + name + b'.exe"'), FORBIDDEN)
    play(cases)
    arrived = [kept.content for kept in list(behind.messages)]
    for name in SHELL:
        wanted = b'filename="' + name + b'"\r\n'
        wait_for(lambda wanted=wanted: any(wanted in kept.content for kept in list(behind.messages)), 10, repr(name))
    assert arrived
