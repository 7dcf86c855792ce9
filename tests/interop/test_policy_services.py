"""Real policy servers behind the policy client: postgrey, policyd-spf, postfwd; they die and come back."""

import contextlib
import os
import pwd
import shutil
import signal
import smtplib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import answers, free_port, wait_for
from tests.peers.process import Process, reachable

pytestmark = pytest.mark.peer
ZONE = """\
$ORIGIN .
$TTL 300
1.0.0.127.in-addr.arpa PTR client.example.org.
client.example.org A 127.0.0.1
example.org MX 10 client.example.org.
"""
OFF = 'mode = "off"\n'
STAGE = '["relay", "recipient", "policy_services"]'


def policies(services: str) -> dict[str, str]:
    return {
        "greylist.toml": OFF,
        **{f"{name}.toml": OFF for name in ("ratelimit", "spf", "dkim", "dmarc", "identity", "arc")},
        "recipient.toml": 'tables = ["inline:{@example.com=ok}"]\ncallahead = false\n',
        "policy_services.toml": f"services = [\n{services}]\n",
    }


class Postgrey:
    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        database = root / "postgrey"
        database.mkdir(parents=True, exist_ok=True)
        shutil.chown(database, pwd.getpwnam("postgrey").pw_uid)
        reachable(database / "x")
        self.process = self._start()

    def _start(self) -> Process:
        words = [f"--inet=127.0.0.1:{self.port}", f"--dbdir={self.root}/postgrey", "--delay=2"]
        process = Process(["postgrey", *words, "--whitelist-clients=/dev/null"], self.root / "postgrey.out")
        wait_for(lambda: answers(self.port), 20, "postgrey")
        return process

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stop()

    def again(self) -> None:
        self.process = self._start()


@pytest.fixture
def postgrey(tmp_path: Path) -> Iterator[Postgrey]:
    if not shutil.which("postgrey"):
        pytest.skip("Debian package postgrey is not installed (make packages)")
    made = Postgrey(tmp_path / "grey")
    yield made
    made.process.stop()


def spawn(root: Path, port: int, *words: str) -> Process:
    """A server that speaks on stdin and stdout, started for each connection as Postfix's spawn(8) does it."""
    server = root / "spawn.py"
    server.write_text(
        "import socketserver, subprocess\n"
        "class One(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        f"        subprocess.run({list(words)!r}, stdin=self.request, stdout=self.request)\n"
        "socketserver.ForkingTCPServer.allow_reuse_address = True\n"
        f"socketserver.ForkingTCPServer(('127.0.0.1', {port}), One).serve_forever()\n"
    )
    return Process(["python3", str(server)], root / "spawn.out")


def rcpt(port: int, sender: str, *to: str, data: bool = False) -> list[tuple[int, str]]:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example.org") as client:
        client.ehlo()
        client.mail(sender)
        found = [(code, text.decode()) for code, text in map(client.rcpt, to)]
        if data and all(code == 250 for code, _ in found):
            code, text = client.data(f"From: {sender}\r\nSubject: x\r\n\r\nhello\r\n".encode())
            found.append((code, text.decode()))
        return found


def test_postgrey_greylists_dies_and_returns(gateway: Callable[..., Gateway], postgrey: Postgrey, inner: Inner) -> None:
    services = f'  {{ name = "grey", address = "inet:127.0.0.1:{postgrey.port}", timeout = "20s", default = "DUNNO" }},\n'
    made = gateway(policies=policies(services), zone=ZONE)
    ((code, text),) = rcpt(made.port, "a@example.org", "user@example.com")
    assert code == 450 and "Recipient address rejected: Greylisted" in text

    def passed() -> bool:
        return rcpt(made.port, "a@example.org", "user@example.com", data=True)[-1][0] == 250

    wait_for(passed, 20, "the second attempt")
    wait_for(lambda: bool(inner.messages), 20, "the mail")
    assert inner.messages[0].content.count(b"X-Greylist: delayed") == 1
    postgrey.kill()
    ((code, _),) = rcpt(made.port, "b@example.org", "user@example.com")
    assert code == 250, "its default"
    made.wait_log("policy service grey: connecting to inet:127.0.0.1")
    status = made.status()
    assert any("policy service grey" in text for text in status["degraded"])
    postgrey.again()
    wait_for(lambda: rcpt(made.port, "c@example.org", "user@example.com")[0][0] == 450, 20, "greylisting again")
    wait_for(lambda: not any("grey" in text for text in made.status()["degraded"]), 20, "well again")


