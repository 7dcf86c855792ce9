"""Address literals as they stand in HELO and in addresses (RFC 5321 section 4.1.3).

Contract: pure; what is no literal is None, nothing raises. What failure means for the mail: none, the caller judges.
"""

import ipaddress

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def read_literal(name: str) -> Ip | None:
    """The address of "[192.0.2.1]" or "[ipv6:2001:db8::1]", None if it is neither (RFC 5321 section 4.1.3)."""
    if not name.endswith("]"):
        return None
    text = name[1:-1].lower()
    try:
        if text.startswith("ipv6:"):
            return ipaddress.IPv6Address(text[5:])
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None
