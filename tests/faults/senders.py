"""Senders that keep book: what got 250, what was refused, what ended unknown; and the reckoning at the end."""

import hashlib
import random
import re
import socket
import threading
from collections import Counter
from typing import NamedTuple

from tests.peers.inner import Kept

#: A message without these gets them from every Postfix on its way.
STAMP = b"From: sender@example.org\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n"


class Outcome(NamedTuple):
    """`kind`: accepted (250 after the dot), refused (4xx or 5xx after the dot), unknown (the dot was sent, no answer
    came), unsent (it never came to the dot)."""

    number: int
    kind: str
    digest: str
    reply: str = ""


def message(number: int, size: int) -> bytes:
    """A message like no other: its number, random text with lines that begin with dots, 8-bit octets."""
    rng = random.Random(number)
    lines = [b"." * rng.randrange(3) + rng.randbytes(rng.randrange(1, 60)).hex().encode() for _ in range(size // 60)]
    body = b"\r\n".join([*lines, b"caf\xc3\xa9", b".", b"end"])
    header = b"Subject: test\r\nX-Number: %d\r\nMessage-ID: <%d@example.org>\r\n" % (number, number)
    return header + STAMP + b"\r\n" + body + b"\r\n"


def digest(content: bytes) -> str:
    """Of what must arrive untouched: everything from our own Subject field on (what is above it was added)."""
    start = content.find(b"Subject: test\r\n")
    return hashlib.sha256(content[start:]).hexdigest()


def talk(
    port: int, content: bytes, recipient: str, sender: str = "sender@example.org", seconds: float = 30
) -> tuple[str, str]:
    """(kind, last reply) of one message over one connection."""
    sent_dot = False
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
            stream = sock.makefile("rb")

            def answer(expected: bytes) -> bytes:
                while (line := stream.readline()) and line[3:4] == b"-":
                    pass
                if not line:
                    raise ConnectionError("closed")
                if not line.startswith(expected):
                    raise ValueError(line.decode(errors="replace").strip())
                return line

            answer(b"220")
            for command in ("EHLO sender.example.org", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>"):
                sock.sendall(command.encode() + b"\r\n")
                answer(b"250")
            sock.sendall(b"DATA\r\n")
            answer(b"354")
            sock.sendall(re.sub(rb"(?m)^\.", b"..", content))
            sent_dot = True
            sock.sendall(b".\r\n")
            reply = answer(b"250").decode().strip()
            sock.sendall(b"QUIT\r\n")
            return "accepted", reply
    except ValueError as refused:
        return ("refused" if sent_dot else "unsent"), str(refused)
    except OSError as lost:
        return ("unknown" if sent_dot else "unsent"), str(lost)


class Senders:
    """`threads` senders that send until `stop()` or until `limit` messages are accepted."""

    def __init__(self, port: int, threads: int = 4, sizes: tuple[int, ...] = (500, 2000, 2000, 10_000, 100_000)) -> None:
        self.port, self.sizes = port, sizes
        self.outcomes: list[Outcome] = []
        self._lock = threading.Lock()
        self._next = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def start(self) -> "Senders":
        for thread in self._threads:
            thread.start()
        return self

    def _run(self) -> None:
        while not self._over.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            content = message(number, self.sizes[number % len(self.sizes)])
            kind, reply = talk(self.port, content, f"user{number % 7}@example.com")
            with self._lock:
                self.outcomes.append(Outcome(number, kind, digest(content), reply))
            if kind != "accepted":
                self._over.wait(0.02)

    @property
    def accepted(self) -> int:
        with self._lock:
            return sum(outcome.kind == "accepted" for outcome in self.outcomes)

    def stop(self) -> list[Outcome]:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        return self.outcomes


class Reckoning(NamedTuple):
    """What came of it. `lost`, `changed` and `ghosts` (refused, yet delivered) must be empty."""

    kinds: Counter[str]
    lost: list[int]
    changed: list[int]
    ghosts: list[int]
    duplicates: int

    def text(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{kinds}; lost {len(self.lost)}, changed {len(self.changed)}, "
            f"refused yet delivered {len(self.ghosts)}, delivered more than once {self.duplicates}"
        )


def reckon(outcomes: list[Outcome], messages: list[Kept]) -> Reckoning:
    arrived: dict[int, list[str]] = {}
    for kept in messages:
        found = re.search(rb"^X-Number: (\d+)\r\n", kept.content, re.MULTILINE)
        assert found, kept.content[:300]
        arrived.setdefault(int(found[1]), []).append(digest(kept.content))
    lost = [o.number for o in outcomes if o.kind == "accepted" and o.number not in arrived]
    changed = [o.number for o in outcomes if any(d != o.digest for d in arrived.get(o.number, []))]
    ghosts = [o.number for o in outcomes if o.kind in ("refused", "unsent") and o.number in arrived]
    duplicates = sum(len(copies) - 1 for copies in arrived.values())
    return Reckoning(Counter(o.kind for o in outcomes), lost, changed, ghosts, duplicates)
