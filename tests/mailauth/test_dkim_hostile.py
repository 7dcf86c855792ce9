"""Hostile messages (rows A2, D4): bounded work, and nobody else waits while it is done."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.mail.auth import DkimReport
from appliance.mailauth import arc, dkim
from appliance.mailauth.dkim_key import parse_key
from appliance.mailauth.dkim_message import Message
from appliance.mailauth.dkim_signature import read_signature
from tests.mailauth.signing import BODY, HEADER, MAIL, RULES, Letter, answers, record, run, seal, sign, signature


def cost(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def verified(octets: bytes) -> DkimReport:
    letter = Letter(octets)
    message = Message(letter)
    signatures, unread = dkim.read(message, 10)
    found = run(dkim.judge(letter, message, signatures, unread, answers(dkim.questions(signatures), None), RULES))
    run(arc.judge(letter, message, arc.read(message), {}, RULES))
    return found


FROM = HEADER + b"\r\n"
NAMES = ":".join(f"n{number}" for number in range(1100))


def crowd(count: int, field: bytes = b"X: y\r\n", **tags: Any) -> bytes:
    """A header of many fields and a signature that names many others."""
    return sign(HEADER + field * count + b"\r\n" + BODY, h="From:" + NAMES, **tags)


#: name -> message of a size n; at 8n it may cost about eight times as much.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "lines of blanks": lambda n: sign(FROM + (b" " * 40_000 + b"x\r\n") * n),
    "lines of tabs and blanks": lambda n: sign(FROM + (b"\t " * 500 + b"x\r\n") * 40 * n),
    "empty lines": lambda n: sign(FROM + b"\r\n" * 20_000 * n + b"x"),
    "CRs": lambda n: sign(FROM + b"\r" * 40_000 * n),
    "fields": lambda n: crowd(1000 * n),
    "fields of one name, named often": lambda n: sign(
        HEADER + b"X: y\r\n" * 1000 * n + b"\r\n", h="From:" + ":".join(["X"] * 3000)
    ),
    "signatures": lambda n: signature(MAIL) * 400 * n + MAIL,
    "a field of blanks": lambda n: sign(HEADER + b"X:" + b" \t" * 20_000 * n + b"z\r\n\r\n", h="From:X"),
    "a field of folds": lambda n: sign(HEADER + b"X:" + b"\r\n " * 10_000 * n + b"z\r\n\r\n", h="From:X"),
    "folds": lambda n: b"DKIM-Signature: v=1;" + b"\r\n " * 5_000 * n + b"\r\n" + MAIL,
    "blanks in a signature": lambda n: b"DKIM-Signature: b" + b" " * 40_000 * n + b"=\r\n" + MAIL,
    "results of ARC": lambda n: b"ARC-Authentication-Results: i" + b" " * 40_000 * n + b"\r\n" + MAIL,
    "sets of ARC": lambda n: b"ARC-Seal: i=1\r\nARC-Authentication-Results: i=1; x\r\n" * 200 * n + MAIL,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a2_hostile_mail_costs_linear_time(name: str) -> None:
    """Quadratic would be sixty-four times the cost."""
    small, large = HOSTILE[name](1), HOSTILE[name](8)
    assert bool(verified(small).signatures) is ("ARC" not in name)
    little = min(cost(lambda: verified(small)) for _ in range(3))
    assert min(cost(lambda: verified(large)) for _ in range(3)) < 20 * little + 0.03


def test_a2_signatures_that_are_large_as_they_may_be_cost_little() -> None:
    """8 KB each, ten of them, over 12,000 fields of which each names a thousand."""
    octets = crowd(11_900)
    field = octets[: octets.index(b"From: Alice")]
    assert len(field) < 8192
    assert cost(lambda: verified(field * 9 + octets)) < 0.6


@pytest.mark.parametrize("seed", range(4))
def test_a2_noise_never_raises(seed: int) -> None:
    rng = random.Random(seed)
    parts = [
        b";",
        b"=",
        b"b=",
        b"bh=",
        b"h=from",
        b"d=example.org",
        b"s=s",
        b"a=rsa-sha256",
        b"v=1",
        b" ",
        b"\r\n ",
        b"\0",
    ]
    parts += [b"i=1", b"cv=none", b"x=1", b"l=0", b"c=relaxed", b"\xff", b"YQ==", b":", b"@", b"p=", b"k=rsa", b"v=DKIM1"]
    for _ in range(3000):
        text = b"".join(rng.choices(parts, k=rng.randrange(30)))
        for kind in ("dkim", "ams", "seal"):
            read_signature(b"X:" + text, 0, kind)  # type: ignore[arg-type]
        parse_key(text.decode("latin-1"))
        for name in (b"DKIM-Signature:", b"ARC-Seal:", b"ARC-Authentication-Results:"):
            verified(name + text + b"\r\n" + MAIL)


class Large(Letter):
    """A body that repeats a piece."""

    def __init__(self, header: bytes, piece: bytes, times: int) -> None:
        super().__init__(header + b"\r\n")
        self.piece, self.times = (piece * (65536 // len(piece) + 1))[:65536], times
        self.size = len(self.header) + 65536 * times

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        yield self.header
        for _ in range(self.times):
            yield self.piece


PIECES = [
    b" ",
    b"\r\n",
    b" \r\n",
    b"\t",
    b"\r",
    b"\n",
    b"x",
    b" x",
    b"\t x",
    b"   x" * 9 + b"\t \r\n",
    b"a line of text.\r\n",
]


def longest_step(letter: Letter) -> tuple[DkimReport, float]:
    """What comes of DKIM and ARC, and the CPU time of the longest piece of work between two pauses: the best of three
    times, since a processor that is shared is slower."""
    times, reports = [], []
    for _ in range(3):
        steps = []
        began = time.thread_time()
        message = Message(letter)
        signatures, unread = dkim.read(message, 10)
        chain = arc.read(message)
        said = answers([*dkim.questions(signatures), *arc.questions(chain)], record(4096))
        steps.append(time.thread_time() - began)
        for work in (
            dkim.judge(letter, message, signatures, unread, said, RULES),
            arc.judge(letter, message, chain, said, RULES),
        ):
            while True:
                began = time.thread_time()
                try:
                    next(work)
                except StopIteration as end:
                    reports.append(end.value)
                    break
                finally:
                    steps.append(time.thread_time() - began)
        times.append(max(steps))
    return reports[0], min(times)


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_d4_a_large_body_is_read_in_short_steps(piece: bytes) -> None:
    """10 MB and all canonicalisations and algorithms at once: other work of the loop has its turn all the time."""
    header = b"".join(
        signature(MAIL, c=how, a=algorithm, l=length)
        for how in ("relaxed/relaxed", "simple/simple")
        for algorithm in ("rsa-sha256", "rsa-sha1")
        for length in (None, "1000", "9000000")
    )
    found, longest = longest_step(Large(seal(header + HEADER), piece, 160))
    assert len(found.signatures) == 10 and not any(one.counts for one in found.signatures)
    assert longest < 0.02


def test_d4_the_largest_header_is_read_in_short_steps() -> None:
    """Fields, signatures that name a thousand fields each, and a chain of fifty seals."""
    octets = crowd(11_500, bits=4096)
    top = octets[: octets.index(b"From: Alice")]
    for _ in range(50):
        octets = seal(octets, 4096)
    octets = top * 9 + octets
    assert len(octets) < 524288
    found, longest = longest_step(Letter(octets))
    assert [one.counts for one in found.signatures] == [True] * 10
    assert longest < 0.04
