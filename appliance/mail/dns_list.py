"""DNS lists (RFC 5782): how an operator writes one, what name it is asked for, what its answer means.

Contract: pure. A list is written `zone=filter*weight` as in postscreen_dnsbl_sites; without a filter every code of 127/8
counts but those that lists use for errors; without a weight it counts 1. A filter has four octets, each a number, or in
brackets numbers, ranges and bit masks: `127.0.0.[2..11;4]`, `127.0.0.[&2;&8]` (any of these bits is set), `127.0.0.&10`.
What failure means for the mail: what is no code of the list is never a listing; 127.255.255.x never is one.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import msgspec

#: What a list holds.
Kind = Literal["address", "domain"]

_SITE = re.compile(r"(?P<zone>[A-Za-z0-9_.-]+)(?:=(?P<filter>[^*=]+))?(?:\*(?P<weight>[+-]?\d{1,4}))?\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_OCTET = re.compile(r"\[(?P<items>[^\]]+)\]|(?P<item>&?\d{1,3})")
_ITEM = re.compile(r"(?:(?P<low>\d{1,3})(?:\.\.(?P<high>\d{1,3}))?|&(?P<mask>\d{1,3}))\Z")
#: Labels that are a customer's key: they are nobody's business, not even of a log.
_KEY = re.compile(r"[a-z0-9]{20,}\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)+\Z")

#: 127.0.0.1 and x.x.x.255 are what many lists answer to those whom they do not serve.
ANY = "127.[0..254].[0..255].[2..254]"

#: Not the Internet: nobody lists these, or everybody could.
_INSIDE = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
        *("::/128", "::1/128", "fc00::/7", "fe80::/10"),
    )
]


class Site(msgspec.Struct, frozen=True):
    """One list as a policy names it. `codes`: for each octet of an answer the values that count."""

    zone: str
    codes: tuple[frozenset[int], ...]
    weight: int = 1

    @property
    def shown(self) -> str:
        """The zone for logs: a customer's key in it is not shown."""
        return shown(self.zone)

    def listed(self, answer: str) -> bool:
        """Whether this record of an answer is a listing."""
        octets = _octets(answer)
        return octets is not None and not error(answer) and all(map(frozenset.__contains__, self.codes, octets))


def shown(zone: str) -> str:
    """A zone without the customer's key that may stand in it."""
    return ".".join("KEY" if _KEY.match(label) else label for label in zone.split("."))


@lru_cache(maxsize=1024)
def parse_site(text: str) -> Site:
    """A list as it is written. Raises ValueError that says what is wrong."""
    found = _SITE.match(text)
    if not found:
        raise ValueError(f"{text!r}: a list is written zone=filter*weight, for example bl.example.org=127.0.0.[2..11]*2")
    zone = found["zone"].lower().rstrip(".")
    if not 1 <= len(zone) <= 200 or not all(_LABEL.match(label) for label in zone.split(".")):
        raise ValueError(f"{text!r}: {zone!r} is not a domain name")
    return Site(zone, _codes(found["filter"] or ANY, text), int(found["weight"] or 1))


def _codes(text: str, site: str) -> tuple[frozenset[int], ...]:
    octets, at = [], 0
    while found := _OCTET.match(text, at):
        octets.append(
            frozenset(value for item in (found["items"] or found["item"]).split(";") for value in _values(item, site))
        )
        at = found.end() + 1
        if text[found.end() : at] != ".":
            break
    if len(octets) != 4 or at <= len(text):
        raise ValueError(f"{site!r}: a filter has four octets, each a number or like [2..11;20;&8]")
    if 127 not in octets[0]:
        raise ValueError(f"{site!r}: lists answer 127.something, the filter lets none of it through")
    return tuple(octets)


def _values(item: str, site: str) -> Iterable[int]:
    found = _ITEM.match(item.strip())
    numbers = [int(number) for number in found.groups() if number] if found else []
    if not found or not numbers or max(numbers) > 255 or numbers != sorted(numbers):
        raise ValueError(f"{site!r}: {item!r} is neither a number up to 255, nor a range like 2..11, nor a mask like &8")
    if found["mask"]:
        return (value for value in range(256) if value & numbers[0])
    return range(numbers[0], numbers[-1] + 1)


def _octets(answer: str) -> tuple[int, ...] | None:
    parts = answer.split(".")
    return tuple(map(int, parts)) if len(parts) == 4 and all(map(str.isdecimal, parts)) else None


def error(answer: str) -> str:
    """What an answer says if it is an error and no listing: 127.255.255.x, or what is outside 127/8; else ""."""
    if answer.startswith("127.255.255."):
        meaning = {
            "252": "a typing error in its name",
            "254": "asked through a public resolver",
            "255": "asked too often",
        }
        return f"error code {answer} ({meaning.get(answer.rpartition('.')[2], 'not served')})"
    return "" if answer.startswith("127.") else f"{answer} is no answer of a DNS list"


@lru_cache(maxsize=8192)
def address_label(address: str) -> str:
    """What stands before the zone for a client's address: octets or nibbles reversed; "" for what is no address of the
    Internet (private, loopback, a unix socket)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if any(found in network for network in _INSIDE if network.version == found.version):
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        return ".".join(reversed(found.exploded.replace(":", "")))
    return ".".join(reversed(str(found).split(".")))


def host(name: str) -> str:
    """A name that may be asked for, in lower case without a final dot; "" for what is none (or an address)."""
    name = name.lower().rstrip(".")
    return name if _HOST.match(name) and not name.rpartition(".")[2].isdigit() else ""
