"""DNS does every bad thing there is: no mail is refused for it, nobody waits without end, and what could not be looked up
is marked as such. One gateway with the shipped plan, one name server that turns bad and well again."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.hostile import Canary, none_late
from tests.mailauth import signing
from tests.net.nameserver import Script
from tests.peers import dns
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner, Kept
from tests.peers.policies import RECIPIENTS
from tests.peers.ports import free_port, wait_for
from tests.running.talking import Talk, trusted_door

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
#: [dns] timeout: what one question may take. For one message some wait one after the other (SPF, the lists, the keys,
#: DMARC): a session has its end after so many of them at most.
TIMEOUT, QUESTIONS = 1.0, 8
#: Of these nobody may say that there is no record, or that anything failed.
CHECKS = ("spf", "dkim", "dmarc", "dnsbl")
LIST = 'client = ["bl.example=127.0.0.[2..11]"]\nsender = ["dbl.example"]\n'
MARKED = '[[exception]]\nmatch = { recipient = "marked@example.com" }\nset = { temperror = "mark" }\nreason = "test"\n'

OTHERS = itertools.count(1)
#: name -> (what the server does, seconds by which it holds answers back)
TROUBLE: dict[str, tuple[Script | None, float]] = {
    "timeout": (dns.silence, 0.0),
    "servfail": (dns.rcode(2), 0.0),
    "refused": (dns.rcode(5), 0.0),
    "formerr": (dns.rcode(1), 0.0),
    "garbage": (dns.garbage, 0.0),
    "truncation without end": (dns.truncated, 0.0),
    "truncation and no TCP": (dns.cut_over_tcp, 0.0),
    "64 KB of names": (dns.monster, 0.0),
    "too slow": (None, 3.0),
    "all servers gone": (None, -1.0),
}


class World(NamedTuple):
    gateway: Gateway
    server: dns.Dns
    inner: Inner
    door: int


def zone(count: int) -> dict[str, tuple[str, ...]]:
    """A name server's records: senders of their own for each trouble, so that no cache helps, two well lists."""
    found: dict[str, tuple[str, ...]] = {
        "2.0.0.127.bl.example A": ("127.0.0.2",),
        "test.dbl.example A": ("127.0.1.2",),
    }
    for number in range(count):
        name, address = f"d{number}.example", f"192.0.2.{number + 1}"
        found |= {
            f"{number + 1}.2.0.192.in-addr.arpa PTR": (f"mail.{name}.",),
            f"mail.{name} A": (address,),
            f"{name} TXT": (f'"v=spf1 ip4:{address} -all"',),
            f"{name} A": (address,),
            f"{name} MX": (f"10 mail.{name}.",),
            f"_dmarc.{name} TXT": ('"v=DMARC1; p=reject"',),
            f"s._domainkey.{name} TXT": (" ".join(f'"{p}"' for p in re.findall(".{1,200}", signing.record())),),
        }
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root: Path = tmp_path_factory.mktemp("dns")
    server, inner, door = dns.Dns(zone(3 * len(TROUBLE))).start(), Inner().start(), free_port()
    policies = {
        "recipient.toml": RECIPIENTS,
        "recipients": "@example.com known\n",
        "greylist.toml": 'mode = "off"\n',
        "dnsbl.toml": LIST,
        "dmarc.toml": MARKED,
    }
    made = Gateway(root, inner.port, workers=1, more=trusted_door(door), policies=policies, zone="")
    wiring = made.config.read_text().replace('zone = "zone"\n', f'timeout = "{TIMEOUT:.0f}s"\n')
    made.config.write_text(wiring.replace("127.0.0.1:9", server.address))
    try:
        yield World(made.start(), server, inner, door)
    finally:
        made.stop()
        inner.stop()
        server.stop()


def letter(number: int) -> bytes:
    """Signed mail of the sender of that number."""
    name = f"d{number}.example"
    mail = b"From: <a@%b>\r\nTo: <u@example.com>\r\nSubject: n%d\r\n" % (name.encode(), number)
    mail += b"Date: Mon, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <%d@%b>\r\n\r\nHello.\r\n" % (number, name.encode())
    return signing.sign(mail, d=name)


def send(world: World, number: int, recipient: str) -> tuple[str, float]:
    """The last reply to mail of that sender from its own address, and how long the session took."""
    begun = time.monotonic()
    talk = Talk(world.door, address=f"192.0.2.{number + 1}", helo=f"mail.d{number}.example")
    reply = talk.send(recipient, sender=f"a@d{number}.example", body=letter(number))
    talk.close()
    return reply, time.monotonic() - begun


def delivered(world: World, number: int) -> Kept:
    def found() -> list[Kept]:
        return [kept for kept in world.inner.messages if f"Subject: n{number}\r\n".encode() in kept.content]

    wait_for(found, 20, f"mail {number}")
    return found()[0]


