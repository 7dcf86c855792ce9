"""A real Postfix asks policyd: greylisting, unknown recipients, texts, effects on the message; policyd killed and back.
The configuration is what `postgate postfix-config` prints for the sockets that are really bound."""

import os
import re
import signal
import smtplib
import subprocess
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.peers.gateway import POSTGATE, ROOT, Gateway
from tests.peers.inner import Inner
from tests.peers.policy import PolicyClient
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer
ZONE = """\
$ORIGIN .
$TTL 300
1.0.0.127.in-addr.arpa PTR client.example.org.
client.example.org A 127.0.0.1
example.org MX 10 client.example.org.
example.org TXT "v=spf1 a:client.example.org -all"
bad.example MX 10 client.example.org.
bad.example TXT "v=spf1 -all"
"""
ACCESS = """\
hold@example.org HOLD for the operator
twice@example.org PREPEND X-Seen: by policy
copy@example.org BCC audit@example.com
trap@example.org REDIRECT trap@example.com
gone@example.org DISCARD unwanted
filter@example.org FILTER discard:
reject@example.org 554 5.7.1 Not from you
defer@example.org 450 4.7.1 Not now
warn@example.org WARN look at this
later@example.org DEFER_IF_PERMIT busy
"""
POLICIES = {
    "greylist.toml": 'when = "always"\ndelay = "2s"\nauto_accept = 0\nexempt_clients = []\nexempt_recipients = []\n',
    "recipient.toml": 'tables = ["inline:{user@example.com=ok,two@example.com=ok,trap@example.com=ok}"]\n'
    "callahead = false\n",
    "access.toml": 'sender = ["texthash:access/sender"]\n',
    "access/sender": ACCESS,
}


class Both:
    """The gateway with its policy server, and a Postfix that asks it."""

    def __init__(self, gateway: Gateway, postfix: Postfix, policy_port: int) -> None:
        self.gateway, self.postfix, self.policy_port = gateway, postfix, policy_port

    def send(self, sender: str, *to: str) -> tuple[dict[str, tuple[int, str]], str]:
        """(refused recipients, what became of the data)."""
        refused: dict[str, tuple[int, str]] = {}
        with smtplib.SMTP("127.0.0.1", self.postfix.port, local_hostname="client.example.org") as client:
            client.ehlo()
            client.mail(sender)
            for one in to:
                code, text = client.rcpt(one)
                if code >= 400:
                    refused[one] = (code, text.decode())
            if refused:  # a part of them must not go out meanwhile: the test counts messages
                return refused, ""
            mail = EmailMessage()
            mail["From"], mail["Subject"] = sender, "policy"
            mail.set_content("hello\n")
            code, text = client.data(mail.as_bytes())
            return refused, f"{code} {text.decode()}"

    def logged(self, line: str) -> None:
        """By Postfix, behind its answer."""
        wait_for(lambda: re.search(line, self.postfix.log()), 20, f"{line} in the log\n{self.postfix.log()}")

    def known(self, sender: str, *to: str) -> str:
        """Send it behind the greylist's delay."""
        found = ""

        def accepted() -> bool:
            nonlocal found
            refused, found = self.send(sender, *to)
            return not refused and bool(found)

        wait_for(accepted, 30, f"{sender} past the greylist:\n{self.postfix.log()}")
        return found


@pytest.fixture
def both(gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner, tmp_path: Path) -> Both:
    port = free_port()
    more = f'[[policyd]]\nname = "inet"\naddress = "inet:127.0.0.1:{port}"\n'
    more += '[[policyd]]\nname = "local"\naddress = "unix:policy.sock"\n'
    made = gateway(policies=POLICIES, zone=ZONE, more=more)
    printed = made.cli("postfix-config").stdout
    assert "the sockets that are bound now" in printed and "further addresses" in printed
    found = re.findall(r"^(\w+) =\n((?:    .*\n)+)", printed, re.M)
    settings = {name: re.sub(r"\s+", " ", value.strip()) for name, value in found}
    # Loopback is the stranger here, and the list of recipients is the gateway's.
    before = settings["smtpd_recipient_restrictions"].replace("permit_mynetworks, ", "")
    settings["smtpd_recipient_restrictions"] = before
    postfix = make_postfix(
        hostname="outer.example.com",
        relay=f"[127.0.0.1]:{inner.port}",
        mynetworks="192.0.2.0/24",
        relay_domains="example.com",
        relay_recipient_maps="",
        smtpd_delay_reject="yes",
        smtpd_peername_lookup="no",
        soft_bounce="no",
        **settings,
    )
    return Both(made, postfix, port)


def test_postfix_asks(both: Both, inner: Inner) -> None:
    refused, _ = both.send("friend@example.org", "user@example.com", "nobody@example.com")
    code, text = refused["user@example.com"]
    assert code == 450 and "<user@example.com>: Recipient address rejected: Greylisted" in text
    code, text = refused["nobody@example.com"]
    assert code == 550 and text.startswith("5.1.1 <nobody@example.com>: Recipient address rejected:")
    both.known("friend@example.org", "user@example.com", "two@example.com")
    wait_for(lambda: len(inner.messages) == 1, 20, "the mail inside")
    assert inner.messages[0].content.count(b"Authentication-Results: mx.example.com; spf=") == 1
    assert not [line for line in both.gateway.status()["degraded"] if "policy" in str(line)]


