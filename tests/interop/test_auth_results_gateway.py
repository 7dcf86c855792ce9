"""What the running gateway writes into Authentication-Results about messages of the little Internet whose truth is known:
one of every class that real servers send, from the client that sent it (XCLIENT)."""

import re
from collections.abc import Iterator

import pytest

from tests.peers import nsd
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.mailworld import zone
from tests.peers.mailworld.case import Case
from tests.peers.mailworld.corpus import cases
from tests.peers.nsd import Nsd
from tests.peers.policies import RECIPIENTS
from tests.peers.ports import free_port
from tests.running.talking import sent, trusted_door

pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not nsd.available(), reason="needs nsd, and root (make packages)"),
]
#: The plan with what is asked here, and every failure let in with its mark.
STAGES = """\
[inbound]
connect = ["access"]
helo = []
mail = ["size", "identity", "spf"]
rcpt = ["relay", "recipient"]
data = []
message = ["size", "loop", "dkim", "arc", "dmarc", "identity"]
"""
DMARC = '[on]\nreject = "mark"\nambiguous = "mark"\ntemperror = "mark"\n'


def chosen() -> list[Case]:
    """The first of each class, and every twelfth of all."""
    first = {case.kind: case for case in reversed(cases())}
    found = {case.name: case for case in (*first.values(), *cases()[::12])}
    return [case for case in found.values() if ":" not in case.address]


@pytest.fixture
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsd]:
    server = Nsd(tmp_path_factory.mktemp("names"), zone.records(), zone.BROKEN).start()
    yield server
    server.stop()


@pytest.fixture
def door(names: Nsd, inner: Inner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    policies = {"recipient.toml": RECIPIENTS, "recipients": "@example.com known\n", "dmarc.toml": DMARC}
    policies["stages.toml"] = STAGES
    root = tmp_path_factory.mktemp("gateway")
    nameserver = f"{names.address}:53"
    made = Gateway(
        root, inner.port, workers=1, more=trusted_door(port), policies=policies, zone="", nameserver=nameserver
    )
    try:
        made.start()
        yield port
    finally:
        made.stop()


def written(content: bytes) -> dict[str, list[str]]:
    """method -> result words, of the topmost Authentication-Results."""
    found = re.match(
        rb"(?:(?!Authentication-Results:).*\r\n)*?Authentication-Results: mx\.example\.com;(.*\r\n(?:[ \t].*\r\n)*)",
        content,
    )
    assert found, content[:2000]
    words: dict[str, list[str]] = {}
    for clause in found[1].decode().split(";"):
        method, _, rest = clause.strip().partition("=")
        words.setdefault(method, []).append(rest.split()[0])
    return words


def test_the_gateway_writes_what_is_true(door: int, inner: Inner) -> None:
    played = chosen()
    assert len(played) >= 100
    for number, case in enumerate(played):
        reply = sent(
            door, f"case{number}@example.com", sender=case.sender, body=case.content, address=case.address, helo=case.helo
        )
        assert reply.startswith("250 "), (case.name, reply)
    arrived = {kept.recipients[0]: kept.content for kept in inner.wait(len(played), 30)}
    for number, case in enumerate(played):
        words = written(arrived[f"case{number}@example.com"])
        assert words["spf"] == [case.spf], (case.name, words)
        assert words["dkim"] == list(case.dkim or ("none",)), (case.name, words)
        assert words["dmarc"] == ["fail" if case.dmarc[0] == "ambiguous" else case.dmarc[0]], (case.name, words)
