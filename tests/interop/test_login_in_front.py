"""Who has logged in at a real Postfix in front: the milters and policy services behind our fronts hear of it, a signing
milter signs for it, and answers of policy services that permit or refuse logins hold as they do with Postfix itself."""

import re
import smtplib
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.mail import restrictions
from appliance.mail.login import Login
from tests.checks.test_check_policy_services import context
from tests.checks.test_restrictions import sent_by
from tests.interop.test_milterd_postfix import mail
from tests.interop.test_milters_gateway import entry, policies
from tests.interop.test_milters_real import needs
from tests.interop.test_policy_services import STAGE
from tests.peers import sendmail
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.milters import OpenDkim
from tests.peers.played import Played
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer
#: A client of these may say who has logged in: no password is needed to try what follows from a login.
XCLIENT = {"smtpd_authorized_xclient_hosts": "127.0.0.0/8", "smtpd_sasl_auth_enable": "yes"}
PASSED = (250, "")
BOTH = 'roles = ["inbound", "outbound"]'
LOGINS = ("permit_sasl_authenticated", *sorted(restrictions.LOGINS))


#: So that a restriction that permits is seen to: what stands behind it refuses.
NEXT = dict.fromkeys(LOGINS, "") | {"permit_sasl_authenticated": ",reject"}
PERMITTED = dict.fromkeys(LOGINS, ("dunno", "")) | {"permit_sasl_authenticated": ("ok", "")}


def without_name(text: str) -> str:
    """Postfix names what it refuses."""
    start, _, rest = text.partition("<")
    return start + rest.partition(">: ")[2]


def send(port: int, login: str = "", subject: str = "hello", sender: str = "a@example.com") -> tuple[int, str]:
    """The last reply, to one who has logged in at Postfix."""
    with smtplib.SMTP("127.0.0.1", port, "client.example.org", timeout=30) as client:
        client.ehlo()
        known = f" LOGIN={login}" if login else ""
        assert client.docmd(f"XCLIENT ADDR=192.0.2.7 NAME=client.example.org{known}")[0] == 220
        client.ehlo()
        for line in (f"MAIL FROM:<{sender}>", "RCPT TO:<user@example.com>"):
            code, text = client.docmd(line)
            if code != 250:
                return code, text.decode()
        code, text = client.data(mail(subject).replace(b"a@example.org", b"a@example.com"))
        return code, "" if code == 250 else text.decode()


def by_milterd(port: int) -> str:
    return f'[[milterd]]\naddress = "inet:127.0.0.1:{port}"\nworkers = 1\n'


def test_milters_behind_milterd_hear_of_the_login_and_the_id(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner, played: Played
) -> None:
    port = free_port()
    one = played.milter(macros=b"\0\0\0\2i {auth_authen} {auth_type} {auth_author}\0")
    gateway(policies=policies(entry("one", one, BOTH)), more=by_milterd(port))
    relay = {"relay": f"[127.0.0.1]:{inner.port}", "relay_domains": "example.com"}
    postfix = make_postfix(hostname="mail.example.com", smtpd_milters=f"inet:127.0.0.1:{port}", **relay, **XCLIENT)
    assert [send(postfix.port, login) for login in ("", "anna")] == [PASSED, PASSED]
    postfix.wait_log(": client=client.example.org[192.0.2.7]", 2)
    ids = re.findall(r"([0-9A-F]+): client=client\.example\.org\[192\.0\.2\.7\]", postfix.log())
    assert len(ids) == 2
    told = [one.macros(b"M", connection) for connection in (-2, -1)]
    assert "{auth_authen}" not in told[0]
    assert told[1] == {"{auth_authen}": "anna", "{auth_type}": "XCLIENT"}, "the id comes later, as with Postfix"
    assert [one.macros(b"E", connection)["i"] for connection in (-2, -1)] == ids


