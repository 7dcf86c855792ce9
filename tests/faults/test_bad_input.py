"""Malformed SMTP, hostile headers and MIME, through the real gateway while an honest sender goes on: an answer or a tidy
end in bounded time, nothing of our inside in it, no late event loop, no process lost, nothing honest lost."""

import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.hostile import Heard, attack, tidy
from tests.faults.inner_peers import Scripted
from tests.faults.senders import talk
from tests.faults.siege import siege
from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = [pytest.mark.fault, pytest.mark.timeout(150)]
MIB = 1 << 20
RNG = random.Random(5321)
HELLO = b"EHLO stranger.example.org\r\n"
PROBE = b"Subject: test\r\n\r\n"
MAIL = HELLO + b"MAIL FROM:<stranger@example.org>\r\n"
RCPT = MAIL + b"RCPT TO:<user@example.com>\r\n"
DATA = RCPT + b"DATA\r\n"
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + RNG.randbytes(190)
#: Who attacks: the errors of a client slow it down, and a test has no time for that.
LIMITS = '[limits]\nerrors_soft = 20\ntimeout_write = "3s"\ntimeout_command = "4s"\n'
LIMITS += 'timeout_data = "4s"\nconnections_per_client = 200\n'
LIMITS += '[queue]\nretry_min = "1s"\nretry_max = "2s"\n[smtp]\nsize_limit = 12000000\n'


def lines(*texts: bytes) -> bytes:
    return b"".join(text + b"\r\n" for text in texts)


def endless(part: bytes, times: int) -> Iterator[bytes]:
    return (part for _ in range(times))


