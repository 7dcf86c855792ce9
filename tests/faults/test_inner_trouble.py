"""The inner server is down, slow, refuses, cuts, talks rubbish, hangs: nothing accepted is lost, each recipient has a
fate of its own, one destination's trouble is not another's, and operators can see and do something about all of it."""

import json
import os
import re
import signal
import smtplib
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.faults.inner_peers import CUT, HANG, Scripted
from tests.faults.senders import digest, message
from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.process import stand_still

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]
QUICK = '[queue]\nretry_min = "1s"\nretry_max = "1s"\ndead_probe = "1s"\n'
TWO = plain() | {"recipients": "@example.com known\n@slow.example.com known\n"}


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def start(**more: Any) -> Scripted:
        made.append(Scripted(**more).start())
        return made[-1]

    yield start
    for server in made:
        server.stop()


def accept(made: Gateway, number: int, *to: str, size: int = 500) -> str:
    """The queue id of a message that got 250."""
    with smtplib.SMTP("127.0.0.1", made.port, "sender.example.org", timeout=30) as client:
        client.ehlo()
        client.mail("sender@example.org")
        for address in to or ("user@example.com",):
            assert client.rcpt(address)[0] == 250
        code, reply = client.data(message(number, size))
    assert code == 250, reply
    return reply.split()[-1].decode()


