"""The Received field that this server puts on top of every message (RFC 5321 section 4.4), in Postfix's shape.

Contract: every value that a stranger chose is held against a grammar; what does not fit is left out, never escaped by
hope (threats A8). The field ends with CRLF and holds no other octets than printable ones, tabs and its line ends.
"""

import re
import time
from functools import lru_cache

from appliance.mail.context import Client, Tls

_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}\Z|\[[A-Za-z0-9.:]{2,64}\]\Z")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=8)
def date(second: int) -> str:
    """Local time as RFC 5322 wants it: "Mon, 1 Jan 2024 12:00:00 +0100 (CET)"."""
    now = time.localtime(second)
    sign, minutes = ("-" if now.tm_gmtoff < 0 else "+"), abs(now.tm_gmtoff) // 60
    zone = f" ({now.tm_zone})" if now.tm_zone.isascii() and now.tm_zone.isalnum() else ""
    return (
        f"{_DAYS[now.tm_wday]}, {now.tm_mday} {_MONTHS[now.tm_mon - 1]} {now.tm_year} "
        f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} {sign}{minutes // 60:02}{minutes % 60:02}{zone}"
    )


def host(text: str) -> str:
    """`text` if it is a host name or an address literal, else ""."""
    return text if _HOST.match(text) else ""


def literal(address: str) -> str:
    """The client's address in brackets: "[192.0.2.1]", "[IPv6:2001:db8::1]", "[local]"."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def protocol(esmtp: bool, tls: Tls | None, utf8: bool) -> str:
    """The word behind "with" (RFC 3848, RFC 6531): SMTP, ESMTP, ESMTPS, UTF8SMTP, UTF8SMTPS."""
    if not esmtp:
        return "SMTP"
    return ("UTF8SMTP" if utf8 else "ESMTP") + ("S" if tls else "")


def received(
    *, hostname: str, client: Client, helo: str, with_: str, transaction: str, recipient: str, now: float
) -> bytes:
    """The whole field. `recipient` is the only one, "" if there are several (blind copies stay blind)."""
    name = host(client.name) or "unknown"
    lines = [f"Received: from {host(helo) or name} ({name} {literal(client.address)})"]
    if client.tls is not None:
        tls = client.tls
        lines.append(f"(using {tls.version} with cipher {tls.cipher} ({tls.bits}/{tls.bits} bits))")
    by = f"by {hostname} (Postgate) with {with_} id {transaction}"
    if recipient:
        lines += [by, f"for <{recipient}>; {date(int(now))}"]
    else:
        lines += [by + ";", date(int(now))]
    return ("\r\n\t".join(lines) + "\r\n").encode("utf-8", "replace")
