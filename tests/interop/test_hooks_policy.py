"""The recipes of docs/hooks.md about policy servers, as they stand there, with other ports and folders."""

import re
import smtplib
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from tests.interop.test_policy_services import OFF, ZONE, Postgrey, policies, postgrey, rcpt
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policy import PolicyClient
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer
PAGE = Path(__file__).resolve().parents[2] / "docs" / "hooks.md"
__all__ = ["postgrey"]


def recipe(name: str) -> str:
    """The block called so."""
    (found,) = re.findall(rf"^```[a-z]+ {name}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def _comes_back(port: int) -> bool:
    """The stranger tries again; whether it was taken."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example.org") as client:
        client.ehlo()
        client.mail("friend@example.org")
        if client.rcpt("user@example.com")[0] != 250:
            return False
        return client.data(b"From: friend@example.org\r\nSubject: hello\r\n\r\nhello\r\n")[0] == 250


def test_postfix_and_postgate_as_policy_server(
    make_postfix: Callable[..., Postfix], inner: Inner, tmp_path: Path
) -> None:
    port, front = free_port(), free_port()
    wiring = recipe("policy-server").replace("127.0.0.1:2525", f"127.0.0.1:{port}").replace("10040", str(front))
    wiring = wiring.replace("/var/lib/postgate", "state").replace("[gateway]\n", '[gateway]\ndrop = "off"\n')
    made = Gateway(Path(tempfile.mkdtemp(dir=tmp_path)), inner.port)
    made.port = port
    made.config.write_text(wiring + '[dns]\nnameservers = ["127.0.0.1:9"]\nzone = "zone"\n')
    (made.root / "policies" / "recipient.toml").write_text(recipe("policy-server-recipient"))
    (made.root / "policies" / "greylist.toml").write_text('when = "always"\ndelay = "1s"\n')
    checked = made.cli("check")
    assert checked.returncode == 0 and "warning" not in checked.stdout
    made.start()
    try:
        printed = made.cli("postfix-config").stdout
        lines = recipe("policy-server-postfix").replace("10040", str(front))
        assert lines in printed, "the page shows what the command prints"
        found = re.findall(r"^(\w+) =\n((?:    .*\n)+)", printed, re.MULTILINE)
        settings = {name: re.sub(r"\s+", " ", value.strip()) for name, value in found}
        # Loopback is the stranger here.
        before = settings["smtpd_recipient_restrictions"].replace("permit_mynetworks, ", "")
        settings["smtpd_recipient_restrictions"] = before
        assert settings["smtpd_data_restrictions"].count("check_policy_service") == 3, "as the page says"
        outer = make_postfix(
            relay=f"[127.0.0.1]:{inner.port}",
            mynetworks="192.0.2.0/24",
            relay_domains="example.com",
            relay_recipient_maps="inline:{ user@example.com=ok }",
            smtpd_peername_lookup="no",
            soft_bounce="no",
            **settings,
        )
        with smtplib.SMTP("127.0.0.1", outer.port, local_hostname="client.example.org") as client:
            client.ehlo()
            client.mail("friend@example.org")
            code, text = client.rcpt("nobody@example.com")
            assert code == 550 and b"User unknown in relay recipient table" in text
            code, text = client.rcpt("user@example.com")
            assert code == 450 and b"Greylisted" in text
        wait_for(lambda: _comes_back(outer.port), 20, "the mail past the greylist")
        (kept,) = inner.wait(1)
        assert kept.recipients == ["user@example.com"]
        assert kept.content.count(b"Authentication-Results: mx.example.com;") == 1
        with PolicyClient(("127.0.0.1", front)) as asked:
            assert asked.ask(recipient="user@example.org", instance="x").startswith("550 5.7.1 Relaying denied")
    finally:
        made.stop()


class Ours(socketserver.StreamRequestHandler):
    """A policy server of one's own, in ten lines."""

    connections: ClassVar[list[socket.socket]] = []

    def handle(self) -> None:
        self.connections.append(self.request)
        seen: dict[str, str] = {}
        for line in self.rfile:
            name, equals, value = line.decode().rstrip("\n").partition("=")
            if equals:
                seen[name] = value
                continue
            bad = seen["sender"].startswith("bad@")
            self.wfile.write(b"action=REJECT bad sender\n\n" if bad else b"action=DUNNO\n\n")
            self.wfile.flush()
            seen = {}


def test_a_policy_server_behind_postgate(
    gateway: Callable[..., Gateway], postgrey: Postgrey, inner: Inner, tmp_path: Path
) -> None:
    second = free_port()
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.daemon_threads = True
    services = recipe("policy-services").replace("10023", str(postgrey.port))
    services = services.replace("10031", str(free_port())).replace("10032", str(second))
    files = policies("") | {"policy_services.toml": services, "greylist.toml": OFF}
    with socketserver.ThreadingTCPServer(("127.0.0.1", second), Ours) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = gateway(policies=files, zone=ZONE)
        ((code, text),) = rcpt(made.port, "friend@example.org", "user@example.com")
        assert code == 450 and "Greylisted" in text
        ((code, text),) = rcpt(made.port, "bad@example.org", "user@example.com")
        assert code == 554 and "bad sender" in text, "the second address of the second service"

        def passed() -> bool:
            return rcpt(made.port, "friend@example.org", "user@example.com", data=True)[-1][0] == 250

        wait_for(passed, 20, "the second attempt")
        postgrey.kill()
        ((code, _),) = rcpt(made.port, "other@example.org", "user@example.com")
        assert code == 250, "postgrey may be away"
        server.shutdown()
        for connection in Ours.connections:
            connection.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: rcpt(made.port, "new@example.org", "user@example.com")[0][0] == 451, 20, "our own server may not")
    wait_for(lambda: any("policy service ours" in text for text in made.status()["degraded"]), 10, "status")
