"""The wording of the mail log: fixed texts, and the real pflogsumm's sums over them (protocols.md 8.7)."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.observe import lines, maillog


def test_session_lines() -> None:
    assert lines.connect("mail.example.net", "192.0.2.1") == "connect from mail.example.net[192.0.2.1]"
    counts = {"EHLO": (1, 1), "MAIL": (1, 1), "RCPT": (0, 2), "QUIT": (1, 1)}
    said = lines.disconnect("", "192.0.2.1", counts)
    assert said == "disconnect from unknown[192.0.2.1] ehlo=1 mail=1 rcpt=0/2 quit=1 commands=3/5"
    assert lines.lost("DATA", "a.b", "::1") == "lost connection after DATA from a.b[::1]"


def test_what_is_not_known_yet_is_left_out_of_a_refusal() -> None:
    text = "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied"
    assert lines.judged("reject", "CONNECT", "", "192.0.2.1", text, protocol="SMTP") == (
        f"NOQUEUE: reject: CONNECT from unknown[192.0.2.1]: {text}; proto=SMTP"
    )
    assert lines.judged(
        "reject", "RCPT", "a.b", "192.0.2.1", "550 5.1.1 x", sender="", recipient="r@c", protocol="ESMTP", helo="h"
    ).endswith("550 5.1.1 x; from=<> to=<r@c> proto=ESMTP helo=<h>")


def test_fields_of_a_delivery_stand_in_postfix_order() -> None:
    assert lines.delivered(
        "4X1",
        "r@c.example",
        original="alias@c.example",
        relay="in[10.0.0.1]:25",
        uses=3,
        delays=(0.031, 0.004, 0.25, 11.7),
        dsn="2.0.0",
        status="sent",
        text="250 2.0.0 Ok: queued as 1",
    ) == (
        "4X1: to=<r@c.example>, orig_to=<alias@c.example>, relay=in[10.0.0.1]:25, conn_use=3, delay=12, "
        "delays=0.03/0/0.25/12, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 1)"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.004, "0"), (0.1, "0.1"), (0.456, "0.46"), (1.25, "1.2"), (90, "90")]
)
def test_delays(value: float, text: str) -> None:
    assert lines.seconds(value) == text


def write_day(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    maillog.configure(fd, pid=4711, service="smtpd", host="mx.example.com")
    try:
        for number in range(3):
            qid = f"4X{number}"
            maillog.log(lines.connect("out.example.net", "192.0.2.7"))
            maillog.log(lines.client(qid, "out.example.net", "192.0.2.7"))
            maillog.log(lines.message_id(qid, "<m@example.net>"), "cleanup")
            maillog.log(lines.queued(qid, "s@example.net", 2048, 1), "qmgr")
            status, text = (("sent", "250 ok"), ("sent", "250 ok"), ("deferred", "host in[10.0.0.1] said: 450 later"))[
                number
            ]
            maillog.log(
                lines.delivered(
                    qid,
                    "r@example.com",
                    relay="in[10.0.0.1]:25",
                    delays=(0.1, 0, 0, 0),
                    dsn="2.0.0",
                    status=status,
                    text=text,
                ),
                "smtp",
            )
            maillog.log(lines.removed(qid), "qmgr")
        refusal = "550 5.1.1 <x@example.com>: Recipient address rejected: User unknown"
        for action in ("reject", "reject", "hold", "discard", "reject_warning"):
            maillog.log(
                lines.judged(
                    action,
                    "RCPT",
                    "bad.example.org",
                    "203.0.113.9",
                    refusal,
                    sender="b@e.org",
                    recipient="x@example.com",
                    protocol="ESMTP",
                    helo="bad.example.org",
                )
            )
        maillog.log(
            lines.judged(
                "reject", "END-OF-MESSAGE", "b", "203.0.113.9", "550 5.7.1 virus", queue_id="4X9", sender="b@e.org"
            )
        )
        maillog.log("warning: something odd")
        maillog.raw("event", [b'{"id":"4X0","sender":"s@example.net","verb":"accept"}'])
        maillog.log(lines.disconnect("out.example.net", "192.0.2.7", {"EHLO": (1, 1)}))
    finally:
        maillog.configure(2)
        os.close(fd)


@pytest.mark.peer
def test_the_real_pflogsumm_counts_right(tmp_path: Path) -> None:
    if shutil.which("pflogsumm") is None:
        pytest.skip("Debian package pflogsumm is not installed (make packages)")
    write_day(tmp_path / "log")
    argv = ["pflogsumm", "--syslog-name=postgate", str(tmp_path / "log")]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout
    totals = {
        words: int(number) for number, words in re.findall(r"^ +(\d+) +([a-z][a-z ]*?)(?: +\(.*)?$", told, re.MULTILINE)
    }
    expected = {"received": 3, "delivered": 2, "deferred": 1, "bounced": 0, "rejected": 3, "held": 1, "discarded": 1}
    assert {key: totals[key] for key in expected} == expected, told
    assert totals["reject warnings"] == 1 and totals["bytes received"] == 6144
    assert "User unknown" in told and "450 later" in told and "something odd" in told
