"""A milter's edits behind a real Postfix and behind ours: the next milter hears the same, and the same is delivered."""

import re
import shutil
import smtplib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.interop.test_milters_gateway import policies
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.milter_server import MilterServer, Packet, header
from tests.peers.played import Played
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postfix"), reason="Debian package postfix is not installed (make packages)"),
]
#: Written by each MTA in its own way; a field of its own "Received" is told by its length.
OWN = (b"Message-Id", b"Date", b"Authentication-Results")


def new(position: int, name: str = "X-New") -> Packet:
    return header(b"i", name, "new", position)


def gone(*addresses: bytes) -> list[Packet]:
    return [(b"-", address + b"\0") for address in addresses]


#: What the first milter wants; the second one puts a field at the position `number % 4`.
CASES: dict[str, list[Packet]] = {
    **{f"the body {body!r}": [(b"b", body)] for body in (b"no end", b"a\nb", b"x\r\n", b"", b"\r\n\r\nx", b".\r\n.x")},
    "a body in pieces": [(b"b", b"a\r"), (b"b", b"\nb")],
    **{f"fields at {one} and {two}": [new(one), new(two, "X-Two")] for one in range(3) for two in range(4)},
    **{f"one at {at}, From gone": [new(at), header(b"m", "From", "", 1)] for at in range(4)},
    **{
        f"Received at {at}, the {which}. {value or 'gone'}": [new(at, "Received"), header(b"m", "Received", value, which)]
        for at in range(3)
        for which in (1, 2)
        for value in ("", "changed")
    },
    "as it was written": gone(b"<User@Example.COM>"),
    "both": gone(b"<user@example.com>", b"<User@Example.COM>"),
    "nobody": gone(b"<nobody@example.com>"),
    "put in and taken out": [(b"+", b"<more@example.com>\0"), *gone(b"<more@example.com>")],
    "two are put in, one is taken out": [
        *((b"+", address + b"\0") for address in (b"<more@example.com>", b"<even@example.com>")),
        *gone(b"<more@example.com>"),
    ],
}


class Heard(NamedTuple):
    """By the second milter."""

    fields: list[list[bytes]]
    body: bytes


def send(port: int, number: int, second: MilterServer) -> Heard:
    second.heard.clear()
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo("x.example.org")
        client.mail("s@example.org")
        for recipient in ("User@Example.COM", "user@example.com", "other@example.com"):
            assert client.rcpt(recipient)[0] == 250
        content = b"From: a@example.org\r\nX-Mine: old\r\nSubject: one\r\nX-N: %d\r\nX-Last: x\r\n\r\nhello\r\n" % number
        assert client.data(content)[0] == 250
    packets = [packet for connection in second.heard for packet in connection]
    fields = [data.split(b"\0")[:2] for letter, data in packets if letter == b"L"]
    body = b"".join(data for letter, data in packets if letter == b"B")
    return Heard([field for field in fields if field[0] not in OWN], body)


def delivered(inner: Inner, number: int) -> tuple[list[str], list[bytes], bytes]:
    """Recipients, fields (of the MTA's own Received only the name) and body of a case."""
    found = [one for one in list(inner.messages) if b"\r\nX-N: %d\r\n" % number in one.content]
    head, _, body = found[0].content.partition(b"\r\n\r\n") if found else (b"", b"", b"")
    fields = re.findall(rb"^([!-9;-~]+):(.*?)\r?$", head, re.M)
    lines = [name + (b": " + value if len(value) < 20 else b"") for name, value in fields if name not in OWN]
    whom = [address.partition("@")[0] for one in found for address in one.recipients]
    return sorted(whom), lines, body


@pytest.fixture
def theirs() -> Iterator[Inner]:
    made = Inner().start()
    yield made
    made.stop()


def test_edits_do_what_they_do_in_postfix(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], played: Played, inner: Inner, theirs: Inner
) -> None:
    first, second = played.milter(), played.milter()
    listed = (f'name = "m{at}", address = "{one.address}"' for at, one in enumerate((first, second)))
    ours = gateway(policies=policies(*listed))
    real = make_postfix(
        relay=f"[127.0.0.1]:{theirs.port}",
        relay_domains="example.com",
        smtpd_milters=f"{first.address}, {second.address}",
    )
    for number, (name, said) in enumerate(CASES.items()):
        first.says = {b"E": [*said, (b"c", b"")]}
        second.says = {b"E": [new(number % 4, "Y-Second"), (b"c", b"")]}
        assert send(ours.port, number, second) == send(real.port, number, second), name
    numbers = range(len(CASES))
    wait_for(lambda: all(delivered(one, n)[0] for one in (inner, theirs) for n in numbers), 30, "the mail")
    wrong = {
        name: pair
        for number, name in enumerate(CASES)
        if (pair := (delivered(inner, number), delivered(theirs, number)))[0] != pair[1]
    }
    assert not wrong
