"""DNS lists over a running gateway: what they say of clients, senders and links, and what the peer is told of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner, Kept
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import asked, sent, trusted_door

TO = "bob@example.com"
BLAND = "554 5.7.1 Service unavailable: your host, name or message is on a block list ["
#: Zones of lists, complete each by its SOA record: whom they do not name they do not list.
ZONE = """\
$ORIGIN .
$TTL 300
bl.example SOA ns. host. 1 2 3 4 5
2.0.0.127.bl.example A 127.0.0.2
66.2.0.192.bl.example A 127.0.0.4
66.2.0.192.bl.example TXT "robot, see https://bl.example/"
67.2.0.192.bl.example A 127.255.255.254
wl.example SOA ns. host. 1 2 3 4 5
2.0.0.127.wl.example A 127.0.0.2
68.2.0.192.wl.example A 127.0.5.2
68.2.0.192.bl.example A 127.0.0.4
dbl.example SOA ns. host. 1 2 3 4 5
test.dbl.example A 127.0.1.2
bad.example.dbl.example A 127.0.1.2
weak.example.dbl.example A 127.0.1.128
dead.example SOA ns. host. 1 2 3 4 5
*.dead.example A 127.0.0.2
"""
LISTS = """\
client = ["bl.example=127.0.0.[2..11]*2", "wl.example=127.0.[0..255].[1..3]*-3", "dead.example*9"]
sender = ["dbl.example=127.0.1.[2..99]*2"]
links = ["dbl.example=127.0.1.[2..99]*2", "dbl.example=127.0.1.&128*1"]
threshold = 2
"""
REJECT = '[on]\nlisted = "reject"\n'
#: A link in HTML that is written so that only who decodes the part sees it.
HTML = (
    b"From: <a@good.example>\r\nSubject: %b\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n"
    b'Content-Transfer-Encoding: quoted-printable\r\n\r\n<p><a href=3D"https://www.%b/x">here</a></p>\r\n'
)


def start(gateway: Callable[..., Gateway], on: str = "") -> tuple[Gateway, int]:
    door = free_port()
    policies = plain(rcpt='["relay", "recipient", "dnsbl"]', message='["size", "loop", "dnsbl"]', dnsbl=LISTS + on)
    made = gateway(policies=policies, more=trusted_door(door), workers=1, zone=ZONE)
    made.wait_log("a DNS list is dead and not asked any more: list=dead.example why=it lists everything")
    wait_for(lambda: "not yet" not in json.dumps(made.status()["dependencies"]), 20, "all lists to be tested")
    return made, door


def mark_of(inner: Inner, subject: str) -> str:
    def found() -> list[Kept]:
        return [kept for kept in inner.messages if f"Subject: {subject}\r\n".encode() in kept.content]

    wait_for(found, 20, subject)
    marks = re.findall(rb"(?m)^X-Postgate-Mark: dnsbl=([a-z]+)", found()[0].content)
    return b",".join(marks).decode()


def test_listed_clients_senders_and_links_are_refused_in_words_that_tell_nothing(gateway: Callable[..., Gateway]) -> None:
    made, door = start(gateway, REJECT)
    listed = {
        "client": asked(door, TO, address="192.0.2.66"),
        "sender": asked(door, TO, sender="x@news.bad.example", address="192.0.2.1"),
        "link": sent(door, TO, body=HTML % (b"link", b"bad.example"), address="192.0.2.1"),
    }
    assert {name: reply[: reply.index("[") + 1] for name, reply in listed.items()} == dict.fromkeys(listed, BLAND)
    fine = {
        "nobody": asked(door, TO, address="192.0.2.1"),
        "error code": asked(door, TO, address="192.0.2.67"),
        "allow list": asked(door, TO, address="192.0.2.68"),
        "loopback": asked(door, TO, address="127.0.0.66"),
        "clean link": sent(door, TO, body=HTML % (b"clean", b"good.example"), address="192.0.2.1"),
        "weak link": sent(door, TO, body=HTML % (b"weak", b"weak.example"), address="192.0.2.1"),
    }
    assert all(reply.startswith("250 ") for reply in fine.values()), fine
    made.wait_log("192.0.2.66 on bl.example (127.0.0.4, weight 2: robot, see https://bl.example/); sum 2 of 2")


def test_as_shipped_a_listing_is_a_mark(gateway: Callable[..., Gateway], inner: Inner) -> None:
    _, door = start(gateway)
    clients = {"listed": "192.0.2.66", "error": "192.0.2.67", "allowed": "192.0.2.68", "clean": "192.0.2.1"}
    for subject, address in clients.items():
        body = HTML % (subject.encode(), b"good.example")
        assert sent(door, TO, body=body, address=address).startswith("250 ")
    assert {subject: mark_of(inner, subject) for subject in clients} == {
        "listed": "listed",
        "error": "temperror",
        "allowed": "",
        "clean": "",
    }


def test_status_names_the_dead_list_until_a_reload_without_it(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    made, _ = start(gateway)
    status = made.status()
    assert "DNS list dead.example is not asked: it lists everything" in status["degraded"]
    assert status["dependencies"]["smtpd.0"]["dns lists"] == {
        "bl.example (address)": "well",
        "wl.example (address)": "well",
        "dead.example (address)": "it lists everything",
        "dbl.example (domain)": "well",
    }
    (made.root / "policies" / "dnsbl.toml").write_text(LISTS.replace(', "dead.example*9"', ""))
    made.cli("reload")
    assert not [why for why in made.status()["degraded"] if "DNS list" in why]


@pytest.mark.parametrize("text", ['client = ["bl example"]\n', 'helo_name = ["wl.example*-1"]\n'])
def test_a_list_that_cannot_be_read_is_named_by_check(text: str, gateway: Callable[..., Gateway]) -> None:
    made, _ = start(gateway)
    (made.root / "policies" / "dnsbl.toml").write_text(text)
    done = made.cli("check", check=False)
    assert done.returncode != 0 and "dnsbl.toml" in done.stdout + done.stderr
    assert re.search("a list is written zone=filter|would prove nothing", done.stdout + done.stderr)
