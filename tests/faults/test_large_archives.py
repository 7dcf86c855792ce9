"""Honest archives of 20 MB through scand, several at once, while others send small mail: all is looked into, taken
and delivered as it came, no loop is kept, and who sends small mail hardly notices."""

import base64
import io
import random
import statistics
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.inner_peers import Scripted
from tests.faults.senders import talk
from tests.faults.siege import siege
from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
MIB = 1 << 20
SMALL = b"From: a@example.org\r\nSubject: test\r\n\r\nhello\r\n"
#: How many at once; scand has two processes for them, each has its turn.
CROWD = 4
STRANGER = "stranger@example.org"


def archive() -> bytes:
    """What offices send: pictures that do not get smaller, texts and tables that do; some 20 MiB, 48 unpacked."""
    rng = random.Random(20)
    line = b"%06d;some words of a table;1234,56;and more of them that come again and again\r\n"
    table = b"".join(line % number for number in range(12_000))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for number in range(38):
            made.writestr(f"pictures/{number}.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + rng.randbytes(MIB // 2))
        for number in range(30):
            made.writestr(f"tables/{number}.csv", table)
    return packed.getvalue()


def with_attachment(octets: bytes) -> bytes:
    encoded = base64.encodebytes(octets).replace(b"\n", b"\r\n")
    return (
        b"From: a@example.org\r\nSubject: test\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\nthe files\r\n--b\r\nContent-Type: application/zip\r\n"
        b'Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename="files.zip"\r\n\r\n'
        + encoded
        + b"--b--\r\n"
    )


@pytest.fixture
def behind() -> Iterator[Scripted]:
    server = Scripted().start()
    yield server
    server.stop()


class Small(threading.Thread):
    """Somebody who sends small mail, one after the other, and looks at the clock."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.over = port, threading.Event()
        self.seconds: list[float] = []
        self.refused: list[str] = []
        #: By how much too long the machine let it sleep at most.
        self.late = 0.0

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            kind, reply = talk(self.port, SMALL, "small@example.com", STRANGER)
            self.seconds.append(time.monotonic() - began)
            if kind != "accepted":
                self.refused.append(reply)
            slept = time.monotonic()
            self.over.wait(0.02)
            self.late = max(self.late, time.monotonic() - slept - 0.02)


def with_program(octets: bytes) -> bytes:
    """The same archive with one more member, at its end."""
    packed = io.BytesIO(octets)
    with zipfile.ZipFile(packed, "a") as made:
        made.writestr("tables/last.exe", b"MZ")
    return packed.getvalue()


def test_honest_archives_of_20_mb_hold_nobody_up(gateway: Callable[..., Gateway], behind: Scripted) -> None:
    octets = archive()
    assert 19 * MIB < len(octets) < 21 * MIB
    large = [with_attachment(one) for one in [octets] * CROWD + [with_program(octets)]]
    policies = plain(message='["size", "loop", "attachments"]')
    made = gateway(inner=behind.port, policies=policies, workers=1, more="[limits]\nscand = 2\n")
    wait_for(lambda: talk(made.port, SMALL, "user@example.com", STRANGER)[0] == "accepted", 10, "mail")
    small = Small(made.port)
    with siege(made, behind):
        small.start()
        with ThreadPoolExecutor(CROWD + 1) as crowd:
            heard = list(
                crowd.map(lambda n: talk(made.port, large[n], f"large{n}@example.com", STRANGER, 90), range(CROWD + 1))
            )
        small.over.set()
        small.join(30)
    assert [kind for kind, _ in heard[:CROWD]] == ["accepted"] * CROWD, heard
    assert heard[CROWD][0] == "refused" and heard[CROWD][1].startswith("550 5.7.1"), "they are looked into to the end"
    assert not small.refused and len(small.seconds) > 5
    assert statistics.median(small.seconds) < 0.5, sorted(small.seconds)[-5:]
    assert max(small.seconds) < 3 + small.late, (sorted(small.seconds)[-5:], small.late)
    wanted = {f"large{number}@example.com" for number in range(CROWD)}
    wait_for(lambda: wanted <= set(behind.recipients()), 60, "all of them inside")
    for kept in (kept for kept in behind.messages if kept.recipients[0] in wanted):
        assert kept.content.endswith(large[0])