def results(kept: Kept) -> dict[str, set[str]]:
    """Our Authentication-Results by method."""
    head = re.sub(rb"\r\n[ \t]+", b" ", kept.content.partition(b"\r\n\r\n")[0]).decode()
    fields = re.findall(r"(?im)^Authentication-Results: mx\.example\.com;(.*)$", head)
    assert len(fields) <= 1
    found: dict[str, set[str]] = {}
    for method, result in re.findall(r"(?:^|;)\s*([a-z.]+)=([a-z]+)", ";".join(fields)):
        found.setdefault(method, set()).add(result)
    return found


def marks(kept: Kept) -> dict[str, str]:
    found = re.findall(rb"(?im)^X-Postgate-Mark: ([a-z_]+)=([a-z_]+)", kept.content.partition(b"\r\n\r\n")[0])
    return {check.decode(): outcome.decode() for check, outcome in found}


@pytest.fixture
def trouble(world: World) -> Iterator[Callable[[str], None]]:
    """Makes DNS bad; it is well again at the end."""

    def begin(name: str) -> None:
        script, seconds = TROUBLE[name]
        if seconds < 0:
            world.server.gone()
        world.server.trouble = script
        world.server.delay(max(0.0, seconds))

    yield begin
    world.server.trouble = None
    world.server.delay(0.0)
    if not world.server.open:
        world.server.back()
    # Lists that fail for mail several times in a row are given up: this one is answered.
    talk = Talk(world.door, address=f"198.51.100.{next(OTHERS)}")
    assert talk.envelope("user@example.com", "someone@example.net").startswith("250 ")
    talk.close()
    assert not [why for why in world.gateway.status()["degraded"] if "DNS list" in why]


@pytest.fixture
def patient(world: World) -> Iterator[None]:
    """Whoever answers is waited for here, however busy the machine is."""
    config = world.gateway.config
    hurried = config.read_text()
    config.write_text(hurried.replace(f'timeout = "{TIMEOUT:.0f}s"', 'timeout = "10s"'))
    world.gateway.cli("reload")
    yield
    config.write_text(hurried)
    world.gateway.cli("reload")


@pytest.mark.usefixtures("patient")
def test_while_dns_is_well_everything_passes(world: World) -> None:
    number = 3 * len(TROUBLE) - 1
    reply, _ = send(world, number, "user@example.com")
    assert reply.startswith("250 "), reply
    kept = delivered(world, number)
    assert marks(kept).keys().isdisjoint(CHECKS), marks(kept)
    found = results(kept)
    assert all(found.get(method) == {"pass"} for method in ("spf", "dkim", "dmarc")), found


@pytest.mark.parametrize("name", TROUBLE)
def test_d4_no_trouble_of_dns_refuses_mail_or_looks_like_an_answer(
    name: str, world: World, trouble: Callable[[str], None]
) -> None:
    """As shipped, mail whose author cannot be checked is put off; where the policy says mark, it comes with the marks."""
    number = 2 * list(TROUBLE).index(name)
    began = time.monotonic()
    with Canary() as canary:
        trouble(name)
        with ThreadPoolExecutor(2) as pool:
            marked = pool.submit(send, world, number, "marked@example.com")
            shipped = pool.submit(send, world, number + 1, "user@example.com")
        for sent, code in ((marked, "250 "), (shipped, "451 4.")):
            reply, seconds = sent.result()
            assert reply.startswith(code), reply
            assert seconds < QUESTIONS * TIMEOUT + 2
        kept = delivered(world, number)
        found = marks(kept)
        assert {check: found.get(check) for check in CHECKS} == dict.fromkeys(CHECKS, "temperror"), found
        assert all(words == {"temperror"} for method, words in results(kept).items() if method in CHECKS)
    none_late(world.gateway, began, canary.worst)


def test_d4_strangers_who_wait_for_dns_hold_nobody_up(world: World, trouble: Callable[[str], None]) -> None:
    """Forty sessions whose names nobody answers for take as long as one."""
    trouble("timeout")
    with ThreadPoolExecutor(40) as pool:
        begun = time.monotonic()
        replies = list(pool.map(lambda number: send(world, number, "user@example.com")[0], range(100, 140)))
    assert time.monotonic() - begun < QUESTIONS * TIMEOUT + 4
    assert [reply[:5] for reply in replies] == ["451 4"] * 40


@pytest.mark.usefixtures("patient")
def test_slow_is_slow_and_right(world: World) -> None:
    """Answers that come late but in time are answers."""
    number = 3 * len(TROUBLE) - 2
    world.server.delay(0.3)
    try:
        reply, seconds = send(world, number, "user@example.com")
    finally:
        world.server.delay(0.0)
    assert reply.startswith("250 ") and seconds > 0.5
    kept = delivered(world, number)
    assert marks(kept).keys().isdisjoint(CHECKS), marks(kept)