def test_policyd_spf_judges_and_writes_its_field(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner) -> None:
    if not shutil.which("policyd-spf"):
        pytest.skip("Debian package postfix-policyd-spf-python is not installed (make packages)")
    port = free_port()
    config = tmp_path / "spf.conf"
    config.write_text("debugLevel = 1\nHELO_reject = False\nMail_From_reject = False\nskip_addresses = 192.0.2.0/24\n")
    process = spawn(tmp_path, port, "policyd-spf", str(config))
    try:
        wait_for(lambda: answers(port), 20, "policyd-spf")
        services = f'  {{ name = "spf", address = "inet:127.0.0.1:{port}", timeout = "20s" }},\n'
        made = gateway(policies=policies(services), zone=ZONE)
        replies = rcpt(made.port, "a@example.org", "user@example.com", "two@example.com", data=True)
        assert [code for code, _ in replies] == [250, 250, 250], made.tail()
        wait_for(lambda: len(inner.messages) == 1, 20, "one mail for both")
        content = inner.messages[0].content
        theirs = b"Received-SPF: None (mailfrom) identity=mailfrom; "
        assert content.count(b"Received-SPF: ") == content.count(theirs) == 1
        assert sorted(inner.messages[0].recipients) == ["two@example.com", "user@example.com"]
    finally:
        process.stop()


def test_postfwd_rules(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    if not shutil.which("postfwd"):
        pytest.skip("Debian package postfwd is not installed (make packages)")
    port, ours = free_port(), free_port()
    rules = tmp_path / "postfwd.cf"
    rules.write_text(
        "id=R1; sender=bad@example.org; action=REJECT not from you\n"
        "id=R2; sender=slow@example.org; action=450 4.7.1 slow down\n"
        "id=R4; sender=came@example.org; server_address=127.0.0.9; action=REJECT another address\n"
        f"id=R5; sender=came@example.org; server_address=127.0.0.1; server_port={ours}; action=450 4.7.1 you came here\n"
        "id=R6; sender=dns@example.org; action=reject_unknown_sender_domain, reject_rhsbl_helo bl.example\n"
        "id=R7; sender=dns@nowhere.example; action=reject_unknown_sender_domain\n"
        "id=R8; sender=listed@example.org; action=reject_rhsbl_sender bl.example\n"
        "id=R9; sender=bad@example.com; action=reject_unlisted_sender\n"
        "id=R3; protocol_state=END-OF-MESSAGE; sender=late@example.org; action=554 5.7.1 too late\n"
    )
    rules.chmod(0o644)
    reachable(rules)
    process = spawn(tmp_path, port, "postfwd1", f"--file={rules}", "--nodaemon", "--nodns")
    try:
        wait_for(lambda: answers(port), 30, f"postfwd: {process.output()}")
        services = f'  {{ name = "fwd", address = "inet:127.0.0.1:{port}", stages = ["rcpt", "message"] }},\n'
        more = f'[[listen]]\nname = "second"\naddress = "127.0.0.1:{ours}"\n'
        listed = {"recipient.toml": 'tables = ["inline:{user@example.com=ok}"]\ncallahead = false\n'}
        zone = ZONE + "example.org.bl.example A 127.0.0.2\nnowhere.example TXT none\n"
        made = gateway(policies=policies(services) | listed, zone=zone, more=more)
        for sender, wanted, words in (
            ("dns@example.org", 250, ""),
            ("dns@nowhere.example", 450, "4.1.8"),
            ("listed@example.org", 554, "blocked using bl.example"),
            ("bad@example.com", 550, "5.1.0 Sender address rejected: User unknown"),
        ):
            ((code, text),) = rcpt(ours, sender, "user@example.com")
            assert (code, words in text) == (wanted, True), (sender, text)
        ((code, text),) = rcpt(ours, "came@example.org", "user@example.com")
        assert (code, "you came here" in text) == (450, True)
        assert rcpt(made.port, "came@example.org", "user@example.com")[0][0] == 250
        ((code, text),) = rcpt(made.port, "bad@example.org", "user@example.com")
        assert (code, "not from you" in text) == (554, True)
        ((code, text),) = rcpt(made.port, "slow@example.org", "user@example.com")
        assert (code, "slow down" in text) == (450, True)
        assert rcpt(made.port, "late@example.org", "user@example.com", data=True)[-1][0] == 554
        assert rcpt(made.port, "good@example.org", "user@example.com", data=True)[-1][0] == 250
    finally:
        process.stop()


def test_each_that_hangs_has_its_own_time_and_its_own_default(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """However short the deadline of a stage is."""
    with contextlib.ExitStack() as silent:
        ports = [silent.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]
        one = '{{ name = "s{0}", address = "inet:127.0.0.1:{0}", timeout = "1s", tries = 1, default = "{1}" }},\n'
        services = "".join(one.format(port, "DUNNO") for port in ports)
        files = policies(services) | {"stages.toml": 'deadline = "1s"\n' + plain(rcpt=STAGE)["stages.toml"]}
        made = gateway(policies=files, zone=ZONE, workers=1)
        assert rcpt(made.port, "a@example.org", "user@example.com", data=True)[-1][0] == 250, made.tail()
        inner.wait(1)
        services = services.replace("DUNNO", "PREPEND X-Late: yes", 1)
        (made.root / "policies" / "policy_services.toml").write_text(f"services = [\n{services}]\n")
        made.cli("reload")
        assert rcpt(made.port, "a@example.org", "user@example.com", data=True)[-1][0] == 250, made.tail()
        assert b"X-Late: yes" in inner.wait(2)[1].content
