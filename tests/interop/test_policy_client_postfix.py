"""One policy server behind a real Postfix and behind our policy client: it hears the same, and what it says does the same
to the replies and to where the mail goes."""

import re
import smtplib
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.protocol.policy import RequestReader
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import RECIPIENTS
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer
STAGES = """\
[inbound]
connect = ["policy_services"]
helo = ["policy_services"]
mail = ["size", "policy_services"]
rcpt = ["relay", "recipient", "policy_services"]
data = ["policy_services"]
message = ["size", "loop", "policy_services"]
"""
#: Said by each MTA in its own way.
OWN = frozenset({"client_name", "reverse_client_name", "client_port", "server_port", "instance", "queue_id"})
OWN |= {"mail_version", "compatibility_level"}
#: What the server says: at which state (at RCPT to whom), in this order.
Plan = dict[str, str]
ANSWERS: dict[str, Plan] = {
    "redirect overrides filter": {"MAIL": "REDIRECT trap@example.com", "DATA": "FILTER smtp:[127.0.0.1]:{filter}"},
    "filter": {"RCPT a": "FILTER smtp:[127.0.0.1]:{filter}"},
    "the last filter counts": {"MAIL": "FILTER smtp:[127.0.0.1]:9", "DATA": "FILTER smtp:[127.0.0.1]:{filter}"},
    "the last redirection counts": {"RCPT a": "REDIRECT x@example.com", "END-OF-MESSAGE": "REDIRECT trap@example.com"},
    "a copy": {"RCPT b": "BCC copy@example.com"},
    "a copy for who gets it anyway": {"DATA": "BCC a@example.com"},
    "fields": {"MAIL": "PREPEND X-A: one", "RCPT b": "PREPEND X-A: two", "DATA": "PREPEND X-A: three"},
    "thrown away": {"DATA": "DISCARD gone"},
    "put off before it is thrown away": {"MAIL": "DEFER_IF_PERMIT later", "RCPT a": "DISCARD gone"},
    "put off at the greeting": {"EHLO": "DEFER_IF_PERMIT later", "RCPT a": "DISCARD gone"},
    "thrown away before it would be put off": {"MAIL": "DISCARD gone", "RCPT a": "DEFER_IF_PERMIT later"},
    "held": {"RCPT b": "HOLD look"},
    "one is refused": {"RCPT a": "550 5.7.1 not you"},
    "one is put off": {"RCPT b": "DEFER_IF_PERMIT later"},
    "a refusal becomes a deferral": {"RCPT a": "DEFER_IF_REJECT later", "END-OF-MESSAGE": "REJECT no"},
    "at DATA": {"DATA": "451 4.7.1 not now"},
    "at the end": {"RCPT a": "HOLD look", "END-OF-MESSAGE": "554 5.7.1 no"},
    "a restriction": {"RCPT a": "reject_multi_recipient_bounce", "RCPT b": "reject_multi_recipient_bounce"},
    "what lacks its argument is not done": {
        "MAIL": "PREPEND bad",
        "RCPT a": "REDIRECT nobody",
        "RCPT b": "BCC",
        "DATA": "FILTER x",
    },
    "it goes on behind a warning": {"RCPT a": "warn_if_reject reject", "RCPT b": "WARN look"},
}