#: name -> (octets, what must be among the replies). All after the greeting, then a half-close.
SMTP: dict[str, tuple[bytes, bytes]] = {
    "random octets": (RNG.randbytes(100_000), b""),
    "every octet on a line of its own": (b"".join(bytes([n]) + b"\r\n" for n in range(256)), b"5"),
    "NULs": (b"\0" * MIB, b""),
    "NULs in commands": (lines(b"EH\0LO x", b"EHLO a\0b", b"MAIL FROM:<a\0b@example.org>", b"NOOP"), b"250 2.0.0 Ok"),
    "a browser": (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + RCPT, b"554 "),
    "a browser, later": (HELLO + b"GET / HTTP/1.0\r\n\r\n" + RCPT, b"554 "),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", b"554 "),
    "a TLS hello": (TLS_HELLO, b"554 "),
    "a TLS hello, later": (HELLO + TLS_HELLO + b"\r\n", b"5"),
    "a command of 1 MB": (b"x" * MIB + b"\r\nNOOP\r\n", b"250 2.0.0 Ok"),
    "a command of 1 MB without an end": (b"x" * MIB, b"500 5.5.2"),
    "MAIL of 1 MB": (HELLO + b"MAIL FROM:<" + b"a" * MIB + b"@example.org>\r\nNOOP\r\n", b"250 2.0.0 Ok"),
    "EHLO of 1 MB": (b"EHLO " + b"a." * (MIB // 2) + b"\r\nNOOP\r\n", b"250 2.0.0 Ok"),
    "CRs": (b"\r" * MIB + b"\nNOOP\r\n", b""),
    "LFs": (b"\n" * MIB, b"5"),
    "CRLFs": (b"\r\n" * MIB, b"421 "),
    "a bare LF": (b"EHLO stranger.example.org\nMAIL FROM:<a@example.org>\r\n", b"500 5.5.2"),
    "a bare CR": (b"EHLO stranger\rMAIL FROM:<a@example.org>\r\nNOOP\r\n", b"250 2.0.0 Ok"),
    "CR CR LF": (lines(b"EHLO stranger.example.org\r", b"NOOP\r", b"NOOP"), b"250 2.0.0 Ok"),
    "8-bit commands": (
        lines("EHLO bücher".encode(), b"MAIL FROM:<\xff\xfe@example.org>", b"RCPT TO:\x80", b"NOOP"),
        b"250 2",
    ),
    "brackets": (
        lines(HELLO[:-2], *(b"MAIL FROM:" + b"<" * n + b">" * n for n in (2, 50, 900)), b"NOOP"),
        b"250 2.0.0 Ok",
    ),
    "quotes": (
        lines(HELLO[:-2], b"MAIL FROM:<" + b'"' * 999 + b">", b'MAIL FROM:<"\\' + b"\\" * 900, b"NOOP"),
        b"250 2.0.0",
    ),
    "a source route": (
        MAIL + b"RCPT TO:<" + b",".join([b"@a.example"] * 90) + b":user@example.com>\r\nNOOP\r\n",
        b"250 2.0",
    ),
    "parameters": (lines(HELLO[:-2], b"MAIL FROM:<a@example.org> " + b"X=Y " * 500, b"NOOP"), b"250 2.0.0 Ok"),
    "sizes": (
        lines(HELLO[:-2], *(b"MAIL FROM:<> SIZE=" + n for n in (b"-1", b"9" * 300, b"x", b"")), b"NOOP"),
        b"250 2.0",
    ),
    "dsn": (lines(HELLO[:-2], b"MAIL FROM:<> ENVID=+ZZ RET=", b"MAIL FROM:<> ENVID=+0D+0A", b"NOOP"), b"250 2.0.0 Ok"),
    "bdat without end": (RCPT + b"BDAT " + b"9" * 400 + b"\r\nNOOP\r\n", b"5"),
    "bdat of more than comes": (RCPT + b"BDAT 1000000 LAST\r\nNOOP\r\n", b""),
    "bdat below zero": (RCPT + b"BDAT -1 LAST\r\nNOOP\r\n", b"521 "),
    "a command behind another's words": (
        lines(HELLO[:-2], b"NOOP " + b"RCPT TO:<x> " * 100, b"VRFY %s%n${x}", b"HELP x"),
        b"25",
    ),
    "PROXY from a stranger": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n" + RCPT, b""),
    "XCLIENT from a stranger": (HELLO + b"XCLIENT ADDR=192.0.2.1\r\nNOOP\r\n", b"250 2.0.0 Ok"),
    "STARTTLS that is not there": (HELLO + b"STARTTLS\r\n" + TLS_HELLO + b"\r\n", b"5"),
    "50,000 recipients of others": (
        MAIL + b"".join(b"RCPT TO:<u%d@example.net>\r\n" % n for n in range(50_000)),
        b"421 ",
    ),
    "5,000 recipients of ours": (
        MAIL + b"".join(b"RCPT TO:<u%d@example.com>\r\n" % n for n in range(5_000)),
        b"452 4.5.3",
    ),
    "100,000 NOOPs": (HELLO + b"NOOP\r\n" * 100_000, b"421 "),
    "10,000 transactions": (HELLO + b"MAIL FROM:<>\r\nRSET\r\n" * 10_000, b"250 2.0.0 Ok"),
    "errors": (b"XYZZY\r\n" * 1000, b"421 "),
}


@pytest.fixture
def behind() -> Iterator[Scripted]:
    server = Scripted().start()
    yield server
    server.stop()


@pytest.fixture
def besieged(gateway: Callable[..., Gateway], behind: Scripted) -> Iterator[Gateway]:
    """One worker for attackers and an honest sender alike; what must hold at the end is judged here."""
    made = gateway(inner=behind.port, policies=plain(message='["size", "loop", "attachments"]'), workers=1, more=LIMITS)
    wait_for(lambda: talk(made.port, PROBE, "user@example.com", "stranger@example.org")[0] == "accepted", 10, "mail")
    with siege(made, behind):
        yield made


def test_malformed_smtp_is_answered_and_costs_only_itself(besieged: Gateway) -> None:
    for _ in range(3):
        with ThreadPoolExecutor(12) as crowd:
            heard = dict(zip(SMTP, crowd.map(lambda case: attack(besieged.port, case[0]), SMTP.values()), strict=True))
        for name, (_, expected) in SMTP.items():
            tidy(heard[name])
            assert any(line.startswith(expected) for line in heard[name].replies[1:]) or not expected, (name, heard[name])
            assert heard[name].seconds < 15, (name, heard[name].seconds)
            assert len(heard[name].octets) < MIB, name


def memory(gateway: Gateway) -> int:
    [pid] = gateway.children()["smtpd"]
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024  # type: ignore[index]


def test_clients_that_never_end_anything_are_ended(besieged: Gateway) -> None:
    """Endless lines and commands, answers that are not read, one octet at a time, nothing at all."""
    port, before = besieged.port, memory(besieged)

    def slowly(text: bytes) -> Iterator[bytes]:
        for octet in text:
            time.sleep(0.02)
            yield bytes([octet])

    cases: dict[str, tuple[bytes | Iterator[bytes], dict[str, Any], bytes]] = {
        "a line without end": (endless(b"x" * 65536, 1600), {}, b"500 5.5.2"),
        "commands without end": (endless(b"NOOP\r\n" * 10_000, 1600), {}, b"421 "),
        "MAIL without end": (endless(b"MAIL FROM:<>\r\nRSET\r\n" * 5_000, 1600), {}, b"421 "),
        "early talk": (RCPT, {"early": True}, b""),
        "early rubbish": (RNG.randbytes(5000), {"early": True}, b""),
        "an early TLS hello": (TLS_HELLO, {"early": True, "half": False}, b"554 "),
        "an octet at a time": (slowly(RCPT + b"QUIT\r\n"), {"half": False}, b"221 "),
        "a TLS hello, half of it": (TLS_HELLO[:3], {"half": False}, b""),
        "silence": (b"", {"half": False}, b"421 4.4.2"),
        "silence in a command": (HELLO + b"MAIL FR", {"half": False}, b"421 4.4.2"),
        "silence behind 354": (b"Subject: x\r\n\r\n.", {"half": False, "opening": DATA}, b"421 4.4.2"),
        "silence in BDAT": (RCPT + b"BDAT 500\r\nxyz", {"half": False}, b"421 4.4.2"),
        "an end behind a bare LF": (b"Subject: x\r\n\r\n\n.\n", {"half": False, "opening": DATA}, b""),
    }
    with ThreadPoolExecutor(len(cases) + 1) as crowd:
        deaf = crowd.submit(never_reads, port)
        heard = dict(zip(cases, crowd.map(lambda c: attack(port, c[0], **c[1]), cases.values()), strict=True))
        assert deaf.result() < 15
    for name, (_, _, expected) in cases.items():
        tidy(heard[name])
        assert any(line.startswith(expected) for line in heard[name].replies), (name, heard[name])
        assert heard[name].seconds < 15, (name, heard[name].seconds)
    assert memory(besieged) - before < 60 * MIB


def never_reads(port: int) -> float:
    """Ask for answers and read none; how long the gateway lets us."""
    start = time.monotonic()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.settimeout(20)
        try:
            sock.sendall(HELLO)
            while time.monotonic() - start < 15:
                sock.sendall(HELLO * 1000)
        except TimeoutError:
            pass
        except OSError:
            return time.monotonic() - start
    return time.monotonic() - start


def nested(depth: int) -> bytes:
    """Multipart in multipart."""
    return b"MIME-Version: 1.0\r\n" + b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(depth)
    )


def parts(count: int) -> bytes:
    part = b"--b\r\nContent-Type: text/plain; name*0=a; name*1=b\r\n\r\nx\r\n"
    return b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + part * count + b"--b--\r\n"


#: name -> (content, the beginning of the reply to its dot).
MESSAGES: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b"250 "),
    "only a line end": (b"\r\n", b"250 "),
    "no header": (b"\r\nbody\r\n", b"250 "),
    "no empty line": (b"just text\r\nand more\r\n", b"250 "),
    "a header that begins folded": (b" folded: x\r\n\tfolded\r\n\r\nbody\r\n", b"250 "),
    "9,000 fields": (b"X-F: y\r\n" * 9_000 + b"\r\nbody\r\n", b"250 "),
    "10,001 fields": (b"X-F: y\r\n" * 10_001 + b"\r\nbody\r\n", b"552 5.3.4"),
    "a million fields": (b"a:\r\n" * 1_000_000, b"552 5.3.4"),
    "a header line of 1 MB": (b"X-Long: " + b"a" * MIB + b"\r\n\r\nbody\r\n", b"552 5.3.4"),
    "a header line of 400 KB": (b"X-Long: " + b"a " * 200_000 + b"\r\n\r\nbody\r\n", b"250 "),
    "100,000 folds": (b"X-Long: a\r\n" + b" b\r\n" * 100_000 + b"\r\nbody\r\n", b"250 "),
    "a Message-ID of 100 KB": (b"Message-ID: <" + b"(" * 100_000 + b"\r\n\r\nbody\r\n", b"250 "),
    "our own fields": (b"X-Postgate-Mark: forged\r\n" * 5_000 + b"\r\nbody\r\n", b"250 "),
    "200 hops": (b"Received: from a by b; x\r\n" * 200 + b"\r\nbody\r\n", b"554 5.4.6"),
    "NULs": (b"Sub\0ject: a\0b\r\nX\0\0: y\r\n\r\n" + b"\0" * MIB + b"\r\n", b"250 "),
    "8-bit everywhere": (
        b"S\xfcbject: \xff\xfe\r\nFrom: \x80\r\n\r\n" + bytes(range(128, 256)) * 4000 + b"\r\n",
        b"250 ",
    ),
    "encoded words": (b"Subject: " + b"=?utf-8?q?=FF?= " * 20_000 + b"\r\n\r\nbody\r\n", b"250 "),
    "comments": (b"From: " + b"(" * 100_000 + b"\r\nTo: " + b"<" * 100_000 + b"\r\n\r\nbody\r\n", b"250 "),
    "a body line of 10 MB": (b"Subject: x\r\n\r\n" + b"a" * 10 * MIB + b"\r\n", b"250 "),
    "a body of line ends": (b"Subject: x\r\n\r\n" + b"\r\n" * 2 * MIB, b"250 "),
    "a body of bare LFs": (b"Subject: x\r\n\r\n" + b"\n" * 4 * MIB + b"\r\n", b"250 "),
    "a body of bare CRs": (b"Subject: x\r\n\r\n" + b"\r" * 4 * MIB + b"\r\n", b"250 "),
    "a body of dots": (b"Subject: x\r\n\r\n" + b"..\r\n" * MIB, b"250 "),
    "a body of dots behind bare LFs": (b"Subject: x\r\n\r\n" + b"\n." * 2 * MIB + b"\r\n", b"250 "),
    "10,000 parts": (parts(10_000), b"250 "),
    "90 multiparts deep": (nested(90), b"250 "),
    "90 messages deep": (b"Content-Type: message/rfc822\r\n\r\n" * 90 + b"Subject: x\r\n\r\nx\r\n", b"250 "),
    "10,000 parameters": (b"Content-Type: text/plain; " + b"a=b; " * 10_000 + b"\r\n\r\nbody\r\n", b"250 "),
    "a boundary of 70,000": (b"Content-Type: multipart/mixed; boundary=" + b"b" * 70_000 + b"\r\n\r\n--b", b"250 "),
    "over the limit": (b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 13_000, b"552 5.3.4"),
}
#: Content that another server might read as an end: none is one here, and the glued commands are content.
SMUGGLED = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\r\n.\r\r\n",
]