def queue(made: Gateway, *words: str, folder: str = "queue") -> list[dict[str, Any]]:
    done = made.cli(folder, *words, "--json", check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def waiting(made: Gateway, reason: str = "") -> list[dict[str, Any]]:
    return [item for item in queue(made, "list") if reason in json.dumps(item)]


#: name -> (what the inner server says, what the queue says of it).
TROUBLE = {
    "not taking connections": ({"CONNECT": b"421 4.3.2 not now"}, "4.3.2 not now"),
    "cutting at once": ({"CONNECT": CUT}, "lost connection"),
    "rubbish as a greeting": ({"CONNECT": b"\xff\xfe\x00rubbish"}, ""),
    "a web server": ({"CONNECT": b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n"}, ""),
    "rubbish without end": ({"EHLO": b"250-" + b"x" * 3_000_000}, ""),
    "refusing EHLO": ({"EHLO": b"450 4.7.0 who are you"}, "who are you"),
    "refusing MAIL for now": ({"MAIL": b"451 4.3.0 no disk"}, "4.3.0 no disk"),
    "refusing RCPT for now": ({"RCPT": b"450 4.2.1 mailbox busy"}, "4.2.1 mailbox busy"),
    "refusing DATA for now": ({"DATA": b"451 4.3.0 not this"}, "4.3.0 not this"),
    "refusing the dot for now": ({"DOT": b"452 4.3.1 full"}, "4.3.1 full"),
    "cutting behind the dot": ({"DOT": CUT}, "lost connection"),
    "rubbish behind the dot": ({"DOT": b"yes, thank you"}, ""),
}


def routed(root: Path, inners: dict[str, Scripted], more: str = "", authority: Path | None = None) -> Gateway:
    """One gateway that has a destination for each domain below example.com, each with troubles of its own."""
    policies = plain() | {"recipients": "".join(f"@{name}.example.com known\n" for name in inners)}
    routes = "".join(f'"{name}.example.com" = "smtp:[127.0.0.1]:{inner.port}"\n' for name, inner in inners.items())
    made = Gateway(root, free_port(), workers=1, policies=policies, more=f"[relay.routes]\n{routes}{more}{QUICK}")
    domains = ", ".join(f'"{name}.example.com"' for name in inners)
    relay = f"domains = [{domains}]" + (f'\ntls_ca = "{authority}"' if authority else "")
    made.config.write_text(made.config.read_text().replace('domains = ["example.com"]', relay))
    return made.start()


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, dict[str, Scripted]]]:
    """A gateway, and an inner server for each kind of trouble."""
    inners = {f"t{number}": Scripted().start() for number in range(len(TROUBLE))}
    made = routed(tmp_path_factory.mktemp("troubled"), inners)
    yield made, dict(zip(TROUBLE, inners.values(), strict=True))
    made.stop()
    for inner in inners.values():
        inner.stop()


@pytest.mark.parametrize("kind", TROUBLE)
def test_trouble_puts_off_and_ends(kind: str, troubled: tuple[Gateway, dict[str, Scripted]]) -> None:
    made, inner = troubled[0], troubled[1][kind]
    replies, said = TROUBLE[kind]
    inner.replies.update(replies)
    number = accept(made, 1, f"user@t{list(TROUBLE).index(kind)}.example.com")

    def mine() -> list[dict[str, Any]]:
        return [item for item in waiting(made) if item["queue_id"] == number]

    wait_for(lambda: any(item["attempts"] and item["reason"] for item in mine()), 15, f"an attempt\n{made.tail(15)}")
    [item] = mine()
    assert said in json.dumps(item), item
    assert not inner.messages
    inner.replies.clear()
    wait_for(lambda: inner.messages, 15, f"delivery\n{made.tail(15)}")
    assert digest(inner.messages[0].content) == digest(message(1, 500))
    wait_for(lambda: not mine(), 10, "an empty queue")
    assert len(inner.messages) == 1
    assert "Traceback" not in made.log()


def test_each_recipient_has_its_own_fate(gateway: Callable[..., Gateway], scripted: Callable[..., Scripted]) -> None:
    inner = scripted()
    inner.replies["RCPT busy@example.com"] = b"450 4.2.1 busy"
    inner.replies["RCPT gone@example.com"] = b"550 5.1.1 gone"
    made = gateway(inner=inner.port, policies=plain(), workers=1, more=QUICK)
    number = accept(made, 1, "user@example.com", "busy@example.com", "gone@example.com")
    wait_for(lambda: inner.recipients() == ["user@example.com"], 10, "the first recipient")
    wait_for(lambda: "status=deferred" in made.log(), 10, "the busy one")
    del inner.replies["RCPT busy@example.com"]
    wait_for(lambda: sorted(inner.recipients()) == ["busy@example.com", "user@example.com"], 15, "the busy one")
    wait_for(lambda: [i["queue_name"] for i in waiting(made)] == ["hold"], 10, f"hold: {waiting(made)}")
    [item] = queue(made, "show", number)
    status = {one["address"]: one["status"] for one in item["recipients"]}
    assert status["user@example.com"] == status["busy@example.com"] == "done"
    assert status["gone@example.com"] != "done"
    assert any("hold" in text for text in made.status()["degraded"]), made.status()["degraded"]
    assert not [kept for kept in inner.messages if kept.sender == ""], "a notice went to a sender nobody proved"


def test_operators_act_on_the_queue(gateway: Callable[..., Gateway], scripted: Callable[..., Scripted]) -> None:
    inner = scripted()
    inner.replies["MAIL"] = b"451 4.3.0 later"
    slow = QUICK.replace('"1s"', '"300s"')
    made = gateway(inner=inner.port, policies=plain(), workers=1, more=slow)
    ids = [accept(made, n, f"user{n}@example.com") for n in range(5)]
    wait_for(lambda: {i["queue_name"] for i in waiting(made)} == {"deferred"}, 15, f"deferred: {waiting(made)}")
    held, deleted, flushed, requeued, _ = ids
    assert [i["queue_id"] for i in queue(made, "hold", held, "--reason", "ticket 7")] == [held]
    [shown] = queue(made, "show", held)
    assert (shown["queue_name"], shown["keep_reason"] or shown["reason"]) == ("hold", "ticket 7")
    assert "Subject: test" in shown["header"]
    dry = made.cli("queue", "delete", "--recipient", "user1@*", "--dry-run")
    assert "would be" in dry.stderr
    assert [i["queue_id"] for i in queue(made, "delete", deleted)] == [deleted]
    assert made.cli("queue", "show", deleted, check=False).returncode == 1
    refused = made.cli("queue", "delete", check=False)
    assert refused.returncode == 1
    assert "--all" in refused.stderr
    assert {i["queue_id"] for i in queue(made, "list")} == set(ids) - {deleted}
    inner.replies.clear()
    queue(made, "flush", flushed)
    wait_for(lambda: inner.recipients() == ["user2@example.com"], 10, "the flushed one")
    queue(made, "requeue", requeued)
    wait_for(lambda: "user3@example.com" in inner.recipients(), 10, "the requeued one")
    queue(made, "flush", "--all")
    wait_for(lambda: len(inner.messages) == 3, 10, "the rest, but not what is held")
    queue(made, "release", held)
    wait_for(lambda: len(inner.messages) == 4, 10, "the released one")
    assert "user1@example.com" not in inner.recipients()
    wait_for(lambda: made.cli("queue", "list").stdout.strip() == "The mail queue is empty", 10, "an empty queue")


def test_operators_act_on_the_quarantine(gateway: Callable[..., Gateway], scripted: Callable[..., Scripted]) -> None:
    inner = scripted()
    policies = plain(message='["size", "loop"]', size='limit = 5000\n[on]\nover = "quarantine"\n')
    made = gateway(inner=inner.port, policies=policies, workers=1, more=QUICK)
    first, second, third = (accept(made, n, size=9000) for n in range(3))
    passed = accept(made, 9)
    wait_for(lambda: len(inner.messages) == 1, 10, "what is small")
    wait_for(lambda: len(queue(made, "list", folder="quarantine")) == 3, 10, "quarantine")
    assert passed not in {i["queue_id"] for i in queue(made, "list", folder="quarantine")}
    [shown] = queue(made, "show", first, folder="quarantine")
    assert "size" in shown["keep_reason"]
    assert any(v["check"] == "size" and v["outcome"] == "over" for v in shown["verdicts"])
    assert not waiting(made)
    queue(made, "release", first, folder="quarantine")
    wait_for(lambda: len(inner.messages) == 2, 10, "the released one")
    assert digest(inner.messages[1].content) == digest(message(0, 9000))
    queue(made, "delete", second, folder="quarantine")
    assert [i["queue_id"] for i in queue(made, "list", folder="quarantine")] == [third]
    made.stop()
    made.start()
    assert [i["queue_id"] for i in queue(made, "list", folder="quarantine")] == [third]


def test_one_destination_does_not_hold_up_another(
    gateway: Callable[..., Gateway], scripted: Callable[..., Scripted]
) -> None:
    good, stuck = scripted(), scripted()
    stuck.replies["DOT"] = HANG
    routes = f'[relay.routes]\n"slow.example.com" = "smtp:[127.0.0.1]:{stuck.port}"\n'
    made = gateway(inner=good.port, policies=TWO, workers=1, more=routes + QUICK)
    text = made.config.read_text().replace('["example.com"]', '["example.com", "slow.example.com"]')
    made.config.write_text(text)
    made.cli("reload")
    for number in range(40):
        accept(made, number, f"u{number}@slow.example.com")
    wait_for(lambda: stuck.sessions >= 5, 15, "the stuck one to be asked")
    for number in range(100, 130):
        accept(made, number)
    # The stuck one hangs until the end of the test: whoever waits for it waits for ever.
    wait_for(lambda: len(good.messages) == 30, 30, f"the other destination's mail\n{made.tail(10)}")
    assert not stuck.messages


def test_a_stopped_delivery_does_not_stop_intake(
    gateway: Callable[..., Gateway], scripted: Callable[..., Scripted]
) -> None:
    inner = scripted()
    made = gateway(inner=inner.port, policies=plain(), workers=2, more=QUICK)
    accept(made, 1)
    [delivery] = made.children()["delivery"]
    stand_still(delivery)
    try:
        start = time.monotonic()
        for number in range(2, 60):
            accept(made, number, size=2000)
        assert time.monotonic() - start < 15
    finally:
        os.kill(delivery, signal.SIGCONT)
    wait_for(lambda: len(inner.messages) >= 59, 30, f"delivery\n{made.tail(10)}")
    arrived = {re.search(rb"X-Number: (\d+)", kept.content)[1] for kept in inner.messages}  # type: ignore[index]
    assert len(arrived) == 59


def certificate(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """A server's TLS for `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


#: (level, does the server offer STARTTLS, is its certificate good) -> delivered with TLS, without, or not at all.
LEVELS = {
    ("none", True, True): "plain",
    ("may", True, False): "tls",
    ("may", False, True): "plain",
    ("encrypt", True, False): "tls",
    ("encrypt", False, True): "deferred",
    ("verify", True, True): "tls",
    ("verify", True, False): "deferred",
    ("verify", False, True): "deferred",
}


@pytest.fixture(scope="module")
def levelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, list[Scripted]]]:
    """A gateway, and a destination for each line of LEVELS."""
    root, authority = tmp_path_factory.mktemp("levelled"), trustme.CA()
    authority.cert_pem.write_to_path(str(root / "ca.pem"))
    inners, levels = {}, "[relay.tls]\n"
    for number, (level, offered, good) in enumerate(LEVELS):
        context = certificate(authority, "127.0.0.1" if good else "elsewhere.example.net")
        inners[f"l{number}"] = inner = Scripted(tls=context, offer_tls=offered).start()
        levels += f'"smtp:[127.0.0.1]:{inner.port}" = "{level}"\n'
    made = routed(root / "gateway", inners, levels, root / "ca.pem")
    yield made, list(inners.values())
    made.stop()
    for inner in inners.values():
        inner.stop()


@pytest.mark.parametrize(("level", "offered", "good"), LEVELS)
def test_tls_levels(level: str, offered: bool, good: bool, levelled: tuple[Gateway, list[Scripted]]) -> None:
    number = list(LEVELS).index((level, offered, good))
    made, inner = levelled[0], levelled[1][number]
    to = f"user@l{number}.example.com"
    accept(made, 1, to)
    expected = LEVELS[level, offered, good]
    if expected == "deferred":
        put_off = re.compile(rf"to=<{re.escape(to)}>.* status=deferred")
        wait_for(lambda: len(put_off.findall(made.log())) >= 2, 15, f"two attempts\n{made.tail(10)}")
        assert not inner.messages, "mail went out below the level that was asked for"
        assert waiting(made, to)
    else:
        wait_for(lambda: inner.messages, 15, f"delivery\n{made.tail(10)}")
        assert inner.secured == [expected == "tls"]


def test_an_lmtp_server_answers_for_each_recipient(
    gateway: Callable[..., Gateway], scripted: Callable[..., Scripted], tmp_path: Path
) -> None:
    inner = scripted(path=tmp_path / "lmtp.sock", lmtp=True)
    inner.replies["DOT full@example.com"] = b"452 4.2.2 full"
    made = gateway(inner=free_port(), policies=plain(), workers=1, more=QUICK)
    made.stop()
    text = re.sub(r'next_hop = ".*"', f'next_hop = "lmtp:unix:{tmp_path}/lmtp.sock"', made.config.read_text())
    made.config.write_text(text)
    made.start()
    accept(made, 1, "user@example.com", "full@example.com")
    wait_for(lambda: inner.recipients() == ["user@example.com"], 10, f"the first\n{made.tail(10)}")
    wait_for(lambda: waiting(made, "4.2.2 full"), 10, "the full one")
    del inner.replies["DOT full@example.com"]
    wait_for(lambda: sorted(inner.recipients()) == ["full@example.com", "user@example.com"], 15, "the full one")
