"""A real Postfix asks milterd about its mail: refusals, edits, quarantine, groups, and who is away."""

import smtplib
from collections.abc import Callable

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class Chain:
    """A Postfix with milterd, before an inner server."""

    def __init__(self, made: Gateway, postfix: Postfix, inner: Inner, port: int) -> None:
        self.gateway, self.postfix, self.inner, self.port = made, postfix, inner, port

    def send(self, content: bytes, *to: str, sender: str = "a@example.org") -> tuple[int, str]:
        """(code, text) of the last answer that counts."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port, "client.example.org") as client:
            try:
                refused = client.sendmail(sender, list(to) or ["user@example.com"], content)
            except smtplib.SMTPResponseException as error:
                return error.smtp_code, error.smtp_error.decode()
            except smtplib.SMTPRecipientsRefused as error:
                (code, text), *_ = error.recipients.values()
                return code, text.decode()
        return 250, " ".join(f"{address} {code}" for address, (code, _) in refused.items())


@pytest.fixture
def chain(gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner) -> Callable[..., Chain]:
    def start(policies: dict[str, str] | None = None, block: str = "", **main: str) -> Chain:
        port = free_port()
        more = f'[[milterd]]\naddress = "inet:127.0.0.1:{port}"\nworkers = 2\n{block}'
        made = gateway(policies=policies or plain(), more=more)
        postfix = make_postfix(
            hostname="mail.example.com",
            relay=f"[127.0.0.1]:{inner.port}",
            smtpd_milters=f"inet:127.0.0.1:{port}",
            relay_domains="example.com",
            **main,
        )
        return Chain(made, postfix, inner, port)

    return start


PLAIN = b"From: a@example.org\r\nTo: user@example.com\r\nSubject: hello\r\n\r\nbody\r\n"


def test_mail_passes_and_an_unknown_recipient_does_not(chain: Callable[..., Chain]) -> None:
    made = chain(plain(recipient='tables = ["inline:{ user@example.com=known }"]\ncallahead = false\n'))
    assert made.send(PLAIN, "user@example.com", "nobody@example.com") == (250, "nobody@example.com 550")
    code, text = made.send(PLAIN, "nobody@example.com")
    assert code == 550 and "5.1.1" in text
    (kept,) = made.inner.wait(1, 20)
    assert kept.recipients == ["user@example.com"] and kept.content.endswith(b"\r\nbody\r\n")
    refused = ": milter-reject: RCPT from client.example.org[127.0.0.1]: 550 5.1.1"
    wait_for(lambda: made.gateway.log().count(refused) == 2, 5, "both refusals in the log")
    made.gateway.wait_log(": passed: mta_id=")
    assert made.postfix.log().count("milter-reject: RCPT") == 2
