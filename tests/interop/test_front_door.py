"""The front door of a whole gateway: certificates that change, clients behind proxies and relays, unix sockets, what EHLO
offers to whom (threats B3, B12, P7). Needs no peer program."""

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.peers.dialogue import Dialogue
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for

CA = trustme.CA()
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 5, 192, 0, 2, 1)) + b"\x04\xd2\0\x19"


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def issue(folder: Path) -> None:
    """A new pair over the old one, file by file, as certificate clients do it."""
    issued = CA.issue_cert("mx.example.com")
    for name, blobs in (("chain.pem", issued.cert_chain_pems), ("key.pem", [issued.private_key_pem])):
        new = folder / f"{name}.new"
        new.write_bytes(b"".join(blob.bytes() for blob in blobs))
        new.chmod(0o600)
        new.replace(folder / name)


@pytest.fixture
def door(gateway: Callable[..., Gateway], tmp_path: Path) -> Callable[..., tuple[Gateway, int]]:
    """A gateway with a second listener of the given lines; it and the listener's port."""

    def start(lines: str, tls: bool = False) -> tuple[Gateway, int]:
        port = free_port()
        if tls:
            issue(tmp_path)
            lines += f'tls = {{ certificate = "{tmp_path}/chain.pem", key = "{tmp_path}/key.pem" }}\n'
        more = f'[[listen]]\nname = "second"\naddress = "127.0.0.1:{port}"\nworkers = 1\n{lines}'
        return gateway(more=more, workers=1, policies=plain()), port

    return start


@pytest.fixture
def talk() -> Iterator[Callable[..., Dialogue]]:
    made: list[Dialogue] = []

    def connect(where: int | Path, banner: bool = True) -> Dialogue:
        made.append(Dialogue(where, banner))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def serial(sock: ssl.SSLSocket) -> str:
    return str(sock.getpeercert()["serialNumber"])  # type: ignore[index]


def test_p7_a_certificate_changes_under_a_living_session(
    door: Callable[..., tuple[Gateway, int]], talk: Callable[..., Dialogue], tmp_path: Path, inner: Inner
) -> None:
    made, port = door("", tls=True)
    pids = made.children()
    old = talk(port)
    assert "STARTTLS" in old.say("EHLO a.example.org")
    before = serial(old.secure(trusting()))
    old.say("EHLO a.example.org")
    issue(tmp_path)

    def changed() -> bool:
        new = talk(port)
        new.say("EHLO b.example.org")
        return serial(new.secure(trusting())) != before

    wait_for(changed, 15, "the new certificate")
    assert old.mail().startswith("250 2.0.0 Ok: queued as ")
    assert old.say("QUIT").startswith("221")
    assert made.children() == pids
    assert b"with ESMTPS id" in inner.wait(1)[0].content


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\n", V2], ids=["v1", "v2"])
def test_b12_who_stands_behind_a_proxy_and_a_relay_is_known_over_starttls(
    header: bytes, door: Callable[..., tuple[Gateway, int]], talk: Callable[..., Dialogue], inner: Inner
) -> None:
    made, port = door('proxy = ["127.0.0.0/8"]\nxclient = ["192.0.2.0/24"]\n', tls=True)
    client = talk(port, banner=False)
    client.send(header)
    assert client.reply().startswith("220 ")
    offered = client.say("EHLO relay.example.org")
    assert "XCLIENT NAME ADDR" in offered and "XFORWARD NAME ADDR" in offered
    assert client.say("XFORWARD NAME=orig.example.net ADDR=203.0.113.9").startswith("250")
    client.secure(trusting())
    client.say("EHLO relay.example.org")
    assert client.mail("first@example.com").startswith("250")
    assert client.say("XCLIENT NAME=far.example.net ADDR=198.51.100.7").startswith("220")
    client.say("EHLO far.example.net")
    assert client.mail("second@example.com").startswith("250")
    contents = {kept.recipients[0]: kept.content for kept in inner.wait(2)}
    assert b"from relay.example.org (unknown [192.0.2.5])" in contents["first@example.com"]
    assert b"from far.example.net (far.example.net [198.51.100.7])" in contents["second@example.com"]
    made.wait_log("client=unknown[192.0.2.5], orig_client=orig.example.net[203.0.113.9]")
    made.wait_log("client=far.example.net[198.51.100.7]")
    made.wait_log("disconnect from")


