"""Real clamd and spamd: what they find is refused; when they are away, hang, talk rubbish or reload, mail is put off
(clamd) or passes marked (spamd), and nothing passes unscanned."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.senders import message, talk
from tests.peers import clamd, spamd
from tests.peers.clamd import Clamd, eicar_mail
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.spamd import GTUBE, Spamd

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not clamd.available(), reason="Debian package clamav-daemon is not installed"),
    pytest.mark.skipif(not spamd.available(), reason="Debian package spamd is not installed"),
]
SCANNED = plain(message='["size", "loop", ["antivirus", "antispam"]]')
HAM = b"""From: Ann Example <ann@example.org>\r
To: Bob <bob@example.com>\r
Subject: the minutes of our meeting\r
Date: Sat, 21 Nov 2026 10:00:00 +0000\r
Message-ID: <20261121100000.1@example.org>\r
MIME-Version: 1.0\r
Content-Type: text/plain; charset=us-ascii\r
\r
Dear Bob,\r
\r
please find the minutes of our meeting below. We agreed to meet again next week.\r
\r
Ann\r
"""


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Spamd]:
    server = Spamd(tmp_path / "spamd").start()
    yield server
    server.stop()


def wiring(av_address: str, as_address: str, hangs: str = "") -> str:
    """`hangs`: the one that is not waited for for long."""
    seconds = {name: 3 if name == hangs else 20 for name in ("clamd", "spamd")}
    return (
        f'[scanners.clamav]\nkind = "clamd"\naddress = "{av_address}"\ntimeout = "{seconds["clamd"]}s"\n'
        f'[scanners.spamassassin]\nkind = "spamd"\naddress = "{as_address}"\ntimeout = "{seconds["spamd"]}s"\n'
    )


@pytest.fixture
def scanned(gateway: Callable[..., Gateway], av: Clamd, judge: Spamd) -> Gateway:
    return gateway(policies=SCANNED, more=wiring(av.address, judge.address))


def test_a_virus_is_refused_and_the_scanner_is_not_named(scanned: Gateway, inner: Inner) -> None:
    kind, reply = talk(scanned.port, eicar_mail(), "bob@example.com")
    assert kind == "refused"
    assert reply.startswith("550 5.7.1")
    assert "clam" not in reply.lower() and "eicar" not in reply.lower()
    scanned.wait_log("Eicar-Test-Signature")
    assert not inner.messages


def test_spam_is_refused_and_ham_passes(scanned: Gateway, inner: Inner) -> None:
    kind, reply = talk(scanned.port, HAM.replace(b"Dear Bob,", GTUBE), "bob@example.com")
    assert (kind, reply[:9]) == ("refused", "550 5.7.1")
    assert talk(scanned.port, HAM, "bob@example.com")[0] == "accepted"
    [kept] = inner.wait(1)
    assert kept.content.endswith(HAM)
    assert b"X-Postgate-Mark: antispam=error" not in kept.content


@pytest.mark.parametrize("trouble", ["stopped", "hung"])
def test_without_clamd_mail_is_put_off(
    gateway: Callable[..., Gateway], av: Clamd, judge: Spamd, inner: Inner, trouble: str
) -> None:
    made = gateway(policies=SCANNED, more=wiring(av.address, judge.address, hangs="clamd"))
    {"stopped": av.stop, "hung": av.hang}[trouble]()
    kind, reply = talk(made.port, HAM, "bob@example.com")
    assert kind == "refused"
    assert reply.startswith("451 4.3.2")
    assert not inner.messages
    if trouble == "hung":
        av.wake()
    else:
        av.start()
    for _ in range(40):
        if talk(made.port, HAM, "bob@example.com")[0] == "accepted":
            break
    assert len(inner.wait(1)) == 1


def test_a_reload_of_clamd_lets_nothing_pass_unscanned(
    gateway: Callable[..., Gateway], tmp_path: Path, judge: Spamd, inner: Inner
) -> None:
    av = Clamd(tmp_path / "blocking", concurrent="no").start()
    made = gateway(policies=SCANNED, more=wiring(av.address, judge.address))
    try:
        for number in range(12):
            with socket.create_connection(("127.0.0.1", av.port), timeout=30) as sock:
                sock.sendall(b"zRELOAD\0")
                assert sock.recv(100).startswith(b"RELOADING")
            kind, reply = talk(made.port, eicar_mail() if number % 2 else HAM, "bob@example.com")
            assert (kind == "accepted") <= (number % 2 == 0), reply
    finally:
        av.stop()
    assert not [k for k in inner.messages if b"x.com" in k.content]


def rubbish(answer: bytes) -> tuple[socket.socket, int]:
    """A server that answers everything with the same octets and closes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return server, server.getsockname()[1]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"stream: OKAY\0", b"stream: OK", b"", b"\0", b"OK\0"])
def test_rubbish_from_clamd_is_never_clean(
    gateway: Callable[..., Gateway], judge: Spamd, inner: Inner, answer: bytes
) -> None:
    server, port = rubbish(answer)
    made = gateway(policies=SCANNED, more=wiring(f"127.0.0.1:{port}", judge.address))
    kind, reply = talk(made.port, HAM, "bob@example.com")
    server.close()
    assert kind == "refused"
    assert reply.startswith("451 4.3.2")
    assert not inner.messages


@pytest.mark.parametrize("trouble", ["stopped", "hung"])
def test_without_spamd_mail_passes_marked(
    gateway: Callable[..., Gateway], av: Clamd, judge: Spamd, inner: Inner, trouble: str
) -> None:
    made = gateway(policies=SCANNED, more=wiring(av.address, judge.address, hangs="spamd"))
    {"stopped": judge.stop, "hung": judge.hang}[trouble]()
    assert talk(made.port, HAM, "bob@example.com")[0] == "accepted"
    [kept] = inner.wait(1)
    assert b"X-Postgate-Mark: antispam=error" in kept.content
    assert talk(made.port, message(1, 500), "bob@example.com")[0] == "accepted"