def test_the_words_of_access_reach_postfix(both: Both, inner: Inner) -> None:
    to = "user@example.com"
    for sender, code, text in (
        (
            "reject@example.org",
            554,
            "5.7.1 <user@example.com>: Recipient address rejected: Sender address rejected: Not from you",
        ),
        ("defer@example.org", 450, "Not now"),
        ("later@example.org", 450, "busy"),
    ):
        refused, _ = both.send(sender, to)
        assert refused[to][0] == code and text in refused[to][1]
    for sender, label in (
        ("hold@example.org", "hold"),
        ("copy@example.org", "bcc"),
        ("trap@example.org", "redirect"),
        ("filter@example.org", "filter"),
    ):
        both.known(sender, to)
        both.logged(rf": {label}: RCPT from [^;]*; from=<{sender}>")
    _, answer = both.send("gone@example.org", to)
    assert answer.startswith("250")
    both.logged(r": discard: RCPT from")
    both.known("twice@example.org", to)

    def seen() -> list[bytes]:
        return [kept.content for kept in inner.messages if kept.sender == "twice@example.org"]

    wait_for(lambda: bool(seen()), 20, "the mail with a field")
    assert seen()[0].count(b"X-Seen: by policy") == 1
    for field in (b"Authentication-Results: mx.example.com;", b"X-Postgate-Mark: rdns=none"):
        assert seen()[0].count(field) == 1, "what found no room at RCPT came at DATA"


@pytest.mark.parametrize("sender", ["ok.example!a", "a%b", "b!a", '""@c.example'])
def test_a_sender_that_cannot_be_read_passes_no_postfix(both: Both, sender: str) -> None:
    """Postfix itself makes an ordinary address of it, and asks about it as it came."""
    with smtplib.SMTP("127.0.0.1", both.postfix.port, local_hostname="client.example.org") as client:
        client.ehlo()
        assert client.docmd("MAIL", f"FROM:<{sender}>")[0] == 250
        code, text = client.docmd("RCPT", "TO:<user@example.com>")
        assert (code, text.split()[0]) == (501, b"5.1.3") and b"Bad sender address syntax" in text


def test_policyd_killed_and_back(both: Both) -> None:
    both.send("friend@example.org", "user@example.com")
    before = both.gateway.children()["policyd"]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    refused, _ = both.send("friend@example.org", "nobody@example.com")
    assert refused["nobody@example.com"][0] == 550, "a new worker answers, at Postfix's second attempt at the latest"
    wait_for(lambda: len(set(both.gateway.children().get("policyd", ())) - set(before)) == 2, 20, "both workers again")
    assert "problem talking to server" not in both.postfix.log()


def test_reload_and_probe_and_try(both: Both) -> None:
    path = both.gateway.root / "policies" / "recipient.toml"
    with PolicyClient(("127.0.0.1", both.policy_port)) as client:
        assert client.ask(recipient="new@example.com").startswith("550 5.1.1")
        path.write_text(path.read_text().replace("{user", "{new@example.com=ok,user"))
        both.gateway.cli("reload")
        assert client.ask(recipient="new@example.com", instance="2").startswith("DEFER_IF_PERMIT")
    probe = [*POSTGATE, "probe", "policy", f"inet:127.0.0.1:{both.policy_port}", "--to", "nobody@example.com"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(probe, env=env, capture_output=True, text=True, check=True)
    assert "> recipient=nobody@example.com" in done.stdout and "550: refused" in done.stdout
    local = subprocess.run(
        [*POSTGATE, "probe", "policy", f"unix:{both.gateway.root}/state/policy.sock", "--state", "CONNECT"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DUNNO: no opinion" in local.stdout
    smtp = subprocess.run(
        [*POSTGATE, "probe", "smtp", f"127.0.0.1:{both.postfix.port}", "--to", "nobody@example.com"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert smtp.returncode == 1 and "< 250-outer.example.com" in smtp.stdout and "< 550 5.1.1" in smtp.stdout
    wrong = subprocess.run(
        [*POSTGATE, "probe", "policy", f"127.0.0.1:{both.postfix.port}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 1, "an SMTP server is no policy server"
    tried = both.gateway.cli("postfix-config", "--try", "--postfix", str(both.postfix.root))
    assert "postconf takes all of it" in tried.stdout
    (both.postfix.root / "master.cf").write_text("nonsense\n")
    tried = both.gateway.cli("postfix-config", "--try", "--postfix", str(both.postfix.root), check=False)
    assert tried.returncode == 2 and "master.cf" in tried.stderr, "what postconf cannot read is said"
    assert "postconf takes" not in tried.stdout and "postconf found" not in tried.stdout


def test_another_protocol_is_named(both: Both) -> None:
    with PolicyClient(("127.0.0.1", both.policy_port)) as client:
        assert client.send(b"EHLO client.example.org\r\n") == ""
    both.gateway.wait_log("the client speaks SMTP")


def test_over_a_unix_socket_in_the_folder_of_the_jail(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner, tmp_path: Path
) -> None:
    folder = tmp_path / "postfix0" / "queue" / "postgate"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    more = f'[[policyd]]\naddress = "unix:{folder}/policy.sock"\nworkers = 2\n'
    gateway(policies=POLICIES, zone=ZONE, more=more)
    outer = make_postfix(
        relay=f"[127.0.0.1]:{inner.port}",
        mynetworks="192.0.2.0/24",
        relay_domains="example.com",
        smtpd_recipient_restrictions="reject_unauth_destination, check_policy_service unix:postgate/policy.sock",
    )
    with smtplib.SMTP("127.0.0.1", outer.port, local_hostname="client.example.org") as client:
        client.ehlo()
        client.mail("friend@example.org")
        assert client.rcpt("nobody@example.com")[0] == 550
        code, text = client.rcpt("user@example.com")
        assert code == 450 and b"Greylisted" in text, outer.log()
