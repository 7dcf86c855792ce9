"""The network of a client address: the key under which greylist, rates and counts know a stranger.

Contract: pure and total; IPv4-mapped IPv6 addresses count as IPv4; what is no address is its own network.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=65536)
def network(address: str, ipv4_prefix: int = 24, ipv6_prefix: int = 64) -> str:
    """ "192.0.2.0/24" or "2001:db8::/64" for a textual address; `address` itself if it is none ("local")."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(found), ipv6_prefix), strict=False))
        found = found.ipv4_mapped
    return str(ipaddress.ip_network((int(found), ipv4_prefix), strict=False))


def is_in(networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network], address: str) -> bool:
    """Is the textual address in one of the networks? What is no address is in none."""
    found = _parsed(address)
    if found is None:
        return False
    for known in networks:  # noqa: SIM110 - a generator costs as much as what it does
        if found in known:
            return True
    return False


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address as a number, IPv4-mapped IPv6 as IPv4; None for what is no address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@lru_cache(maxsize=4096)
def textual(address: str) -> str:
    """The address as a Client has it, compressed, however an MTA marks it ("IPv6:2001:db8::1"); "" for what is none."""
    found = _parsed(address[5:] if address[:5].lower() == "ipv6:" else address)
    return "" if found is None else str(found)


def _spans(networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> dict[int, list[tuple[int, int]]]:
    """By version of IP: the first and the last address of each network."""
    spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for known in networks:
        spans[known.version].append((int(known.network_address), int(known.broadcast_address)))
    return spans


_INSIDE = _spans(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "::/127", "fc00::/7", "fe80::/10"),
    )
)


@lru_cache(maxsize=65536)
def is_inside(address: str) -> bool:
    """An address that the Internet does not route (private, shared, loopback, link-local), or none at all."""
    found = _parsed(address)
    if found is None:
        return True
    number = int(found)
    for first, last in _INSIDE[found.version]:  # noqa: SIM110 - as above
        if first <= number <= last:
            return True
    return False
