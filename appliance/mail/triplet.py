"""Sender and recipient as greylisting remembers them: without what changes from attempt to attempt.

Contract: pure, linear, remembered; what is no address of such a kind stays as it is, in lower case. What failure means
for the mail: none.
"""

import re
from functools import lru_cache

from appliance.mail.lookup import split_extension
from appliance.protocol.smtp.address import Address

_BATV = re.compile(r"(?:prvs=[0-9a-z]{4,32}=|btv1==[0-9a-z]{4,32}==)(?P<user>.+)\Z")
_BATV_OLD = re.compile(r"prvs=(?P<user>[^/]+)/[0-9a-z]{4,32}\Z")
_SRS0 = re.compile(r"srs0[=+-][0-9a-z+/]+=[0-9a-z]{2}=(?P<rest>.+)\Z")
_SRS1 = re.compile(r"srs1[=+-][0-9a-z+/]+=(?P<host>[^=]+)=[=+-][0-9a-z+/]+=[0-9a-z]{2}=(?P<rest>.+)\Z")
_DIGITS = re.compile(r"(?<![0-9a-z])\d+(?![0-9a-z])")
_TOKEN = re.compile(r"(?<![0-9a-z])(?=[a-f]*\d)[0-9a-f]{12,}(?![0-9a-z])")


@lru_cache(maxsize=8192)
def sender_key(sender: Address) -> str:
    """The sender as it is remembered: what changes from attempt to attempt is taken out (case, +ext, BATV, SRS hashes,
    runs of digits and long hexadecimal tokens of VERP)."""
    local = sender.local.lower()
    if found := _BATV.match(local) or _BATV_OLD.match(local):
        local = found["user"]
    if found := _SRS0.match(local):
        local = f"srs0={found['rest']}"
    elif found := _SRS1.match(local):
        local = f"srs1={found['host']}={found['rest']}"
    else:
        local = split_extension(local, "+")[0]
    local = _DIGITS.sub("#", _TOKEN.sub("#", local))
    return f"{local}@{sender.domain}"


@lru_cache(maxsize=8192)
def recipient_key(recipient: Address, delimiter: str) -> str:
    """The recipient as it is remembered: lower case, without extension."""
    return f"{split_extension(recipient.local.lower(), delimiter)[0]}@{recipient.domain}"
