"""Content filters before the queue: over a running gateway, a filter whose answer is the client's, and the inside."""

import contextlib
import os
import signal
import smtplib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.content_filter import MARK, ContentFilter
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import answers, free_port, wait_for
from tests.peers.process import Process, stand_still
from tests.running.talking import BODY, Talk, queue_id, sent
from tests.running.test_running_filters import through_once, wiring


def proxied_door(port: int, proxy_filter: str) -> str:
    """A listener for strangers, all of whose mail goes through a filter before it is answered."""
    return f'[[listen]]\nname = "proxied"\naddress = "127.0.0.1:{port}"\nworkers = 1\nproxy_filter = "{proxy_filter}"\n'


@pytest.mark.parametrize("place", ["127.0.0.1:{port}", "inet:127.0.0.1:{port}", "scan"])
def test_all_mail_of_a_listener_goes_through_its_filter(
    gateway: Callable[..., Gateway], inner: Inner, place: str
) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back).start()
    named = f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{scan.port}"\n' if place == "scan" else ""
    made = gateway(
        policies=plain(), more=wiring(back, proxied_door(door, place.format(port=scan.port)) + named), workers=1
    )
    first = queue_id(sent(door, "a@example.com", "b@example.com"))
    through_once(made, inner, scan, first)
    made.wait_log(f"{first}: proxy-accept: END-OF-MESSAGE from client.example.org[127.0.0.1]: ")
    assert f"{first}: removed" not in made.log()  # our queue never had it
    scan.stop()


# ---------------------------------------------------------------------- rules


