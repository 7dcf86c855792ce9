"""The recipes of docs/hooks.md about content filters behind the queue and in Python, as they stand there, with other
ports and folders; LMTP filters, and DSN and SMTPUTF8 through a filter."""

import shutil
import smtplib
import tempfile
import tomllib
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.faults.senders import talk
from tests.interop.test_hooks_policy import recipe
from tests.interop.test_hooks_scanners import written
from tests.interop.test_real_scanners import HAM
from tests.peers import amavis
from tests.peers.amavis import Amavis
from tests.peers.clamd import Clamd, eicar_mail
from tests.peers.content_filter import MARK, ContentFilter, LmtpFilter
from tests.peers.gateway import ROOT, ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import Postfix
from tests.peers.process import reachable
from tests.running.talking import queue_id, sent, trusted_door
from tests.running.test_running_filters import filtered_door, waiting, wiring
from tests.running.test_running_spf import STAGES

pytestmark = pytest.mark.peer


# ---------------------------------------------------------------------- behind the queue


def test_amavisd_behind_the_queue(tmp_path: Path, inner: Inner, av: Clamd) -> None:
    if not amavis.available():
        pytest.skip("Debian package amavisd-new is not installed, or we are not root")
    root, back = Path(tempfile.mkdtemp(dir="/tmp", prefix="pg-am")), free_port()
    lines = recipe("behind-queue-amavisd").replace("10026", str(back))
    assert "$inet_socket_port = 10024;\n" in lines
    judge = Amavis(root / "amavis", av, lines.replace("$inet_socket_port = 10024;\n", ""))
    made = written(tmp_path, inner, "behind-queue", {"10024": str(judge.port), "10026": str(back)})
    try:
        kind, reply = talk(made.port, HAM, "bob@example.com")
        assert kind == "accepted"
        first = queue_id(reply)
        [ham] = inner.wait(1)
        assert b"X-Virus-Scanned: " in ham.content and ham.content.count(b"(Postgate) with ") == 2
        # The client as Postgate saw it, and our queue id, came back with the mail: XFORWARD both ways.
        made.wait_log(f", orig_queue_id={first}, orig_client=client.example.org[127.0.0.1]")
        log = root / "amavis" / "home" / "amavis.log"
        wait_for(lambda: "Passed CLEAN" in log.read_text(), 10, "amavisd's word")
        assert "[127.0.0.1] <sender@example.org>" in log.read_text()
        made.wait_log(f"{first}: removed")

        kind, reply = talk(made.port, eicar_mail(), "bob@example.com")
        assert kind == "accepted"
        sick = queue_id(reply)
        made.wait_log(f"{sick}: to=<bob@example.com>")
        made.wait_log("INFECTED: Eicar-Test-Signature")
        made.wait_log(f"warning: {sick}: to hold: undeliverable, and no notice may be sent because the sender is")

        judge.stop()
        later = queue_id(talk(made.port, HAM, "bob@example.com")[1])
        wait_for(lambda: any(later in why for why in made.status()["degraded"]), 20, "the queue id in degraded")
        assert "Connection refused" in waiting(made)[later]
        assert len(inner.messages) == 1
    finally:
        made.stop()
        judge.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("refused", [False, True])
def test_a_filter_that_speaks_lmtp(gateway: Callable[..., Gateway], inner: Inner, refused: bool) -> None:
    back, door = free_port(), free_port()
    scan = LmtpFilter(back, refuse="no@example.com" if refused else "").start()
    named = f'[filters.scan]\nnext_hop = "lmtp:[127.0.0.1]:{scan.port}"\n'
    made = gateway(policies=plain(), more=wiring(back, filtered_door(door, "scan:") + named), workers=1)
    first = queue_id(sent(door, "yes@example.com", "no@example.com"))
    [kept] = inner.wait(1)
    assert MARK in kept.content and "yes@example.com" in kept.recipients
    made.wait_log(f", orig_queue_id={first}, ")
    made.wait_log(f"{first}: to=<yes@example.com>, relay=127.0.0.1[127.0.0.1]:{scan.port}")
    if refused:
        made.wait_log("550 5.7.1 not this one")
        assert kept.recipients == ["yes@example.com"]
        made.wait_log(f"{first}: to hold: undeliverable")
    else:
        assert sorted(kept.recipients) == ["no@example.com", "yes@example.com"]
        made.wait_log(f"{first}: removed")
    scan.stop()


