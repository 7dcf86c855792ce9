"""Public resolvers: name servers that answer for the whole Internet, and therefore get no answers from DNS lists.

Contract: pure; known by the addresses that their operators publish. What it means for the mail: nothing by itself; DNS
lists answer such a server with an error code or "not listed" for everybody (docs/authentication.md).
"""

import ipaddress
from collections.abc import Iterable

_OPERATORS = {
    "Google": "8.8.8.8 8.8.4.4 2001:4860:4860::8888 2001:4860:4860::8844 2001:4860:4860::64 2001:4860:4860::6464",
    "Cloudflare": "1.1.1.1 1.0.0.1 1.1.1.2 1.0.0.2 1.1.1.3 1.0.0.3 2606:4700:4700::1111 2606:4700:4700::1001 "
    "2606:4700:4700::1112 2606:4700:4700::1002 2606:4700:4700::1113 2606:4700:4700::1003 2606:4700:4700::64 "
    "2606:4700:4700::6400",
    "Quad9": "9.9.9.9 149.112.112.112 9.9.9.10 149.112.112.10 9.9.9.11 149.112.112.11 2620:fe::fe 2620:fe::9 "
    "2620:fe::10 2620:fe::fe:10 2620:fe::11 2620:fe::fe:11",
    "OpenDNS": "208.67.222.222 208.67.220.220 208.67.222.123 208.67.220.123 2620:119:35::35 2620:119:53::53 "
    "2620:119:35::123 2620:119:53::123",
    "AdGuard": "94.140.14.14 94.140.15.15 94.140.14.140 94.140.14.141 2a10:50c0::ad1:ff 2a10:50c0::ad2:ff",
    "CleanBrowsing": "185.228.168.9 185.228.169.9 2a0d:2a00:1::2 2a0d:2a00:2::2",
    "DNS.WATCH": "84.200.69.80 84.200.70.40",
    "Level 3": "4.2.2.1 4.2.2.2 4.2.2.3 4.2.2.4 4.2.2.5 4.2.2.6",
    "Verisign": "64.6.64.6 64.6.65.6",
    "Yandex": "77.88.8.8 77.88.8.1 77.88.8.88 77.88.8.2",
    "Comodo": "8.26.56.26 8.20.247.20",
    "DNS4EU": "86.54.11.1 86.54.11.201 86.54.11.13 86.54.11.213 86.54.11.12 86.54.11.212 86.54.11.11 86.54.11.211 "
    "86.54.11.100 86.54.11.200",
    "Hurricane Electric": "74.82.42.42 2001:470:20::2",
    "AliDNS": "223.5.5.5 223.6.6.6 2400:3200::1 2400:3200:baba::1",
    "DNSPod": "119.29.29.29",
    "114DNS": "114.114.114.114 114.114.115.115",
}
_KNOWN = {ipaddress.ip_address(address): who for who, known in _OPERATORS.items() for address in known.split()}


def public_servers(addresses: Iterable[str]) -> list[str]:
    """["8.8.8.8 (Google)"] for those of the addresses that are public resolvers, sorted."""
    found = {address: _KNOWN.get(ipaddress.ip_address(address)) for address in addresses}
    return sorted(f"{address} ({who})" for address, who in found.items() if who)
