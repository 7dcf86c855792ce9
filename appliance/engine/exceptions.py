"""[[exception]]: who is treated otherwise by a check, for whom, why, and until when.

Contract: matching is pure. All facts of one `match` must fit (of a list, one). Every exception that matches applies;
where two set the same thing, the one that stands first in the file wins. One past its end matches nothing.
"""

import ipaddress
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from appliance.mail.context import STAGES, Context, Stage
from appliance.mail.network import network
from appliance.protocol.smtp.address import Address

#: What an exception may match, and the first stage at which it is known.
FACTS: dict[str, Stage] = {
    "client_address": "connect",
    "client_name": "connect",
    "helo_name": "helo",
    "identity": "mail",
    "sender": "mail",
    "tls": "mail",
    "recipient": "rcpt",
    "recipient_domain": "rcpt",
}
#: What the fact `tls` may be ("none": the session is not encrypted).
TLS = ("none", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
#: Facts that differ from recipient to recipient.
PER_RECIPIENT = frozenset({"recipient", "recipient_domain"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Test = Callable[[Context, Address | None], bool]


class Exemption(msgspec.Struct, frozen=True, kw_only=True):
    """One compiled [[exception]]. `until` is the second at which it ends (wall clock), 0 = never. `sets` is as written:
    knobs, outcomes and mode; `index` is its place in the file."""

    index: int
    tests: tuple[Test, ...]
    facts: frozenset[str]
    sets: Mapping[str, Any]
    reason: str = ""
    owner: str = ""
    until: float = 0.0

    def matches(self, ctx: Context, recipient: Address | None) -> bool:
        if self.until and ctx.now >= self.until:
            return False
        return all(test(ctx, recipient) for test in self.tests)


@lru_cache(maxsize=16384)
def client_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The client's address as a number; IPv4-mapped IPv6 counts as IPv4; None for "local"."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def end_of(day: date) -> float:
    """The second (UTC) at which `day` is over."""
    return (datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)).timestamp()


def compile_test(fact: str, wanted: Any) -> Test:
    """The test for one fact. Raises ValueError that says what is wrong with the wanted value."""
    values = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
        raise ValueError("must be a text, or a list of texts")
    if fact == "client_address":
        return _network_test([_network(value) for value in values])
    for value in values:
        _name(fact, value)
    if fact in ("sender", "recipient"):
        return _address_test(fact, values)
    if fact == "tls" and (unknown := [value for value in values if value not in TLS]):
        raise ValueError(f"{unknown[0]} is no version of TLS: {', '.join(TLS)}")
    return _name_test(fact, values)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is no network: write "192.0.2.0/24", "2001:db8::/32" or one address') from None


def _name(fact: str, value: str) -> None:
    """Raises ValueError for what is written in the way of another table or program, and would never match."""
    whole = fact in ("sender", "recipient")
    if "*" in value or (value.startswith("@") and not whole):
        name = value.lstrip("*@.") or "example.com"
        below = "" if whole else f', ".{name}" for all below it'
        raise ValueError(f'"{value}" matches nothing: write "{name}"{below} (there are no patterns here)')


def _network_test(networks: list[Network]) -> Test:
    def test(ctx: Context, _: Address | None) -> bool:
        address = client_address(ctx.client.address)
        return address is not None and any(address in network for network in networks)

    return test


_NAME: dict[str, Callable[[Context, Address | None], str]] = {
    "client_name": lambda ctx, _: ctx.client.name,
    "helo_name": lambda ctx, _: ctx.helo,
    "identity": lambda ctx, _: ctx.identity.name if ctx.identity else network(ctx.client.address),
    "tls": lambda ctx, _: ctx.client.tls.version if ctx.client.tls else "none",
    "recipient_domain": lambda _, recipient: recipient.domain if recipient else "",
}


def _name_test(fact: str, values: list[str]) -> Test:
    """A name is itself; ".example.com" is everything below example.com."""
    exact = frozenset(value.lower() for value in values if not value.startswith("."))
    below = tuple(value.lower() for value in values if value.startswith("."))
    read = _NAME[fact]

    def test(ctx: Context, recipient: Address | None) -> bool:
        name = read(ctx, recipient).lower()
        return bool(name) and (name in exact or name.endswith(below))

    return test


def _address_test(fact: str, values: list[str]) -> Test:
    """`user@domain`, `@domain` or `domain` for all of a domain, `<>` for the null sender; without regard to case."""
    wanted = frozenset(value.lower() for value in values)

    def test(ctx: Context, recipient: Address | None) -> bool:
        address = ctx.sender if fact == "sender" else recipient
        return address is not None and not wanted.isdisjoint(_forms(address))

    return test


def _forms(address: Address) -> tuple[str, ...]:
    if not address.text:
        return ("<>",)
    return (address.text.lower(), "@" + address.domain, address.domain or "@")


def unknown_at(facts: frozenset[str], stage: Stage) -> list[str]:
    """Which of `facts` are not known yet at `stage`."""
    place = STAGES.index(stage)
    return sorted(fact for fact in facts if STAGES.index(FACTS[fact]) > place)
