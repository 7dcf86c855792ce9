"""Where a message came from, as its Received fields tell it: the client behind a relay of ours, and signs of forwarding.

Contract: pure, linear in the header. Only what stands directly below our own field, written by a relay that we trust, is
believed; below the first address that is not ours everything may be forged. What failure means for the mail: a client
that cannot be known is None: its SPF is not judged.
"""

import ipaddress
import re
from collections.abc import Callable
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

from appliance.mail.auth import DkimReport
from appliance.mail.network import is_inside
from appliance.mail.own_trace import own_trace

#: Received fields that are looked through, octets of the header that tell messages apart.
MANY = 20
MOST = 65536

_RECEIVED = re.compile(rb"^received[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE)
_FROM = re.compile(r"\s*from\s+(\S{1,255})\s*(.*?)(?:\sby\s|;|\Z)", re.IGNORECASE | re.DOTALL)
_ADDRESS = re.compile(r"[\[(](?:IPv6:)?([0-9A-Fa-f.:]{2,45})[\])]", re.IGNORECASE)
_HELO = re.compile(r"\bhelo[= ]([A-Za-z0-9._\[\]:-]{1,255})", re.IGNORECASE)
_SRS = re.compile(r"srs[01][=+-]", re.IGNORECASE)
_FIELDS = (
    ("list_fields", re.compile(rb"^(?:list-id|list-post|mailing-list)[ \t]*:", re.IGNORECASE | re.MULTILINE)),
    ("resent_fields", re.compile(rb"^resent-(?:from|to|message-id)[ \t]*:", re.IGNORECASE | re.MULTILINE)),
    (
        "forwarded_fields",
        re.compile(rb"^(?:x-forwarded-(?:to|for)|delivered-to|x-original-to)[ \t]*:", re.IGNORECASE | re.MULTILINE),
    ),
    ("sealed", re.compile(rb"^arc-seal[ \t]*:", re.IGNORECASE | re.MULTILINE)),
)


class Client(NamedTuple):
    """Who gave the message to our relay, in the relay's words."""

    address: str
    helo: str


def below_ours(header: bytes) -> bytes:
    """The header without the Received field that we put on top: the same at every attempt."""
    return header[own_trace(header) :]


def fingerprint(sender: str, header: bytes) -> str:
    """What tells a message that is tried again from others."""
    digest = sha256(sender.encode("utf-8", "replace"))
    digest.update(b"\0")
    digest.update(below_ours(header)[:MOST])
    return digest.hexdigest()[:32]


def behind(header: bytes, trusted: Callable[[str], bool]) -> Client | None:
    """The client behind the relays of ours through which the message came, None if it cannot be known."""
    for found in islice(_RECEIVED.finditer(below_ours(header)), MANY):
        client = _client(found[1][:4096].decode("utf-8", "replace"))
        if client is None:
            return None
        if not trusted(client.address):
            return None if is_inside(client.address) else client
    return None


def _client(text: str) -> Client | None:
    """`from helo (name [address])` and its relatives (Sendmail, Exim, Exchange, qmail)."""
    found = _FROM.match(text)
    if found is None:
        return None
    addresses = _ADDRESS.findall(f"{found[1]} {found[2]}")
    address = next((known for text in addresses if (known := _address(text))), "")
    if not address:
        return None
    helo = _HELO.search(found[2])
    return Client(address, helo[1] if helo else found[1])


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def traits(header: bytes, sender: str, author: str, dkim: DkimReport) -> tuple[str, ...]:
    """Why this looks like forwarded mail: list fields, resent or delivered before, SRS, a sealed chain, a signature of
    the author that was broken on the way, or a hop before the one that brought it."""
    found = [name for name, pattern in _FIELDS if pattern.search(header)]
    if _SRS.match(sender):
        found.append("srs_sender")
    broken = (item.domain for item in dkim.signatures if item.result == "fail")
    if any(author == domain or author.endswith(f".{domain}") for domain in broken if domain):
        found.append("broken_signature")
    if len(list(islice(_RECEIVED.finditer(header), 3))) >= 3:
        found.append("earlier_hops")
    return tuple(found)