@pytest.fixture
def through_postfix(
    gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner
) -> tuple[Gateway, int]:
    """A gateway whose filter is a Postfix, which offers all that there is: DSN, SMTPUTF8, XFORWARD."""
    back, trusted = free_port(), free_port()
    outer = make_postfix(
        relay=f"[127.0.0.1]:{back}",
        relay_domains="example.com, example.org",
        smtpd_authorized_xforward_hosts="127.0.0.0/8",
        smtp_send_xforward_command="yes",
        smtputf8_enable="yes",
    )
    zone = ZONE + 'good.example TXT "v=spf1 ip4:192.0.2.1 -all"\n. SOA ns. host. 1 2 3 4 60\n'
    more = wiring(back, trusted_door(trusted) + f'content_filter = "smtp:[127.0.0.1]:{outer.port}"\n')
    more += f'[relay.routes]\n"good.example" = "smtp:[127.0.0.1]:{inner.port}"\n'
    made = gateway(
        policies=plain() | {"stages.toml": STAGES.replace('["spf"]', '["identity", "spf"]')},
        zone=zone,
        more=more,
        workers=1,
    )
    return made, trusted


def say(smtp: smtplib.SMTP, line: str, code: int = 250) -> None:
    got = smtp.docmd(line)
    assert got[0] == code, (line, got)


