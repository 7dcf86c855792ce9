"""DNS records in the presentation form that `protocol.dns.Answer` promises: no trailing dots, names in lower case.

Contract: pure; TXT strings are joined octet by octet and read as Latin-1, so that no octet is lost or invented.
"""

from typing import Any

import dns.name
import dns.rdatatype
import dns.reversename


def name_text(name: dns.name.Name) -> str:
    """ "mx.example.com" (lower case, no final dot; "." for the root)."""
    return name.canonicalize().to_text(omit_final_dot=True)


def text(rdata: Any) -> str:
    """One record as text."""
    kind = rdata.rdtype
    if kind == dns.rdatatype.TXT:
        return b"".join(rdata.strings).decode("latin-1")
    if kind == dns.rdatatype.MX:
        return f"{rdata.preference} {name_text(rdata.exchange)}"
    if kind in (dns.rdatatype.PTR, dns.rdatatype.CNAME, dns.rdatatype.NS):
        return name_text(rdata.target)
    return str(rdata.to_text())


def question(name: str) -> dns.name.Name:
    """The name to ask for, absolute. Raises ValueError if it cannot be a DNS name (too long, empty label)."""
    try:
        return dns.name.from_text(name)
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        raise ValueError(f"not a DNS name: {name!r}") from error


def reverse_name(address: str) -> str:
    """ "1.2.0.192.in-addr.arpa" for an IP address. Raises ValueError for anything else."""
    try:
        return name_text(dns.reversename.from_address(address))
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"not an IP address: {address!r}") from error