class Server:
    """Answers by its plan, keeps what it hears."""

    def __init__(self) -> None:
        self.plan: Plan = {}
        self.heard: list[dict[str, str]] = []
        server = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                reader = RequestReader()
                while data := self.request.recv(65536):
                    found: list[dict[str, str]] = []
                    reader.feed(data, found)
                    for request in found:
                        self.request.sendall(f"action={server.answer(request)}\n\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: dict[str, str]) -> str:
        self.heard.append(request)
        state = request["protocol_state"]
        whom = f" {request['recipient'].partition('@')[0]}" if state == "RCPT" else ""
        return self.plan.get(state + whom, "DUNNO")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Pair:
    """Ours and theirs, with an inner server each and a filter for both."""

    def __init__(self, server: Server, inners: tuple[Inner, Inner], mtas: tuple[Gateway, Postfix], sink: Inner) -> None:
        self.server, self.inners, self.sink = server, inners, sink
        self.gateway, self.ports = mtas[0], tuple(mta.port for mta in mtas)

    def both(self, talk: Callable[[smtplib.SMTP], Any]) -> list[tuple[Any, list[dict[str, str]]]]:
        """What came of it, and what the server heard, of each."""
        found = []
        for port in self.ports:
            self.server.heard.clear()
            with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example.org", timeout=30) as smtp:
                found.append((talk(smtp), list(self.server.heard)))
        return found


@pytest.fixture
def pair(gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner) -> Iterator[Pair]:
    server, theirs, sink = Server(), Inner().start(), Inner().start()
    entry = f'{{ name = "one", address = "inet:127.0.0.1:{server.port}", context = "in", stages = ["connect", "helo", '
    files = {
        "stages.toml": STAGES,
        "recipient.toml": RECIPIENTS,
        "recipients": "@example.com known\n",
        "policy_services.toml": f'services = [{entry}"mail", "rcpt", "data", "message"] }}]\n',
    }
    ours = gateway(policies=files, workers=1)
    asked = f"check_policy_service {{ inet:127.0.0.1:{server.port}, policy_context=in }}"
    lists = {f"smtpd_{at}_restrictions": asked for at in ("client", "helo", "sender", "recipient", "data", "end_of_data")}
    real = make_postfix(
        relay=f"[127.0.0.1]:{theirs.port}",
        relay_domains="example.com",
        smtpd_delay_reject="no",
        smtpd_relay_restrictions="reject_unauth_destination",
        **lists,
    )
    yield Pair(server, (inner, theirs), (ours, real), sink)
    for one in (server.close, theirs.stop, sink.stop):
        one()


MAIL = b"From: s@example.org\r\nSubject: x\r\n\r\nhello\r\n"


def commands(*lines: str) -> Callable[[smtplib.SMTP], list[int]]:
    """The codes of the answers; "." is a message."""

    def talk(smtp: smtplib.SMTP) -> list[int]:
        codes = []
        for line in lines:
            smtp.send(MAIL + b".\r\n") if line == "." else smtp.putcmd(line)
            codes.append(smtp.getreply()[0])
        return codes

    return talk


A, B, S = "RCPT TO:<a@example.com>", 'RCPT TO:<"b c"@example.com>', "MAIL FROM:<s=1@example.org> SIZE=1000 BODY=8BITMIME"


@pytest.mark.parametrize(
    "lines",
    [
        ("EHLO c.example", S, A, "DATA", "."),
        ("HELO c.example", "MAIL FROM:<>", A, B, "DATA", "."),
        ("EHLO [192.0.2.7]", "MAIL FROM:<s@example.org>", A, "RSET", S, B, A, "DATA", "."),
        ("EHLO c.example", "MAIL FROM:<sü@example.org> SMTPUTF8", "RCPT TO:<aä@example.com>", "DATA", "."),
    ],
)
def test_it_hears_what_a_postfix_says(pair: Pair, lines: tuple[str, ...]) -> None:
    def talk(smtp: smtplib.SMTP) -> list[int]:
        smtp.command_encoding = "utf-8"
        return commands(*lines)(smtp)

    (codes, ours), (expected, theirs) = pair.both(talk)
    assert codes == expected and codes[-1] == 250
    assert [one["protocol_state"] for one in ours] == [one["protocol_state"] for one in theirs]
    for said, wanted in zip(ours, theirs, strict=True):
        for name in wanted.keys() - OWN:
            if name == "protocol_name" and said["protocol_state"] in ("EHLO", "HELO"):
                continue  # a Postfix that judges the greeting has not taken it yet
            assert said[name] == wanted[name], (said["protocol_state"], name)
        if said["protocol_state"] != "MAIL":  # we have one there already
            assert [bool(one["instance"]) for one in (said, wanted)] in ([True] * 2, [False] * 2)
        assert [bool(one["queue_id"]) for one in (said, wanted)] in ([True] * 2, [False] * 2)


def test_what_it_says_is_done_as_by_a_postfix(pair: Pair) -> None:
    number = 0

    def talk(smtp: smtplib.SMTP) -> list[int]:
        smtp.ehlo()
        codes = [smtp.mail("s@example.org")[0], *(smtp.rcpt(f"{one}@example.com")[0] for one in "ab")]
        codes.append(smtp.docmd("DATA")[0])
        if codes[-1] == 354:
            smtp.send(b"X-N: %d\r\n" % number + MAIL + b".\r\n")
            codes.append(smtp.getreply()[0])
        return codes

    expected: dict[int, tuple[list[int], list[int]]] = {}
    for number, plan in enumerate(ANSWERS.values(), 1):
        pair.server.plan = {at: text.format(filter=pair.sink.port) for at, text in plan.items()}
        (ours, _), (theirs, _) = pair.both(talk)
        expected[number] = ours, theirs
    assert [ours for ours, _ in expected.values()] == [theirs for _, theirs in expected.values()]
    taken = [number for number, (codes, _) in expected.items() if codes[-1] == 250]
    kept = [number for number, plan in enumerate(ANSWERS.values(), 1) if re.search("DISCARD|HOLD", str(plan))]
    wait_for(
        lambda: all(len(went(pair, n)[which]) > 0 for n in set(taken) - set(kept) for which in (0, 1)), 30, "the mail"
    )
    for number, name in enumerate(ANSWERS, 1):
        ours, theirs = went(pair, number)
        assert ours == theirs, name
        assert bool(ours) == (number in taken and number not in kept), name
    for wrong in ("REDIRECT nobody: redirect needs an address", "FILTER x: filter needs transport:destination"):
        line = f"warn: policy_services:warn one: {wrong}, not done"
        pair.gateway.wait_log(line)
        assert pair.gateway.log().count(line) == 1


def went(pair: Pair, number: int) -> tuple[list[Any], list[Any]]:
    """Where the mail of a case went by us and by Postfix: the server, its recipients, the fields that were added."""
    found: tuple[list[Any], list[Any]] = [], []
    for where, server in (("inner", pair.inners[0]), ("inner", pair.inners[1]), ("filter", pair.sink)):
        for one in list(server.messages):
            if b"X-N: %d\r\n" % number not in one.content:
                continue
            which = 0 if b"by mx.example.com" in one.content else 1
            fields = re.findall(rb"^X-A: (\w+)", one.content, re.M)
            found[which].append((where, sorted(one.recipients), fields))
    return found
