"""Mail that must come encrypted, over a running gateway: by sender, by the network of the client, by exception."""

import ssl
from collections.abc import Callable
from pathlib import Path

from appliance.net.selfsigned import self_signed
from tests.peers.gateway import Gateway
from tests.peers.policies import STAGES, plain
from tests.peers.ports import free_port
from tests.running.talking import Talk

TO = "bob@example.com"
POLICY = """\
senders = ["inline:{bank.example=required}"]
clients = ["cidr:networks"]
"""
#: Who is not encrypted waits, although nobody else does.
PLAIN_WAITS = """\
mode = "off"
[[exception]]
match = { tls = "none", sender = "@slow.example" }
set = { mode = "enforce", when = "always" }
reason = "test"
"""
NEEDED, WAIT, OK = "530 5.7.0 Must issue a STARTTLS command first", "451 4.7.1 ", "250 "


def door(folder: Path) -> tuple[int, str]:
    """A listener that believes XCLIENT and offers STARTTLS: its port and lines of wiring."""
    for path, octets in zip((folder / "chain.pem", folder / "key.pem"), self_signed("mx.example.com"), strict=True):
        path.write_bytes(octets)
        path.chmod(0o600)
    port = free_port()
    pair = f'tls = {{ certificate = "{folder}/chain.pem", key = "{folder}/key.pem" }}'
    return port, f'[[listen]]\naddress = "127.0.0.1:{port}"\nname = "tls"\nxclient = ["127.0.0.0/8"]\n{pair}\n'


def answer(port: int, sender: str, address: str, encrypted: bool) -> str:
    """The reply to RCPT."""
    talk = Talk(port, address=address)
    try:
        if encrypted:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            talk.smtp.starttls(context=context)
            talk.say("EHLO mail.example.org")
        return talk.envelope(TO, sender)
    finally:
        talk.close()


def test_what_must_come_encrypted_comes_encrypted_or_not_at_all(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    port, wiring = door(tmp_path)
    stages = STAGES.format(connect="[]", rcpt='["relay", "recipient", "greylist"]', message='["size", "loop"]')
    policies = plain(tls=POLICY, greylist=PLAIN_WAITS)
    policies |= {"stages.toml": stages.replace('"size"]', '"size", "tls"]', 1), "networks": "192.0.2.0/28 TLSv1.2\n"}
    gateway(more=wiring, policies=policies, workers=1)
    elsewhere = "198.51.100.1"
    expected = {
        ("a@bank.example", elsewhere): (NEEDED, OK),
        ("a@branch.bank.example", elsewhere): (NEEDED, OK),
        ("a@other.example", elsewhere): (OK, OK),
        ("a@other.example", "192.0.2.5"): (NEEDED, OK),
        ("", "192.0.2.5"): (NEEDED, OK),
        ("a@slow.example", elsewhere): (WAIT, OK),
    }
    found = {who: tuple(answer(port, *who, encrypted) for encrypted in (False, True)) for who in expected}
    for who, replies in found.items():
        for reply, begin in zip(replies, expected[who], strict=True):
            assert reply.startswith(begin), (who, replies)