def submit(port: int, mail: str, rcpt: str, body: bytes) -> str:
    """As a client whom SPF proves; the queue id."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        smtp.ehlo("test.example")
        say(smtp, "XCLIENT ADDR=192.0.2.1 NAME=out.good.example REVERSE_NAME=out.good.example", 220)
        smtp.ehlo("out.good.example")
        say(smtp, f"MAIL FROM:{mail}")
        say(smtp, f"RCPT TO:{rcpt}")
        say(smtp, "DATA", 354)
        smtp.send(body + b".\r\n")
        return smtp.getreply()[1].decode().rpartition(" ")[2]


def test_dsn_passes_through_a_filter(through_postfix: tuple[Gateway, int], inner: Inner) -> None:
    """A failure behind the filter: ORCPT, ENVID, RET=HDRS and NOTIFY as the sender wrote them, and one notice."""
    made, port = through_postfix
    inner.refuse = {"gone@example.com": "550 5.1.1 gone"}
    mail = "<ann@good.example> RET=HDRS ENVID=QQ314"
    first = submit(port, mail, "<gone@example.com> NOTIFY=FAILURE ORCPT=rfc822;old+2B@example.com", HAM)
    made.wait_log(f", orig_queue_id={first}, orig_client=out.good.example[192.0.2.1]")
    [notice] = inner.wait(1)
    assert notice.recipients == ["ann@good.example"] and notice.sender == ""
    text = notice.content.decode()
    assert "Original-Envelope-Id: QQ314" in text and "Original-Recipient: rfc822; old+@example.com" in text
    assert "Final-Recipient: rfc822; gone@example.com" in text
    parts = message_from_bytes(notice.content).get_payload()
    assert [part.get_content_type() for part in parts][-1] == "text/rfc822-headers"  # type: ignore[union-attr]

    never = submit(port, mail, "<gone@example.com> NOTIFY=NEVER", HAM)
    made.wait_log(f", orig_queue_id={never}, ")
    good = submit(port, mail, "<bob@example.com>", HAM)
    made.wait_log(f", orig_queue_id={good}, ")
    inner.wait(2)
    wait_for(lambda: not made.cli("queue", "list", "--json").stdout.strip(), 20, "an empty queue")
    assert [kept.recipients for kept in inner.messages] == [["ann@good.example"], ["bob@example.com"]]
    assert made.log().count("sender non-delivery notification") == 1 and "to hold" not in made.log()


def test_smtputf8_passes_through_a_filter(through_postfix: tuple[Gateway, int], inner: Inner) -> None:
    made, port = through_postfix
    wait_for(lambda: offers_utf8(port), 20, "SMTPUTF8 to be offered")
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        smtp.ehlo("out.good.example")
        body = HAM.replace(b"Subject: ", "Subject: gr\u00fc\u00dfe ".encode())
        smtp.sendmail("j\u00fcrgen@good.example", ["b\u00f6b@example.com"], body, ["SMTPUTF8", "BODY=8BITMIME"])
    [kept] = inner.wait(1)
    assert kept.sender == "j\u00fcrgen@good.example" and kept.recipients == ["b\u00f6b@example.com"]
    assert "SMTPUTF8" in kept.options and "gr\u00fc\u00dfe".encode() in kept.content
    wait_for(lambda: made.log().count("status=sent") == 2, 10, "both passes in the log")


def offers_utf8(port: int) -> bool:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        smtp.ehlo("x.example.org")
        return "smtputf8" in smtp.esmtp_features


def test_a_filter_without_smtputf8_gets_no_such_mail(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back).start()
    made = gateway(policies=plain(), more=wiring(back, filtered_door(door, f"smtp:[127.0.0.1]:{scan.port}")), workers=1)
    wait_for(lambda: offers_utf8(door), 20, "SMTPUTF8 to be offered")
    with smtplib.SMTP("127.0.0.1", door, timeout=30) as smtp:
        smtp.ehlo("x.example.org")
        smtp.sendmail("j\u00fcrgen@example.org", ["bob@example.com"], HAM, ["SMTPUTF8", "BODY=8BITMIME"])
    made.wait_log("dsn=5.6.7, status=bounced")
    assert not inner.messages and not scan.seen
    scan.stop()


# ---------------------------------------------------------------------- commands


def test_a_command_that_edits(tmp_path: Path, inner: Inner) -> None:
    if shutil.which("altermime") is None:
        pytest.skip("Debian package altermime is not installed")
    foot = tmp_path / "disclaimer.txt"
    foot.write_text("-- \nThis mail came by way of example.com.\n")
    made = written(tmp_path, inner, "command-edits", {"/etc/postgate/disclaimer.txt": str(foot)})
    try:
        kind, reply = talk(made.port, HAM, "bob@example.com")
        assert kind == "accepted"
        [kept] = inner.wait(1)
        assert kept.content.rstrip().endswith(b"-- \r\nThis mail came by way of example.com.")
        assert b"\r\nSubject: " in kept.content and b"\n" not in kept.content.replace(b"\r\n", b"")
        first = queue_id(reply)
        made.wait_log(f"{first}: to=<bob@example.com>, relay=disclaimer, ")
        made.wait_log("status=sent (filtered by disclaimer: queued as ")
        assert "runner" in made.children()
        foot.unlink()  # altermime dies of it
        later = queue_id(talk(made.port, HAM, "bob@example.com")[1])
        made.wait_log(f"{later}: to=<bob@example.com>, relay=disclaimer, ")
        made.wait_log("status=deferred (Command died with signal SIGSEGV")
        wait_for(lambda: any(later in why for why in made.status()["degraded"]), 20, "the queue id in degraded")
        foot.write_text("again\n")
        made.cli("queue", "flush", "--all")
        assert inner.wait(2)[1].content.rstrip().endswith(b"again")
        wait_for(lambda: not made.status()["degraded"], 20, "all to be well")
    finally:
        made.stop()


def test_a_command_that_takes_the_message(tmp_path: Path, inner: Inner) -> None:
    back, program = free_port(), tmp_path / "words"
    program.write_text(recipe("command-takes-program").replace("10026", str(back)))
    program.chmod(0o755)
    made = written(tmp_path, inner, "command-takes", {"10026": str(back), "/usr/local/bin/words": str(program)})
    try:
        first = queue_id(sent(made.port, "bob@example.com", "ann@example.com"))
        [kept] = inner.wait(1)
        assert kept.recipients == ["bob@example.com", "ann@example.com"]
        made.wait_log(f", orig_queue_id={first}, orig_client=unknown[127.0.0.1]")
        made.wait_log(f"{first}: to=<bob@example.com>, relay=words, ")
        made.wait_log("status=sent (delivered via words service)")
        sick = queue_id(talk(made.port, HAM.replace(b"Dear", b"Unheard-of unheard-of"), "bob@example.com")[1])
        made.wait_log(f"{sick}: to=<bob@example.com>, relay=words, ")
        made.wait_log("dsn=5.7.1, status=bounced (We do not use such words)")
        with smtplib.SMTP("127.0.0.1", made.port, timeout=30) as smtp:
            smtp.sendmail("", ["bob@example.com"], HAM)  # null_sender = "" is an argument, too
        assert inner.wait(2)[1].sender == ""
    finally:
        made.stop()


def test_a_command_is_chosen_by_recipient_domain(gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path) -> None:
    """FILTER in a recipient table, with a destination for ${nexthop}; other domains go unfiltered."""
    told = tmp_path / "told"
    program = tmp_path / "tell"
    program.write_text(f'#!/bin/sh\necho "$*" >> {told}\nexec cat\n')
    program.chmod(0o755)
    policies = plain(rcpt='["relay", "access", "recipient"]', access='recipient = "texthash:to"\n')
    policies["to"] = "special.example.com FILTER edit:there.example\n"
    policies["recipients"] = "@example.com known\n@special.example.com known\n"
    more = f'[relay.routes]\n"special.example.com" = "smtp:[127.0.0.1]:{inner.port}"\n'
    more += f'[filters.edit]\ncommand = ["{program}", "${{nexthop}}", "--", "${{recipient}}"]\noutput = "message"\n'
    made = gateway(policies=policies, more=more, workers=1)
    text = made.config.read_text()
    made.config.write_text(text.replace('["example.com"]', '["example.com", "special.example.com"]'))
    made.cli("reload")
    queue_id(sent(made.port, "a@special.example.com", "b@example.com", "c@special.example.com"))
    arrived = sorted(inner.wait(2), key=lambda kept: kept.recipients)
    whom = [kept.recipients for kept in arrived]
    assert whom == [["a@special.example.com", "c@special.example.com"], ["b@example.com"]]
    assert told.read_text() == "there.example -- a@special.example.com c@special.example.com\n"


def test_a_filter_is_added_by_a_reload(gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path) -> None:
    """The runner starts when it is needed."""
    made = gateway(policies=plain(), workers=1)
    assert "runner" not in made.children()
    plainly = made.config.read_text()
    filtered = plainly.replace("[relay]", 'content_filter = "edit:"\n[relay]', 1)
    made.config.write_text(filtered + '[filters.edit]\ncommand = ["/bin/cat"]\noutput = "message"\n')
    made.cli("reload")
    wait_for(lambda: "runner" in made.children(), 20, "the runner")
    assert talk(made.port, HAM, "a@example.com")[0] == "accepted"
    inner.wait(1)
    made.wait_log("status=sent (filtered by edit: queued as ")
    made.config.write_text(plainly)
    made.cli("reload")
    assert talk(made.port, HAM, "b@example.com")[0] == "accepted"
    inner.wait(2)


# ---------------------------------------------------------------------- Python


def test_a_filter_in_python(tmp_path: Path, inner: Inner) -> None:
    """The class of the recipe, installed as its package would be."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "footer.py").write_text(recipe("python-filter"))
    project = tomllib.loads(recipe("python-filter-package"))["project"]
    info = place / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["postgate.filters"]
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[postgate.filters]\n{lines}")
    reachable(place / "x")
    made = written(tmp_path, inner, "python-filter-gateway", {}, path=f"{ROOT}:{place}")
    try:
        assert talk(made.port, HAM, "old.bob@example.com")[0] == "accepted"
        [kept] = inner.wait(1)
        assert kept.recipients == ["bob@example.com"]
        assert kept.content.endswith(b"-- sent by way of example.com\r\n")
        bulk = HAM.replace(b"Subject: ", b"Precedence: bulk\r\nSubject: ")
        kind, reply = talk(made.port, bulk, "bob@example.com")
        assert kind == "refused" and reply.startswith("550 5.7.1 No bulk mail here")
        assert len(inner.messages) == 1
    finally:
        made.stop()