@pytest.mark.skipif(not sendmail.available(), reason="Debian package sendmail-bin is not unpacked (make packages)")
def test_milters_behind_milterd_hear_sendmails_id_from_mail_on(
    gateway: Callable[..., Gateway], inner: Inner, played: Played, tmp_path: Path
) -> None:
    one, port = played.milter(), free_port()
    gateway(policies=policies(entry("one", one)), more=by_milterd(port))
    asking = f"Xpostgate, S=inet:{port}@127.0.0.1, F=T, T=C:10s;S:30s;R:30s;E:5m"
    mta = sendmail.Sendmail(tmp_path / "sendmail", inner.port, asking).start()
    try:
        with smtplib.SMTP("127.0.0.1", mta.port, "client.example.org") as client:
            client.ehlo()
            assert client.mail("a@example.org")[0] == 250 and client.rcpt("user@example.com")[0] == 250
            code, text = client.data(mail("hello"))
        (known,) = re.findall(r"2\.0\.0 (\w+) Message accepted", text.decode())
        assert code == 250 and [one.macros(step)["i"] for step in (b"M", b"E")] == [known, known]
    finally:
        mta.stop()


@needs("opendkim", "opendkim-genkey")
def test_opendkim_behind_milterd_signs_for_whoever_has_logged_in(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner, tmp_path: Path
) -> None:
    """Its own rule: a client is one of ours if the MTA says that it has logged in."""
    signer, port = OpenDkim(tmp_path / "sign", "s"), free_port()
    signer.start()
    try:
        listed = policies(f'name = "sign", address = "{signer.address}", {BOTH}')
        gateway(policies=listed, more=by_milterd(port))
        relay = {"relay": f"[127.0.0.1]:{inner.port}", "relay_domains": "example.com"}
        postfix = make_postfix(hostname="mail.example.com", smtpd_milters=f"inet:127.0.0.1:{port}", **relay, **XCLIENT)
        for number, login in enumerate(("", "anna")):
            assert send(postfix.port, login) == PASSED
            assert (b"DKIM-Signature:" in inner.wait(number + 1, 20)[-1].content) == bool(login)
    finally:
        signer.stop()


class Service:
    """A policy service that keeps what it is asked, and answers all with `says`."""

    def __init__(self, says: str) -> None:
        asked: list[dict[str, str]] = []
        self.asked = asked

        class One(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                known: dict[str, str] = {}
                for line in self.rfile:
                    name, _, value = line.decode().rstrip("\n").partition("=")
                    if name:
                        known[name] = value
                        continue
                    asked.append(known)
                    known = {}
                    self.wfile.write(f"action={says}\n\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), One)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.parametrize("kind", ["milterd", "policyd"])
def test_a_policy_service_hears_of_the_login_and_may_permit_by_it(
    kind: str, gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner
) -> None:
    service, port = Service("permit_sasl_authenticated, reject"), free_port()
    try:
        listed = f'services = [\n{{ name = "one", address = "inet:127.0.0.1:{service.port}", {BOTH} }},\n]\n'
        front = f'[[{kind}]]\naddress = "inet:127.0.0.1:{port}"\nworkers = 1\n'
        gateway(policies=plain(rcpt=STAGE, policy_services=listed), more=front)
        asked = {"smtpd_milters": f"inet:127.0.0.1:{port}"}
        if kind == "policyd":
            asked = {"smtpd_recipient_restrictions": f"check_policy_service inet:127.0.0.1:{port}, permit"}
        relay = {"relay": f"[127.0.0.1]:{inner.port}", "relay_domains": "example.com"}
        postfix = make_postfix(hostname="mail.example.com", **asked, **relay, **XCLIENT)
        assert send(postfix.port)[0] == 554
        assert send(postfix.port, "anna") == PASSED
        known = [(one["sasl_username"], one["sasl_method"]) for one in service.asked]
        assert known == [("", ""), ("anna", "XCLIENT")]
    finally:
        service.close()


def test_login_restrictions_are_those_of_a_postfix_without_a_list_of_senders(
    make_postfix: Callable[..., Postfix], inner: Inner
) -> None:
    ports = {name: free_port() for name in LOGINS}
    services = "".join(
        f"127.0.0.1:{port} inet n - n - - smtpd\n -o smtpd_sender_restrictions={name}{NEXT[name]}\n"
        for name, port in ports.items()
    )
    make_postfix(services=services, relay=f"[127.0.0.1]:{inner.port}", relay_domains="example.com", **XCLIENT)
    for name, port in ports.items():
        for sender in ("a@example.com", ""):
            found = restrictions.evaluate(name, context(login=Login("anna"), sender=sent_by(sender)), True)
            assert found is not None
            code, text = send(port, "anna", sender=sender)
            assert found == (PERMITTED[name] if code == 250 else ("reject", f"{code} {without_name(text)}")), name
