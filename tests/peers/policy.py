"""A policy client as Postfix is one: one connection, one request outstanding, attributes in Postfix's order."""

import socket
from types import TracebackType

from appliance.protocol.policy import Answer, AnswerReader, encode_request

#: What a Postfix 3.9 sends at RCPT, in its order.
RCPT = {
    "request": "smtpd_access_policy",
    "protocol_state": "RCPT",
    "protocol_name": "ESMTP",
    "client_address": "192.0.2.7",
    "client_name": "mail.example.org",
    "client_port": "54321",
    "reverse_client_name": "mail.example.org",
    "server_address": "192.0.2.1",
    "server_port": "25",
    "helo_name": "mail.example.org",
    "sender": "a=b@example.org",
    "recipient": "user@example.com",
    "recipient_count": "0",
    "queue_id": "",
    "instance": "1a2b.65f0.abc.0",
    "size": "12345",
    "etrn_domain": "",
    "stress": "",
    "sasl_method": "",
    "sasl_username": "",
    "sasl_sender": "",
    "ccert_subject": "",
    "ccert_issuer": "",
    "ccert_fingerprint": "",
    "ccert_pubkey_fingerprint": "",
    "encryption_protocol": "",
    "encryption_cipher": "",
    "encryption_keysize": "0",
    "policy_context": "",
    "compatibility_level": "3.9",
    "mail_version": "3.9.14",
}


class PolicyClient:
    """`where` is (host, port) or the path of a unix socket."""

    def __init__(self, where: tuple[str, int] | str, timeout: float = 30.0) -> None:
        self.sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        self.sock.settimeout(timeout)
        self.sock.connect(where)

    def ask(self, **changes: str) -> str:
        """The action for the request RCPT with these changes."""
        return self.send(encode_request(RCPT | changes))

    def send(self, octets: bytes) -> str:
        """The action; "" if the server hung up."""
        self.sock.sendall(octets)
        return self.answer()

    def answer(self) -> str:
        reader, answer = AnswerReader(), Answer("")
        while True:
            data = self.sock.recv(4096)
            if not data:
                return ""
            if (found := reader.feed(data)) is not None:
                answer = found
                break
        assert not reader.surplus and not answer.oddity
        return f"{answer.verb} {answer.text}".rstrip()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
