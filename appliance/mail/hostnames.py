"""What Postfix takes for a host's name or address (its valid_hostname(3)): the measure of its restriction names.

Contract: pure; nothing raises. Postfix is laxer than an RFC here (leading zeros, an IPv6 address that is short of groups)
and stricter there (0.1.2.3): a policy service that answers by such a name means Postfix's. What failure means for the
mail: none, the caller judges.
"""

import re

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,255}}\Z){_LABEL}(?:\.{_LABEL})*\Z", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"[0-9.]+\Z")
_OCTETS = re.compile(r"[0-9]+(?:\.[0-9]+){3}\Z")
_HEX = re.compile(r"[0-9A-Fa-f]{1,4}\Z")
_PREFIX = "ipv6:"


def is_name(text: str) -> bool:
    """A host's name, with or without dots; no number."""
    return _NAME.match(text) is not None and _NUMBER.match(text) is None


def is_ipv4(text: str) -> bool:
    """Four octets, leading zeros or not; 0.x.x.x only where all are zero."""
    if _OCTETS.match(text) is None:
        return False
    octets = [octet.lstrip("0") or "0" for octet in text.split(".")]
    if any(len(octet) > 3 or int(octet) > 255 for octet in octets):
        return False
    return octets[0] != "0" or set(octets) == {"0"}


def is_ipv6(text: str) -> bool:
    """Groups of at most four digits between two to seven colons, one `::` at most; an IPv4 address may end it."""
    groups = text.split(":")
    colons = len(groups) - 1
    if not 2 <= colons <= 7 or text.count("::") > 1 or ":::" in text:
        return False
    if (not groups[0] and groups[1]) or (not groups[-1] and groups[-2]):  # one colon at an end
        return False
    if "." in groups[-1] and (colons > 6 or not is_ipv4(groups.pop())):
        return False
    return all(not group or _HEX.match(group) for group in groups)


def is_address(text: str) -> bool:
    """An address without brackets."""
    return is_ipv6(text) if ":" in text else is_ipv4(text)


def is_literal(text: str) -> bool:
    """An address in brackets, as in HELO and in addresses (RFC 5321 section 4.1.3)."""
    if not (text.startswith("[") and text.endswith("]")):
        return False
    inner = text[1:-1]
    if inner[: len(_PREFIX)].lower() == _PREFIX:
        return is_ipv6(inner[len(_PREFIX) :])
    return is_ipv4(inner)


def undotted(text: str) -> str:
    """Without a final dot (two are none)."""
    return text[:-1] if text.endswith(".") and not text.endswith("..") else text
