import email
import re

import pytest

from appliance.mail.dsn import RecipientReport, Report, build, wants

ORIGINAL = b"Subject: hi\r\nFrom: a@example.org\r\n\r\nbody\r\n"


def report(**more) -> Report:
    one = RecipientReport(
        address="bob@example.com",
        action="failed",
        status="5.1.1",
        text="host mx.example.com[192.0.2.1] said: 550 5.1.1 no such user (in reply to RCPT TO command)",
        orcpt="rfc822;bob+2Bx@example.com",
        remote="mx.example.com",
        reply="550 5.1.1 no such user",
    )
    values = {
        "hostname": "gw.example.com",
        "queue_id": "4ABC",
        "notice_id": "4ABD",
        "sender": "a@example.org",
        "received": 1700000000.0,
        "now": 1700003600.0,
        "recipients": (one,),
        "original": ORIGINAL,
        "whole": True,
    }
    return Report(**{**values, **more})


def test_a_failure_is_read_back_by_the_stdlib():
    octets = build(report(envid="env+3D1"))
    notice = email.message_from_bytes(octets)
    assert notice.get_content_type() == "multipart/report"
    assert notice.get_param("report-type") == "delivery-status"
    assert notice["From"] == "Mail Delivery System <MAILER-DAEMON@gw.example.com>"
    assert notice["To"] == "<a@example.org>"
    assert notice["Auto-Submitted"] == "auto-replied"
    assert notice["Message-Id"] and notice["Date"] == "Tue, 14 Nov 2023 23:13:20 +0000"
    text, status, original = notice.get_payload()
    assert "550 5.1.1 no such user" in " ".join(text.get_payload(decode=True).decode().split())
    message, recipient = status.get_payload()
    assert message["Reporting-MTA"] == "dns; gw.example.com"
    assert message["Original-Envelope-Id"] == "env=1"
    assert message["X-Postgate-Queue-ID"] == "4ABC"
    assert message["Arrival-Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert recipient["Final-Recipient"] == "rfc822; bob@example.com"
    assert recipient["Original-Recipient"] == "rfc822; bob+x@example.com"
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1")
    assert recipient["Remote-MTA"] == "dns; mx.example.com"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    assert original.get_content_type() == "message/rfc822"
    assert original.get_payload()[0]["Subject"] == "hi"
    assert original.get_payload()[0].get_payload() == "body\r\n"


def test_only_crlf_and_7bit_where_possible():
    octets = build(report())
    assert octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r")
    assert octets.isascii() and max(map(len, octets.split(b"\r\n"))) < 998


def test_headers_only():
    notice = email.message_from_bytes(build(report(original=b"Subject: hi\r\n", whole=False)))
    assert notice.get_payload()[2].get_content_type() == "text/rfc822-headers"


def test_eight_bit_content_is_declared_and_whole():
    octets = build(report(original=b"Subject: x\r\n\r\n\xe4\xff\r\n"))
    notice = email.message_from_bytes(octets)
    assert notice["Content-Transfer-Encoding"] == "8bit"
    assert notice.get_payload()[2]["Content-Transfer-Encoding"] == "8bit"
    assert b"\xe4\xff\r\n" in octets


def test_utf8_addresses_make_a_global_report():
    one = RecipientReport(address="jörg@example.com", action="failed", status="5.1.1", text="no")
    octets = build(report(utf8=True, sender="ä@example.org", recipients=(one,)))
    notice = email.message_from_bytes(octets)
    assert notice.get_param("report-type") == "global-delivery-status"
    assert [part.get_content_type() for part in notice.get_payload()][1:] == [
        "message/global-delivery-status",
        "message/global",
    ]
    assert "Final-Recipient: utf-8; jörg@example.com" in octets.decode()


def test_a_guessed_boundary_does_not_break_the_notice():
    first = re.search(rb'boundary="([^"]+)"', build(report()))[1]
    notice = email.message_from_bytes(build(report(original=ORIGINAL + b"\r\n--" + first + b"--\r\n")))
    assert len(notice.get_payload()) == 3
    assert first.decode() in notice.get_payload()[2].as_string()


def test_nothing_in_a_text_begins_a_field():
    one = RecipientReport(
        address="b@x\r\nEvil: 1", action="failed", status="5.0.0", text="t\r\nEvil: 2", reply="550\nEvil: 3"
    )
    octets = build(report(recipients=(one,), sender="a@x\r\nEvil: 4", envid="e\r\nEvil: 5"))
    assert b"\nEvil" not in octets


def test_delay_and_success():
    late = RecipientReport(address="b@x", action="delayed", status="4.4.1", text="no connection")
    notice = email.message_from_bytes(build(report(recipients=(late,), retry_until=1700100000.0)))
    assert notice["Subject"].startswith("Delayed Mail")
    assert notice.get_payload()[1].get_payload()[1]["Will-Retry-Until"] == "Thu, 16 Nov 2023 02:00:00 +0000"
    good = RecipientReport(address="b@x", action="relayed", status="2.0.0", text="ok")
    assert "Action: relayed" in build(report(recipients=(good,))).decode()


@pytest.mark.parametrize(
    ("notify", "action", "expected"),
    [
        ("", "failed", True),
        ("", "delayed", True),
        ("", "relayed", False),
        ("NEVER", "failed", False),
        ("SUCCESS,FAILURE", "delayed", False),
        ("success", "relayed", True),
        ("SUCCESS", "failed", False),
    ],
)
def test_notify(notify, action, expected):
    assert wants(notify, action) is expected
