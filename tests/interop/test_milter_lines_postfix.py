"""A milter that wants its refusal to have several lines: clients hear the lines that a real Postfix sends them."""

import re
import shutil
import smtplib
from collections.abc import Callable

import pytest

from tests.interop.test_milters_gateway import policies
from tests.peers.gateway import Gateway
from tests.peers.milter_server import MilterServer
from tests.peers.played import Played
from tests.peers.postfix import Postfix

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postfix"), reason="Debian package postfix is not installed (make packages)"),
]
TEXTS = {
    "two": b"550-5.7.1 first line\r\n550 5.7.1 second line",
    "blanks": b"451-4.7.1 one\r\n451-4.7.1 two  words\r\n451 4.7.1 three",
    "long": b"550-5.7.1 " + b"word " * 60 + b"\r\n550 5.7.1 " + b"more " * 60,
    "one": b"550 5.7.1 only",
}


def heard(port: int) -> list[str]:
    """The lines of the answer to RCPT, without our id, blanks as one."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo("x.example.org")
        client.mail("s@example.org")
        client.putcmd("RCPT TO:<user@example.com>")
        assert client.file is not None
        lines = [client.file.readline().decode().rstrip("\r\n")]
        while lines[-1][3] == "-":
            lines.append(client.file.readline().decode().rstrip("\r\n"))
        assert all(len(line) <= 510 for line in lines)
        return [" ".join(re.sub(r" \[\w+\]$", "", line).split()) for line in lines]


def test_lines_are_those_of_postfix(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], played: Played
) -> None:
    milter: MilterServer = played.milter()
    ours = gateway(policies=policies(f'name = "m", address = "{milter.address}"'))
    theirs = make_postfix(relay="[127.0.0.1]:9", smtpd_milters=milter.address)
    for name, text in TEXTS.items():
        milter.says = {b"R": [(b"y", text + b"\0")]}
        lines = heard(ours.port)
        assert lines == heard(theirs.port), name
        assert len(lines) == text.count(b"\r\n") + 1
    ours.wait_log("first line second line [")
    log = ours.log()
    assert "first line second line [" in log and "\\x0a" not in log and "\\x1e" not in log