def test_the_filter_is_chosen_by_recipient_domain(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """Alone, such mail is filtered before it is answered; with others', from the queue, and only its own copy."""
    back = free_port()
    scan = ContentFilter(back).start()
    policies = plain(rcpt='["relay", "access", "recipient"]', access='recipient = "texthash:to"\n')
    policies["to"] = "special@example.com FILTER proxy:scan\n"
    named = f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{scan.port}"\n'
    made = gateway(policies=policies, more=wiring(back) + named, workers=1)
    first = queue_id(sent(made.port, "special@example.com"))
    assert inner.wait(1)[0].content.count(MARK) == 1
    made.wait_log(f"{first}: proxy-accept: ")
    scan.answer = "554 5.7.1 spam"
    assert sent(made.port, "special@example.com").startswith("554 5.7.1 Message refused [")
    scan.answer = ""
    both = queue_id(sent(made.port, "special@example.com", "other@example.com"))
    arrived = {kept.recipients[0]: kept.content.count(MARK) for kept in inner.wait(3)[1:]}
    assert arrived == {"special@example.com": 1, "other@example.com": 0}
    assert f"{both}: proxy-accept: " not in made.log() and "cleanup" in made.log()
    scan.stop()


def test_what_an_operator_releases_goes_through_the_filter(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """Held mail was not filtered yet."""
    back, door = free_port(), free_port()
    scan = ContentFilter(back).start()
    policies = plain(rcpt='["relay", "access", "recipient"]', access='recipient = "texthash:to"\n')
    policies["to"] = "held@example.com HOLD\n"
    made = gateway(policies=policies, more=wiring(back, proxied_door(door, f"127.0.0.1:{scan.port}")), workers=1)
    first = queue_id(sent(door, "held@example.com"))
    made.wait_log(f"{first}: to hold: ")
    assert not scan.seen
    made.cli("queue", "release", first)
    assert inner.wait(1)[0].content.count(MARK) == 1 and scan.told["IDENT"] == first
    made.wait_log(f"{first}: removed")
    scan.stop()


def test_a_filter_that_hands_back_to_the_wrong_door_ends(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """Its mail goes round until the check of loops sees it, and the client hears of that."""
    door = free_port()
    scan = ContentFilter(door).start()
    made = gateway(policies=plain(), more=proxied_door(door, f"127.0.0.1:{scan.port}"), workers=1)
    assert sent(door, "a@example.com").startswith("554 5.4.6 Message refused [")
    made.wait_log("Too many hops")
    assert not inner.messages and 5 < len(scan.seen) < 15
    scan.stop()


def test_many_at_once_through_a_filter_that_takes_two(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back).start()
    named = f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{scan.port}"\nconcurrency = 2\n'
    gateway(policies=plain(), more=wiring(back, proxied_door(door, "scan")) + named, workers=2)
    senders = [Sending(door, b"Subject: %d\r\n\r\n" % number) for number in range(40)]
    assert all(one.ended().startswith("250 ") for one in senders)
    subjects = [kept.content.partition(b"Subject: ")[2].split()[0] for kept in inner.wait(40)]
    assert sorted(map(int, subjects)) == list(range(40))
    assert scan.most <= 2
    scan.stop()


# ---------------------------------------------------------------------- faults

#: A filter in a process of its own. It writes down each message that it has taken whole, and answers when it is told to:
#: a line on the connection to `orders` says what.
SLOW = """
import contextlib, socket, sys
port, orders, taken = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def talk(sock):
    lines = sock.makefile("rb")
    sock.sendall(b"220 slow\\r\\n")
    while line := lines.readline():
        if not line.upper().startswith(b"DATA"):
            sock.sendall(b"250 ok\\r\\n")
            continue
        sock.sendall(b"354 go\\r\\n")
        if "body" in sys.argv:  # it stops reading, until it is killed
            socket.create_connection(("127.0.0.1", orders)).recv(1)
        while (line := lines.readline()) not in (b".\\r\\n", b""):
            pass
        if not line:
            return
        open(taken, "a").write("taken\\n")
        sock.sendall(socket.create_connection(("127.0.0.1", orders)).makefile("rb").readline())
server = socket.create_server(("127.0.0.1", port))
while True:
    with contextlib.suppress(OSError), server.accept()[0] as sock:
        talk(sock)
"""


class Slow:
    """The filter above; `at_point()` waits until a message has come so far, `say` answers it."""

    def __init__(self, root: Path, *words: str) -> None:
        self.root, self.port, self.words = root, free_port(), words
        self.orders = socket.create_server(("127.0.0.1", 0))
        self.orders.settimeout(20)
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-c", SLOW, str(self.port), str(self.orders.getsockname()[1]), str(self.root / "taken")]
        self.process = Process([*argv, *self.words], self.root / "slow.out")
        wait_for(lambda: answers(self.port), 20, "the filter")

    def at_point(self) -> None:
        self._told = self.orders.accept()[0]

    def say(self, reply: str) -> None:
        self._told.sendall(reply.encode() + b"\r\n")

    def kill(self) -> None:
        self.process.signal_group(signal.SIGKILL)
        self.process.popen.wait()

    def taken(self) -> int:
        path = self.root / "taken"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Callable[..., Slow]]:
    made: list[Slow] = []

    def start(*words: str) -> Slow:
        made.append(Slow(tmp_path, *words))
        return made[-1]

    yield start
    for one in made:
        one.process.stop(1.0)
        one.orders.close()


class Sending(threading.Thread):
    """One message on its way; `reply` is "" if the connection was lost."""

    def __init__(self, port: int, body: bytes = BODY) -> None:
        super().__init__(daemon=True)
        self.port, self.body, self.reply = port, body, ""
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, smtplib.SMTPServerDisconnected):
            self.reply = sent(self.port, "a@example.com", body=self.body)

    def ended(self) -> str:
        self.join(20)
        assert not self.is_alive()
        return self.reply


def large() -> bytes:
    return BODY + 200_000 * (b"x" * 60 + b"\r\n")


def test_a_filter_that_is_killed_in_the_middle_of_a_body(
    gateway: Callable[..., Gateway], slow: Callable[..., Slow]
) -> None:
    """Put off, told, nothing kept; others are served meanwhile; the next try is taken."""
    door = free_port()
    filter_ = slow("body")
    made = gateway(policies=plain(), more=proxied_door(door, f"127.0.0.1:{filter_.port}"), workers=1)
    one = Sending(door, large())
    filter_.at_point()
    began = time.monotonic()
    assert sent(made.port, "b@example.com").startswith("250")  # another listener of the same worker
    assert time.monotonic() - began < 5
    filter_.kill()
    reply = one.ended()
    assert reply.startswith("451 4.3.0 ") and filter_.taken() == 0
    ours = reply.rpartition("[")[2].rstrip("]")
    made.wait_log(f"proxy filter failed: proxy_filter=127.0.0.1:{filter_.port}")
    wait_for(
        lambda: any(ours in why for why in made.status()["degraded"]), 10, "degraded in status, with the transaction"
    )
    filter_.words = ()
    filter_.start()
    again = Sending(door, large())
    filter_.at_point()
    filter_.say("250 2.0.0 taken")
    assert again.ended().startswith("250 ") and filter_.taken() == 1
    wait_for(lambda: not made.status()["degraded"], 10, "well again")


def test_a_worker_that_is_killed_between_the_filter_s_answer_and_ours(
    gateway: Callable[..., Gateway], slow: Callable[..., Slow]
) -> None:
    """The client hears nothing and sends again: two copies are allowed, none is not."""
    door = free_port()
    filter_ = slow()
    made = gateway(policies=plain(), more=proxied_door(door, f"127.0.0.1:{filter_.port}"), workers=1)
    one = Sending(door)
    filter_.at_point()
    pids = made.children()["smtpd"]
    stand_still(*pids)
    filter_.say("250 2.0.0 taken")  # it is in the socket, and nobody reads it
    wait_for(lambda: filter_.taken() == 1, 10, "the filter's answer")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert one.ended() == ""
    wait_for(lambda: set(made.children().get("smtpd", [])).isdisjoint(pids) and answers(door), 20, "another worker")
    again = Sending(door)
    filter_.at_point()
    filter_.say("250 2.0.0 taken")
    assert again.ended().startswith("250 ") and filter_.taken() == 2
    listed = made.cli("queue", "list", "--json").stdout
    assert not listed.strip(), "our queue has nothing of it"


def test_a_client_that_goes_away_while_the_filter_has_its_message(
    gateway: Callable[..., Gateway], slow: Callable[..., Slow]
) -> None:
    door = free_port()
    filter_ = slow()
    made = gateway(policies=plain(), more=proxied_door(door, f"127.0.0.1:{filter_.port}"), workers=1)
    talk = Talk(door)
    for line in ("MAIL FROM:<s@example.org>", "RCPT TO:<a@example.com>", "DATA"):
        talk.say(line)
    talk.smtp.send(BODY + b".\r\n")
    filter_.at_point()
    assert talk.smtp.sock
    talk.smtp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    talk.close()
    made.wait_log("lost connection after DATA")
    filter_.say("250 2.0.0 taken")
    made.wait_log("the client is gone before the answer: it may send the message again")
    assert filter_.taken() == 1


def test_a_stop_lets_the_filter_come_to_its_end(gateway: Callable[..., Gateway], slow: Callable[..., Slow]) -> None:
    door = free_port()
    filter_ = slow()
    made = gateway(policies=plain(), more=proxied_door(door, f"127.0.0.1:{filter_.port}"), workers=1)
    one = Sending(door)
    filter_.at_point()
    assert made.process
    made.process.signal(signal.SIGTERM)
    made.wait_log("ending: grace=")
    filter_.say("250 2.0.0 taken")
    assert one.ended().startswith("250 ")
    assert made.process.popen.wait(20) == 0


# ---------------------------------------------------------------------- settings


def test_a_reload_takes_another_filter(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back, door = free_port(), free_port()
    one, two = ContentFilter(back).start(), ContentFilter(back).start()
    made = gateway(policies=plain(), more=wiring(back, proxied_door(door, f"127.0.0.1:{one.port}")), workers=1)
    sent(door, "a@example.com")
    made.config.write_text(made.config.read_text().replace(str(one.port), str(two.port)))
    made.cli("reload")
    sent(door, "a@example.com")
    assert len(one.seen) == 1 and len(two.seen) == 1 and len(inner.wait(2)) == 2
    one.stop()
    two.stop()


def test_mistakes_are_told_with_their_place(tmp_path: Path, inner: Inner) -> None:
    made = Gateway(tmp_path, inner.port, policies=plain(), more=proxied_door(free_port(), "nobody"))
    lines = made.config.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.startswith("proxy_filter"))
    said = made.cli("check", check=False)
    assert (
        said.returncode and f'{made.config.name}:{number}:16: no filter is called "nobody"' in said.stdout + said.stderr
    )
    made.config.write_text(made.config.read_text().replace('"nobody"', f'"127.0.0.1:{made.port}"'))
    said = made.cli("check", check=False)
    assert "is our own listen[0]: mail would go round in a loop" in said.stdout + said.stderr
