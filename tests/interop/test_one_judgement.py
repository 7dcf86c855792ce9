"""One judgement: the same sixty messages through the SMTP server, through Postfix and milterd, through Postfix and
policyd. Decisions and header fields are the same over the stages that each front sees (issue 4)."""

import re
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.interop.one_judgement import (
    BARRED,
    CONTENT,
    ENVELOPE,
    GOOD,
    NAMES,
    ODD,
    POLICIES,
    UNTOLD,
    ZONE,
    Case,
    mail,
)
from tests.peers import postfix
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner, Kept
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix

pytestmark = [pytest.mark.peer, pytest.mark.skipif(not postfix.available(), reason="Debian package postfix is missing")]
_ID = re.compile(r" \[[0-9A-Za-z]+\]$")
#: Mail of an author whose domain says nothing about it: the envelope alone decides.
PLAIN = mail(sender="a@loose.example")
#: Fields that each MTA writes by itself.
_OF_MTAS = ("received",)


class Heard(NamedTuple):
    """What a client was told: refused recipients (code, status, words), the answer to the content (None: never asked)."""

    recipients: tuple[str, ...]
    content: str | None


#: The id of what was taken last, by port.
TAKEN: dict[int, str] = {}


class Route(NamedTuple):
    """One way in, the inner server behind it, and whether a message with this id is where it will be for good."""

    port: int
    inner: Inner
    settled: Callable[[str], bool]


class World(NamedTuple):
    gateway: Gateway
    smtpd: Route
    milterd: Route
    policyd: Route


def made_postfix(root: Path, inner: Inner, **main: str) -> Postfix:
    """One that leaves everything to us."""
    open_to_all = {
        "mynetworks": "0.0.0.0/0",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "smtpd_authorized_xclient_hosts": "127.0.0.0/8",
        "local_header_rewrite_clients": "",
        "allow_percent_hack": "no",
        "hopcount_limit": "100",
        "smtpd_client_connection_count_limit": "0",
        "smtpd_hard_error_limit": "1000",
    }
    relay = f"[127.0.0.1]:{inner.port}"
    return Postfix(root, hostname="mail.example.com", relay=relay, **open_to_all, **main).start()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("one")
    inners = [Inner().start() for _ in range(3)]
    milter, policy = free_port(), free_port()
    more = f'[[milterd]]\naddress = "inet:127.0.0.1:{milter}"\n[[policyd]]\naddress = "inet:127.0.0.1:{policy}"\n'
    gateway = Gateway(root / "gateway", inners[0].port, more=more, policies=POLICIES, zone=ZONE)
    text = gateway.config.read_text().replace('name = "public"\n', 'name = "public"\nxclient = ["127.0.0.0/8"]\n')
    gateway.config.write_text(text)
    gateway.start()
    first = made_postfix(root / "first", inners[1], smtpd_milters=f"inet:127.0.0.1:{milter}")
    asks = f"check_policy_service inet:127.0.0.1:{policy}"
    restricted = f"{asks}, permit_mynetworks, reject"
    # Postfix takes one action for each request: what else there is to say it hears when it asks again.
    again = ", ".join([asks] * 6)
    second = made_postfix(
        root / "second", inners[2], smtpd_recipient_restrictions=restricted, smtpd_data_restrictions=again
    )
    ways = (
        (gateway.port, lambda one: _ended(gateway.log(), one)),
        (first.port, lambda _one: first.at_rest()),
        (second.port, lambda _one: second.at_rest()),
    )
    yield World(gateway, *(Route(port, inner, settled) for (port, settled), inner in zip(ways, inners, strict=True)))
    for one in (first, second):
        one.stop()
    gateway.stop()
    for inner in inners:
        inner.stop()


def _ended(log: str, queue_id: str) -> bool:
    """Delivered, thrown away or kept."""
    return any(f"{queue_id}: {what}" in log for what in ("removed", "discard: ", "to hold: ", "to quarantine: "))


def name_of(case: Case) -> str:
    return case.name


def told(code: int, text: bytes) -> str:
    """An answer without the id, and without what Postfix puts before a policy server's words."""
    words = " ".join(text.decode().split())
    words = re.sub(r"<[^>]*>: (Recipient|Sender|Client host|Helo command)[^:]* rejected: ", "", words)
    words = re.sub(r"(Recipient|Sender) address rejected: ", "", words)
    words = words.replace(
        "5.1.3 Bad sender", "5.1.7 Bad sender"
    )  # Postfix: a detail of the recipient, as it is refused there
    return f"{code} {_ID.sub('', words)}"


def bring(port: int, case: Case, named: bool = False) -> Heard:
    """The whole dialogue. `named`: the MTA has found out the client's name, too (policyd has no DNS of its own for that;
    the other fronts ask themselves). A refusal of an earlier command
    counts as one of each recipient."""
    content = case.content or PLAIN
    with smtplib.SMTP("127.0.0.1", port, case.helo) as client:
        client.command_encoding = "utf-8"
        client.docmd("EHLO", case.helo)
        client.docmd("XCLIENT", f"ADDR={case.client} {NAMES[case.client] if named else ''}".rstrip())
        client.docmd("EHLO", case.helo)
        code, text = client.docmd("MAIL", f"FROM:<{case.sender}>{' SMTPUTF8' if case.smtputf8 else ''}")
        if code != 250:
            return Heard((told(code, text),) * len(case.recipients), None)
        refused = []
        for recipient in case.recipients:
            code, text = client.docmd("RCPT", f"TO:<{recipient}>")
            refused += [told(code, text)] if code != 250 else []
        if len(refused) == len(case.recipients):
            return Heard(tuple(refused), None)
        try:
            code, text = client.data(content)
        except smtplib.SMTPDataError as error:
            return Heard(tuple(refused), told(error.smtp_code, bytes(error.smtp_error)))
        if code == 250:
            TAKEN[port] = text.decode().split()[-1]
        return Heard(tuple(refused), "250" if code == 250 else told(code, text))


