"""What somebody speaks who has come to the wrong port: named in the log, so that the operator finds the wrong line.

Contract: a guess from the first octets; "" where nothing fits.
"""

import re

from appliance.protocol.smtp.command import wrong_protocol

_VERB = re.compile(rb"(?:EHLO|HELO|LHLO|MAIL FROM:|RCPT TO:|QUIT|NOOP|STARTTLS|RSET)\b", re.IGNORECASE)
_NAMES = {"tls": "TLS", "http": "HTTP", "ssh": "SSH", "sip": "SIP", "proxy": "the PROXY protocol"}


def language(start: bytes) -> str:
    """ "SMTP", "HTTP", "TLS", "a policy request", "the milter protocol", ..., or ""."""
    if start[:4] == b"\0\0\0\x0d" and start[4:5] == b"O":
        return "the milter protocol"
    if start.lstrip(b"\r\n").startswith((b"request=smtpd_access_policy", b"protocol_state=")):
        return "a policy request"
    if _VERB.match(start):
        return "SMTP"
    return _NAMES.get(wrong_protocol(start), "")
