"""Real content filters before the queue: the recipe of docs/hooks.md with amavisd as it stands there, clamsmtp, spampd,
and Postfix as the filter's host; infected mail is refused to the client in its session."""

import shutil
import smtplib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.senders import talk
from tests.interop.test_hooks_policy import recipe
from tests.interop.test_hooks_scanners import written
from tests.interop.test_real_scanners import HAM
from tests.peers import amavis
from tests.peers.amavis import Amavis
from tests.peers.clamd import Clamd, eicar_mail
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix
from tests.peers.proxy_filters import ClamSmtp, Spampd
from tests.peers.spamd import GTUBE
from tests.running.talking import queue_id
from tests.running.test_running_filters import wiring
from tests.running.test_running_proxy import proxied_door

pytestmark = pytest.mark.peer


def empty(made: Gateway) -> bool:
    return not made.cli("queue", "list", "--json").stdout.strip()


def test_amavisd_before_the_queue(tmp_path: Path, inner: Inner, av: Clamd) -> None:
    if not amavis.available():
        pytest.skip("Debian package amavisd-new is not installed, or we are not root")
    root, back = Path(tempfile.mkdtemp(dir="/tmp", prefix="pg-am")), free_port()
    lines = recipe("before-queue-amavisd").replace("10025", str(back))
    assert "10024" in lines
    judge = Amavis(root / "amavis", av, lines.replace("$inet_socket_port = 10024;\n", ""))
    changes = {"10024": str(judge.port), "10025": str(back)}
    made = written(tmp_path, inner, "before-queue", changes)
    try:
        kind, reply = talk(made.port, HAM, "bob@example.com")
        assert kind == "accepted", (reply, made.tail())
        [ham] = inner.wait(1)
        first = queue_id(reply)
        assert b"X-Virus-Scanned: " in ham.content and ham.content.count(b"(Postgate) with ") == 2
        made.wait_log(f", orig_queue_id={first}, orig_client=client.example.org[127.0.0.1]")
        made.wait_log(
            f"{first}: proxy-accept: END-OF-MESSAGE from client.example.org[127.0.0.1]: amavis said: 250 2.0.0 "
        )
        kind, reply = talk(made.port, eicar_mail(), "bob@example.com")
        assert kind == "refused" and reply.startswith("554 5.7.0 Message refused ["), (reply, made.tail())
        assert "eicar" not in reply.lower() and "amavis" not in reply.lower()
        made.wait_log("INFECTED: Eicar-Test-Signature")
        told = f"proxy filters: amavis address inet:127.0.0.1:{judge.port}"
        wait_for(lambda: told in made.cli("status", check=False).stdout, 20, "the filter in status")
        wait_for(lambda: "All is well." in made.cli("status", check=False).stdout, 20, "the gateway is well")
        judge.stop()
        assert talk(made.port, HAM, "bob@example.com")[1].startswith("451 4.3.0 ")
        wait_for(lambda: any("proxy filter amavis fails" in why for why in made.status()["degraded"]), 10, "status")
        wait_for(lambda: empty(made), 10, "an empty queue")
        assert len(inner.messages) == 1
    finally:
        made.stop()
        judge.stop()
        shutil.rmtree(root, ignore_errors=True)


def before(gateway: Callable[..., Gateway], back: int, port: int) -> tuple[Gateway, int]:
    door = free_port()
    more = wiring(back, proxied_door(door, f"127.0.0.1:{port}"))
    return gateway(policies=plain(), more=more, workers=1), door


def test_clamsmtp_before_the_queue(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner, av: Clamd) -> None:
    """It speaks with the listener behind it from the first command on, and hands its answers through."""
    if not ClamSmtp.available():
        pytest.skip("Debian package clamsmtp is not installed")
    back = free_port()
    scanner = ClamSmtp(tmp_path / "clamsmtp", back, av, "bounce")
    made, door = before(gateway, back, scanner.port)
    try:
        kind, reply = talk(door, HAM, "bob@example.com")
        assert kind == "accepted", (reply, scanner.process.output())
        [ham] = inner.wait(1)
        assert b"X-AV-Checked: by clamsmtp" in ham.content
        made.wait_log(f", orig_queue_id={queue_id(reply)}, orig_client=client.example.org[127.0.0.1]")
        kind, reply = talk(door, eicar_mail(), "bob@example.com")
        assert kind == "refused" and reply.startswith("5") and "eicar" not in reply.lower(), (reply, made.tail())
        inner.refuse = {"nobody@example.com": "550 5.1.1 gone"}
        av.stop()
        assert talk(door, HAM, "bob@example.com")[1].startswith("451 "), made.tail()
        assert len(inner.messages) == 1
    finally:
        scanner.stop()


def test_spampd_before_the_queue(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner) -> None:
    if not Spampd.available():
        pytest.skip("Debian package spampd is not installed")
    back = free_port()
    judge = Spampd(tmp_path / "spampd", back)
    made, door = before(gateway, back, judge.port)
    try:
        kind, reply = talk(door, HAM, "bob@example.com")
        assert kind == "accepted", (reply, made.tail())
        made.wait_log(f", orig_queue_id={queue_id(reply)}, orig_client=client.example.org[127.0.0.1]")
        assert b"X-Spam-Status: No" in inner.wait(1)[0].content
        assert talk(door, HAM.replace(b"Dear Bob,", GTUBE), "bob@example.com")[0] == "accepted", made.tail()
        assert b"X-Spam-Flag: YES" in inner.wait(2)[1].content
    finally:
        judge.stop()


def test_postfix_as_the_filter(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner
) -> None:
    """A Postfix that takes mail before the queue, refuses by its own checks, and relays what it took to the way back."""
    back = free_port()
    outer = make_postfix(
        relay=f"[127.0.0.1]:{back}",
        relay_domains="example.com",
        smtpd_authorized_xforward_hosts="127.0.0.0/8",
        smtp_send_xforward_command="yes",
        smtpd_recipient_restrictions="check_recipient_access inline:{refused@example.com=REJECT}, permit_mynetworks",
        header_checks="regexp:{{/^Subject: bad/ REJECT bad subject}}",
    )
    made, door = before(gateway, back, outer.port)
    with smtplib.SMTP("127.0.0.1", door, local_hostname="client.example.org", timeout=30) as client:
        refused = client.sendmail("a@example.org", ["bob@example.com", "refused@example.com"], HAM)
        assert refused == {}
    [kept] = inner.wait(1)
    assert kept.recipients == ["bob@example.com"] and b"by mx.example.com (Postgate)" in kept.content
    made.wait_log("refused by the filter, accepted for other recipients: 554 5.7.1 <refused@example.com>")
    made.wait_log(", orig_client=client.example.org[127.0.0.1]")
    assert talk(door, HAM, "refused@example.com")[1].startswith("554 5.7.1 Message refused [")
    assert talk(door, HAM.replace(b"Subject: ", b"Subject: bad "), "bob@example.com")[1].startswith(
        "550 5.7.1 Message ref"
    )
    assert len(inner.messages) == 1