def arrived(route: Route, case: Case, before: int, heard: Heard) -> list[Kept]:
    """What came through with this message."""
    if heard.content == "250":
        wait_for(lambda: route.settled(TAKEN[route.port]), 30, f"the end of {case.name}")
    return route.inner.messages[before:]


def fields(content: bytes) -> list[str]:
    """The header, unfolded, without what MTAs write of themselves. (A given Received of a test stays out, too.)"""
    text = re.sub(r"\r\n[ \t]+", " ", content.partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape"))
    return [line for line in text.split("\r\n") if line.partition(":")[0].lower() not in _OF_MTAS]


def written(address: str) -> str:
    """One spelling for all: whether the domain is in capitals or A-labels, or a recipient stands there twice, is the
    MTA's affair; so is the domain that it puts behind a bare postmaster."""
    local, _, domain = address.lower().rpartition("@")
    return local if local == "postmaster" else f"{local}@{domain.encode('idna').decode()}"


def seen(kept: list[Kept]) -> list[tuple[str, str, tuple[str, ...], bytes]]:
    """Messages as they can be compared, one a recipient: one MTA sends one copy for all, another one each."""
    return sorted(
        {
            (written(one.sender), written(to), tuple(fields(one.content)), one.content.partition(b"\r\n\r\n")[2])
            for one in kept
            for to in one.recipients
        }
    )


def marks(kept: Kept) -> list[str]:
    """What we have to say of a message, as far as it was known at RCPT."""
    said = [line for line in fields(kept.content) if line.startswith(("X-Postgate-Mark", "X-Noted", "Received-SPF"))]
    said = [line for line in said if not line.startswith("X-Postgate-Mark: own_domain=")]  # of the author
    results = "".join(line for line in fields(kept.content) if line.startswith("Authentication-Results: mx.example.com;"))
    return said + [part.strip() for part in results.split(";") if part.strip().startswith("spf=")]


def both(world: World, route: Route, case: Case) -> tuple[list[Kept], list[Kept], Heard, Heard]:
    before = len(world.smtpd.inner.messages), len(route.inner.messages)
    ours, theirs = bring(world.smtpd.port, case), bring(route.port, case, named=route is world.policyd)
    return arrived(world.smtpd, case, before[0], ours), arrived(route, case, before[1], theirs), ours, theirs


def test_there_are_sixty_and_odd_addresses() -> None:
    assert len(CONTENT) == len(ENVELOPE) == 30 and len(ODD) > 40
    assert len({case.name for case in CONTENT + ENVELOPE + ODD}) == 60 + len(ODD)


@pytest.mark.parametrize("case", CONTENT + ENVELOPE + ODD, ids=name_of)
def test_postfix_with_milterd(world: World, case: Case) -> None:
    """Everything: each refusal with its words, each field, each body."""
    ours, theirs, heard, heard_there = both(world, world.milterd, case)
    assert heard_there == heard
    assert seen(theirs) == seen(ours)


@pytest.mark.parametrize("case", [case for case in CONTENT + ENVELOPE + ODD if case.name not in UNTOLD], ids=name_of)
def test_postfix_with_policyd(world: World, case: Case) -> None:
    """The stages up to RCPT: each refusal; what was found there stands in the header. Content is not its affair."""
    ours, theirs, heard, heard_there = both(world, world.policyd, case)
    assert heard_there.recipients == heard.recipients
    if case not in CONTENT:
        assert bool(theirs) == bool(ours)
        found, found_there = ({mark for one in kept for mark in marks(one)} for kept in (ours, theirs))
        assert found_there == found
    else:
        assert heard_there.content == "250" and theirs


@pytest.mark.parametrize("name", UNTOLD)
def test_what_the_policy_protocol_cannot_tell(world: World, name: str) -> None:
    """Postfix asks about an address as it is inside: such mail passes for what it would have been, written rightly."""
    [case] = [case for case in ODD if case.name == name]
    _, _, ours, theirs = both(world, world.policyd, case)
    assert ours.recipients and theirs == Heard((), "250")


@pytest.mark.parametrize("client", [GOOD, BARRED])
def test_a_recipient_of_whom_postfix_asks_nobody(world: World, client: str) -> None:
    """A bare postmaster passes the restrictions for recipients unasked: who brings it is judged at DATA."""
    case = Case("to postmaster", client=client, recipients=("postmaster",))
    _, _, ours, theirs = both(world, world.policyd, case)
    said = (theirs.content or "").replace("<DATA>: Data command rejected: ", "")
    assert not theirs.recipients and [said] == [*ours.recipients, ours.content][:1]
    assert client == GOOD or said.startswith("554 5.7.1 ")


def test_there_is_something_to_judge(world: World) -> None:
    """The sixty are not all taken, nor all refused for one reason."""
    said = []
    for case in CONTENT + ENVELOPE:
        said.append(bring(world.smtpd.port, case))
        arrived(world.smtpd, case, 0, said[-1])  # what is late would be another test's
    answers = {answer for heard in said for answer in (*heard.recipients, heard.content)}
    assert len(answers) >= 15
    assert 25 <= sum(heard == Heard((), "250") for heard in said) <= 45
