"""The system's hosts file: names of inner servers that DNS does not know.

Contract: read once when made, at the start of a process; a file that is not there is empty. Only next hops are looked
up here, never what a check asks: a stranger's name must not be answered from a local file.
"""

import ipaddress
from collections.abc import Mapping


def parse(text: str) -> dict[str, tuple[str, ...]]:
    """Host name (lower case) to its addresses, in file order; lines that are none are passed over (hosts(5))."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = str(ipaddress.ip_address(words[0].partition("%")[0]))
        except ValueError:
            continue
        for name in words[1:]:
            found.setdefault(name.lower(), []).append(address)
    return {name: tuple(dict.fromkeys(addresses)) for name, addresses in found.items()}


def read(path: str = "/etc/hosts") -> Mapping[str, tuple[str, ...]]:
    """The file as a mapping; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse(file.read())
    except OSError:
        return {}