def test_b12_strangers_are_not_believed(door: Callable[..., tuple[Gateway, int]], talk: Callable[..., Dialogue]) -> None:
    made, port = door('proxy = ["127.0.0.0/8"]\n')
    bare = talk(port, banner=False)
    bare.send(b"EHLO x.example.org\r\n")
    assert bare.ended()
    client = talk(made.port)
    client.send(b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\n")
    assert client.reply().startswith("554 5.7.0") and client.ended()
    client = talk(made.port)
    assert "XCLIENT" not in client.say("EHLO x.example.org")
    assert client.say("XCLIENT ADDR=192.0.2.9").startswith("550 5.7.0")
    assert client.say("XFORWARD ADDR=192.0.2.9").startswith("550 5.7.0")


def test_b5_who_talks_before_the_greeting_is_refused_where_the_operator_says_so(
    gateway: Callable[..., Gateway], talk: Callable[..., Dialogue]
) -> None:
    port = free_port()
    more = f'[[listen]]\nname = "second"\naddress = "127.0.0.1:{port}"\nproxy = ["127.0.0.0/8"]\nworkers = 1\n'
    policies = plain(early_talker='[on]\ntalked = "reject"\n')
    policies["stages.toml"] = policies["stages.toml"].replace("helo = []", 'helo = ["early_talker"]')
    made = gateway(more=more, workers=1, policies=policies)
    header = b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\n"
    hasty, patient = talk(port, banner=False), talk(port, banner=False)
    hasty.send(header + b"EHLO mail.example.org\r\n")
    patient.send(header)
    assert hasty.reply()[:3] == "220" and hasty.reply()[:3] == "250"
    assert patient.reply()[:3] == "220" and patient.say("EHLO mail.example.org")[:3] == "250"
    hasty.say("MAIL FROM:<a@example.org>")
    assert hasty.say("RCPT TO:<u@example.com>").startswith("554 5.5.0 Client rejected: you spoke before the greeting [")
    assert patient.mail().startswith("250")
    made.wait_log("554 5.5.0 Client rejected")


def test_a_handler_of_the_operators_own_filters_one_listener(
    door: Callable[..., tuple[Gateway, int]], talk: Callable[..., Dialogue], inner: Inner
) -> None:
    """aiosmtpd's hook contract, from the wiring file on."""
    made, port = door('handler = "tests.peers.hook:Words"\n')
    client, other = talk(port), talk(made.port)
    for one in (client, other):
        one.say("EHLO mail.example.org")
    assert client.mail(body=b"a forbidden word\r\n").startswith("554 5.6.0 that word again [")
    client.say("MAIL FROM:<a@example.org>")
    assert client.say("RCPT TO:<nobody@example.com>").startswith("550 5.1.1 nobody is not here [")
    client.say("RSET")
    assert client.mail("one@example.com").startswith("250")
    assert other.mail("two@example.com", b"a forbidden word\r\n").startswith("250")
    assert sorted(kept.recipients[0] for kept in inner.wait(2)) == ["one@example.com", "two@example.com"]
    wiring = made.config.read_text()
    made.config.write_text(wiring.replace("hook:Words", "hook:Wrods"))
    refused = made.cli("reload", check=False)
    assert refused.returncode != 0 and "has no attribute 'Wrods'" in refused.stdout + refused.stderr
    made.config.write_text(wiring.replace("tests.peers.hook", "nowhere.hook"))
    assert 'no package "nowhere" is on the Python path' in made.cli("check", check=False).stdout
    assert client.mail("three@example.com").startswith("250")


def test_a_unix_listener_takes_mail_in_every_worker(
    gateway: Callable[..., Gateway], talk: Callable[..., Dialogue], inner: Inner, tmp_path: Path
) -> None:
    path = tmp_path / "smtp.sock"
    more = f'[[listen]]\nname = "local"\naddress = "unix:{path}"\nxclient = ["127.0.0.1"]\nworkers = 2\n'
    made = gateway(more=more, policies=plain())
    for number in range(4):
        client = talk(path)
        assert "XCLIENT" in client.say("EHLO mail.example.org")
        assert client.mail(f"u{number}@example.com").startswith("250")
    assert len(inner.wait(4)) == 4
    assert made.stop() == 0
    assert not path.exists()


def test_ehlo_keywords_are_switched_off_for_one_network(
    door: Callable[..., tuple[Gateway, int]], talk: Callable[..., Dialogue]
) -> None:
    lines = (
        'proxy = ["127.0.0.0/8"]\n'
        'ehlo_off = [{ networks = ["192.0.2.0/24"], keywords = ["chunking", "STARTTLS", "SMTPUTF8"] }]\n'
    )
    _, port = door(lines, tls=True)

    def offered(address: str) -> tuple[Dialogue, set[str]]:
        client = talk(port, banner=False)
        client.send(f"PROXY TCP4 {address} 192.0.2.1 1234 25\r\n".encode())
        client.reply()
        lines = client.say("EHLO mail.example.org").splitlines()
        return client, {line[4:].split()[0] for line in lines[1:]}

    everything = {"PIPELINING", "SIZE", "VRFY", "STARTTLS", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8"}
    everything |= {"CHUNKING", "HELP"}
    assert offered("198.51.100.1")[1] == everything
    client, less = offered("192.0.2.77")
    assert less == everything - {"CHUNKING", "STARTTLS", "SMTPUTF8"}
    assert client.say("STARTTLS").startswith("502")
    assert client.say("MAIL FROM:<a@example.org> SMTPUTF8").startswith("555")


def test_smtputf8_is_offered_as_soon_as_a_next_hop_that_was_away_takes_it(
    gateway: Callable[..., Gateway], talk: Callable[..., Dialogue]
) -> None:
    port = free_port()
    made = gateway(inner=port, policies=plain(), workers=1)
    client = talk(made.port)
    assert "SMTPUTF8" not in client.say("EHLO mail.example.org")
    assert client.say("MAIL FROM:<ä@example.org> SMTPUTF8")[:3] in ("501", "553", "555")
    late = Inner(port).start()
    try:
        wait_for(lambda: "SMTPUTF8" in client.say("EHLO mail.example.org") or time.sleep(0.2), 30, "SMTPUTF8")
        assert client.all("MAIL FROM:<ä@example.org> SMTPUTF8", "RCPT TO:<u@example.com>", "DATA")[2][:3] == "354"
        client.send("Subject: grüß\r\n\r\nx\r\n.\r\n".encode())
        assert client.reply().startswith("250")
        kept = late.wait(1)[0]
        assert kept.sender == "ä@example.org" and "SMTPUTF8" in kept.options
        assert b"with UTF8SMTP id" in kept.content
    finally:
        late.stop()
