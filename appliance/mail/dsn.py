"""Delivery status notifications: the octets of what we tell a sender (RFC 3464, 3461, 6522, 3834, 6533).

Contract: pure; gives a whole message with CRLF line ends, ready for the queue with the null sender. Remote texts
are shown as they are logged (printable); nothing in an address or a reply can begin a new field. Whether a notice may
be sent at all is decided by who calls (never to the null sender, never to an unproven one, NOTIFY honoured).
"""

import datetime
import email.utils
import textwrap
from collections.abc import Iterable
from typing import Literal

import msgspec

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp import xtext

Action = Literal["failed", "delayed", "relayed", "delivered", "expanded"]

#: Messages larger than this are returned as their header only.
RETURN_LIMIT = 50000
_SUBJECT = {
    "failed": "Undelivered Mail Returned to Sender",
    "delayed": "Delayed Mail (still being retried)",
    "relayed": "Successful Mail Delivery Report",
    "delivered": "Successful Mail Delivery Report",
    "expanded": "Successful Mail Delivery Report",
}
_WORDS = {
    "failed": "I'm sorry to have to inform you that your message could not be delivered to one\nor more "
    "recipients. It is attached below.\n\nIf you need help, please send mail to postmaster and include this report.",
    "delayed": "Your message could not be delivered yet. YOU DO NOT NEED TO SEND IT AGAIN:\nit is kept, and "
    "delivery is tried again until the time given below.",
    "relayed": "Your message was handed to the servers named below. Unless they cannot deliver it,\nthis is "
    "all you will hear.",
    "delivered": "Your message was delivered to the destinations listed below.",
    "expanded": "Your message goes to all who stand behind the addresses listed below. Of them you\nwill hear no more, "
    "unless it cannot be delivered.",
}


class RecipientReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one recipient. `orcpt` as received ("rfc822;xtext"); `status` is an enhanced code; `remote` the
    host that answered with `reply` ("550 5.1.1 ..."), both "" where nobody did; `text` is for people."""

    address: str
    action: Action
    status: str
    text: str
    orcpt: str = ""
    remote: str = ""
    reply: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One notice. `original` is the message, or only its header (`whole` says); times are wall-clock seconds. `envid`
    is as received (xtext). `retry_until` is for delayed recipients."""

    hostname: str
    queue_id: str
    notice_id: str
    sender: str
    received: float
    now: float
    recipients: tuple[RecipientReport, ...]
    original: bytes
    whole: bool
    envid: str = ""
    utf8: bool = False
    retry_until: float = 0.0


def build(report: Report) -> bytes:
    """The whole notice: header, words for people, fields for programs, the message or its header."""
    boundary = _boundary(report)
    eight = report.utf8 or not report.original.isascii()
    kinds = _kinds(report)
    parts = [
        _part("text/plain; charset=utf-8", "Notification", eight, _words(report).encode()),
        _part(kinds[0], "Delivery report", report.utf8, _fields(report).encode()),
        _part(kinds[1], "Undelivered Message" + ("" if report.whole else " Headers"), eight, report.original),
    ]
    opening = f"\r\n--{boundary}\r\n".encode()
    body = b"This is a MIME-encapsulated message.\r\n" + b"".join(opening + part for part in parts)
    return _header(report, boundary, eight).encode() + body + f"\r\n--{boundary}--\r\n".encode()


def _boundary(report: Report) -> str:
    """A boundary that stands nowhere in the message, even if somebody guessed it."""
    number = 0
    while (text := f"{report.notice_id}.{int(report.now)}.{number}/{report.hostname}").encode() in report.original:
        number += 1
    return text


def _kinds(report: Report) -> tuple[str, str]:
    if report.utf8:
        return "message/global-delivery-status", "message/global" if report.whole else "message/global-headers"
    return "message/delivery-status", "message/rfc822" if report.whole else "text/rfc822-headers"


def _part(kind: str, description: str, eight: bool, content: bytes) -> bytes:
    encoding = "8bit" if eight else "7bit"
    return f"Content-Description: {description}\r\nContent-Type: {kind}\r\n".encode() + (
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n".encode() + content
    )


def _date(seconds: float) -> str:
    return email.utils.format_datetime(datetime.datetime.fromtimestamp(int(seconds), datetime.UTC))


def _plain(text: str) -> str:
    """`text` without anything that could end a line."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _folded(name: str, value: str) -> str:
    lines = textwrap.wrap(f"{name}: {_plain(value)}", 76, break_long_words=False, break_on_hyphens=False)
    return "\r\n    ".join(lines) + "\r\n"


def _header(report: Report, boundary: str, eight: bool) -> str:
    host = report.hostname
    kind = _kinds(report)[0].partition("/")[2]
    lines = [
        f"Date: {_date(report.now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{host}>",
        f"To: <{_plain(report.sender)}>",
        f"Subject: {_SUBJECT[report.recipients[0].action]}",
        f"Message-Id: <{int(report.now)}.{report.notice_id}@{host}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={kind};\r\n\tboundary="{boundary}"',
        f"Content-Transfer-Encoding: {'8bit' if eight else '7bit'}",
    ]
    return "\r\n".join([*lines, "", ""])


def _words(report: Report) -> str:
    words = _WORDS[report.recipients[0].action].split("\n")
    lines = [f"This is the mail system at host {report.hostname}.", "", *words, ""]
    if report.retry_until:
        lines += [f"It is tried again until {_date(report.retry_until)}.", ""]
    for one in report.recipients:
        lines += [*textwrap.wrap(f"<{_plain(one.address)}>: {_plain(one.text)}", 76, subsequent_indent="    "), ""]
    return "\r\n".join(lines)


def _fields(report: Report) -> str:
    kind = "utf-8" if report.utf8 else "rfc822"
    message = [
        ("Reporting-MTA", f"dns; {report.hostname}"),
        *([("Original-Envelope-Id", _decoded(report.envid))] if report.envid else []),
        ("X-Postgate-Queue-ID", report.queue_id),
        ("X-Postgate-Sender", f"{kind}; {report.sender}"),
        ("Arrival-Date", _date(report.received)),
    ]
    groups = [message, *(list(_recipient(one, report)) for one in report.recipients)]
    return "\r\n".join("".join(_folded(name, value) for name, value in group) for group in groups)


def _recipient(one: RecipientReport, report: Report) -> Iterable[tuple[str, str]]:
    yield "Final-Recipient", f"{'utf-8' if report.utf8 else 'rfc822'}; {one.address}"
    if one.orcpt:
        kind, _, value = one.orcpt.partition(";")
        yield "Original-Recipient", f"{kind}; {_decoded(value)}"
    yield "Action", one.action
    yield "Status", one.status
    if one.remote:
        yield "Remote-MTA", f"dns; {one.remote}"
    yield "Diagnostic-Code", f"smtp; {one.reply}" if one.reply else f"X-Postgate; {one.text}"
    if report.retry_until and one.action == "delayed":
        yield "Will-Retry-Until", _date(report.retry_until)


def _decoded(text: str) -> str:
    try:
        return xtext.decode(text).decode("utf-8", "replace")
    except ProtocolError:
        return text


def wants(notify: str, action: Action) -> bool:
    """Does RCPT's NOTIFY parameter ask for this kind of notice (RFC 3461; missing = FAILURE,DELAY)?"""
    asked = {word.strip().upper() for word in (notify or "FAILURE,DELAY").split(",")}
    word = {"failed": "FAILURE", "delayed": "DELAY"}.get(action, "SUCCESS")
    return word in asked