def test_a_filter_that_refuses_xforward_gets_the_mail_as_from_postfix(
    tmp_path: Path, gateway: Callable[..., Gateway], inner: Inner
) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back, answer="250 2.0.0 taken")
    scan.forwarded = "550 5.7.0 you are not authorized"
    scan.start()
    theirs = Postfix(tmp_path / "theirs", relay=f"[127.0.0.1]:{scan.port}", smtp_send_xforward_command="yes").start()
    try:
        ours = gateway(
            policies=plain(), more=wiring(back, filtered_door(door, f"smtp:[127.0.0.1]:{scan.port}")), workers=1
        )
        sent(door, "a@example.com")
        with smtplib.SMTP("127.0.0.1", theirs.port) as smtp:
            smtp.sendmail("sender@example.org", ["a@example.com"], HAM)
        for log in (ours.log, theirs.log):
            wait_for(lambda log=log: "status=sent (250 2.0.0 taken)" in log(), 20, "the mail at the filter")
            warned = [line for line in log().splitlines() if "warning: " in line and "in reply to XFORWARD " in line]
            assert warned and all(
                "said: 550 5.7.0 you are not authorized (in reply to XFORWARD " in line for line in warned
            )
        assert len(scan.seen) == 2
    finally:
        theirs.stop()
        scan.stop()
