"""Names of subscribers' lines: what an access provider calls the addresses of its customers.

Contract: pure. Such a name proves the provider, not who sends.
What failure means for the mail: a reason to wait, no more.
"""

import re
from functools import lru_cache

_SERVER = re.compile(r"(?:\A|[.-])(?:mx|mail|smtp|mta|relay|mout|outbound|out)\d*[.-]")
_DIALUP = re.compile(
    r"(?:\A|[.\d_-])(?:dyn|dynamic|dynip|dhcp|[avx]?dsl|ppp|pppoe|pool|dial|dialup|dialin|dip|cable|broadband|cust|"
    r"customer|clients?|ftth|fttx|gpon|fiber|wifi|wireless|mobile|lte|home|res|residential|user|unassigned)(?:[.\d_-]|\Z)"
)


@lru_cache(maxsize=4096)
def dynamic_name(name: str, address: str) -> bool:
    """Does the name look like that of a subscriber's line: the address in it, or a word for such lines? The names of
    mail servers (mx, mail, smtp, ... as a word) do not."""
    name = name.lower()
    if name == "unknown" or _SERVER.search(name):
        return False
    if _DIALUP.search(name):
        return True
    octets = address.split(".")
    if len(octets) != 4 or not all(octet.isdigit() for octet in octets):
        return False
    if "".join(f"{int(octet):02x}" for octet in octets) in name:
        return True
    numbers = [number.lstrip("0") or "0" for number in re.findall(r"\d+", name)]
    return sorted(octets) == sorted(octet for octet in octets if octet in numbers) and len(numbers) >= 4