def mail(port: int, content: bytes) -> Heard:
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    return attack(port, content + b".\r\nQUIT\r\n", opening=DATA)


def test_hostile_messages_are_answered_and_kept_or_refused_whole(besieged: Gateway, behind: Scripted) -> None:
    with ThreadPoolExecutor(6) as crowd:
        heard = dict(zip(MESSAGES, crowd.map(lambda c: mail(besieged.port, c[0]), MESSAGES.values()), strict=True))
    for name, (_, expected) in MESSAGES.items():
        tidy(heard[name])
        assert [line[:9] for line in heard[name].replies if line.startswith(expected)], (name, heard[name])
        assert heard[name].replies[-1].startswith(b"221 "), (name, heard[name])
        assert heard[name].seconds < 20, (name, heard[name].seconds)
    wait_for(
        lambda: arrived(besieged, behind) == expected_count(), 30, f"{expected_count()} messages\n{besieged.tail(20)}"
    )


def expected_count() -> int:
    return sum(expected == b"250 " for _, expected in MESSAGES.values()) + 1


def arrived(gateway: Gateway, behind: Scripted) -> int:
    """What came of strangers, delivered or in quarantine."""
    kept = gateway.cli("quarantine", "list", "--json").stdout.splitlines()
    return len(kept) + sum("stranger" in one.sender for one in list(behind.messages))


def test_content_that_looks_like_an_end_is_content(besieged: Gateway, behind: Scripted) -> None:
    for number, end in enumerate(SMUGGLED):
        body = b"Subject: test\r\nX-Case: %d\r\n\r\nx" % number
        heard = mail(besieged.port, body + end + b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<root@example.com>\r\n")
        tidy(heard)
        assert heard.replies[-2].startswith((b"250 2.0.0", b"550 5.5.2")), (end, heard)
    wait_for(lambda: sum(b"X-Case" in kept.content for kept in list(behind.messages)) >= len(SMUGGLED), 20, "delivery")
    assert not any(kept.sender == "evil@example.org" or "root@example.com" in kept.recipients for kept in behind.messages)
    assert all(b"\n." not in kept.content.replace(b"\r\n", b"").replace(b"\r", b"") for kept in behind.messages)
