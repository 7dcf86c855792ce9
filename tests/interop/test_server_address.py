"""The address that a client came to, from a real Postfix through policyd and milterd to a policy service of others."""

import smtplib
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.protocol.policy import Attributes, RequestReader, encode_answer
from tests.peers import sendmail
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.peers.postfix import Postfix
from tests.peers.sendmail import Sendmail

pytestmark = pytest.mark.peer
STAGES = """\
[inbound]
connect = []
helo = []
mail = ["size"]
rcpt = ["relay", "recipient", "policy_services"]
message = ["size", "loop"]
"""


class Service:
    """Says DUNNO; `asked` are the requests."""

    def __init__(self) -> None:
        asked = self.asked = list[Attributes]()

        class One(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                reader = RequestReader()
                while octets := self.request.recv(65536):
                    found: list[Attributes] = []
                    reader.feed(octets, found)
                    asked.extend(found)
                    for _ in found:
                        self.request.sendall(encode_answer("DUNNO"))

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), One)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"inet:127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


def test_policyd_and_milterd_hand_on_what_postfix_says(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner, service: Service
) -> None:
    policy, milter = free_port(), free_port()
    more = f'[[policyd]]\naddress = "inet:127.0.0.1:{policy}"\n[[milterd]]\naddress = "inet:127.0.0.1:{milter}"\n'
    files = plain() | {"stages.toml": STAGES}
    files["policy_services.toml"] = f'services = [ {{ name = "one", address = "{service.address}" }} ]\n'
    made = gateway(policies=files, more=more)
    asks = f"check_policy_service inet:127.0.0.1:{policy}"
    postfix = make_postfix(
        hostname="mail.example.com",
        relay=f"[127.0.0.1]:{inner.port}",
        relay_domains="example.com",
        smtpd_milters=f"inet:127.0.0.1:{milter}",
        smtpd_recipient_restrictions=f"reject_unauth_destination, {asks}",
    )
    with smtplib.SMTP("127.0.0.1", postfix.port, "client.example.org") as client:
        client.sendmail("a@example.org", ["user@example.com"], b"Subject: x\r\n\r\nx\r\n")
    told = [(one["server_address"], one["server_port"]) for one in service.asked]
    assert told == [("127.0.0.1", str(postfix.port))] * 2, "once by each front"
    with smtplib.SMTP("127.0.0.1", made.port, "client.example.org") as client:
        client.sendmail("a@example.org", ["user@example.com"], b"Subject: x\r\n\r\nx\r\n")
    assert (service.asked[2]["server_address"], service.asked[2]["server_port"]) == ("127.0.0.1", str(made.port))


@pytest.mark.skipif(not sendmail.available(), reason="Debian package sendmail-bin is not unpacked (make packages)")
def test_milterd_hands_on_what_sendmail_says(
    gateway: Callable[..., Gateway], inner: Inner, service: Service, tmp_path: Path
) -> None:
    """It tells no interface for loopback: what it listens on is left."""
    milter = free_port()
    files = plain() | {"stages.toml": STAGES}
    files["policy_services.toml"] = f'services = [ {{ name = "one", address = "{service.address}" }} ]\n'
    gateway(policies=files, more=f'[[milterd]]\naddress = "inet:127.0.0.1:{milter}"\n')
    mta = Sendmail(tmp_path / "sendmail", inner.port, f"Xpostgate, S=inet:{milter}@127.0.0.1, F=T, T=S:30s;R:30s").start()
    try:
        with smtplib.SMTP("127.0.0.1", mta.port, "client.example.org") as client:
            client.sendmail("a@example.org", ["user@example.com"], b"Subject: x\r\n\r\nx\r\n")
    finally:
        mta.stop()
    [one] = service.asked
    assert (one["server_address"], one["server_port"]) == ("127.0.0.1", str(mta.port))
