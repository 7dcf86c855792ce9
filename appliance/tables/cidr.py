"""cidr tables (Postfix cidr_table(5)): networks in order, `!`, `if` ... `endif`, IPv6 with or without brackets.

Contract: a key that is no address does not match, and a rule says nothing about addresses of the other family: all but
10.0.0.0/8 (`!`) is no IPv6 address, as in Postfix. A file without conditions is searched by prefix length, so that
100,000 networks cost as little as ten; else rule by rule.
"""

import ipaddress
import socket
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from appliance.tables.rules import Builder, Line, Rule, first
from appliance.tables.text import BLANKS, Source


class Net(NamedTuple):
    """A network: address family's bits (32, 128), its number, its mask."""

    bits: int
    number: int
    mask: int


class Cidr:
    """Networks in memory."""

    pattern = True
    at_once = True

    def __init__(self, rules: list[Rule[Net]], source: Source) -> None:
        self.source = source
        self._rules = rules
        self._plain = not any(rule.negate or rule.jump for rule in rules)
        self._by_mask: dict[tuple[int, int], dict[int, int]] = {}
        for index, rule in enumerate(rules if self._plain else ()):
            net = rule.test
            self._by_mask.setdefault((net.bits, net.mask), {}).setdefault(net.number, index)

    def get(self, key: str) -> tuple[str, str] | None:
        """(value, "file:line") of the first rule that holds for the address `key`, or None."""
        address = number_of(key)
        if address is None:
            return None
        rule = self._plain_rule(*address) if self._plain else self._conditional_rule(*address)
        return None if rule is None else (rule.result, f"{self.source.path or 'inline'}:{rule.line}")

    def _plain_rule(self, bits: int, number: int) -> Rule[Net] | None:
        hits = [
            index
            for (family, mask), nets in self._by_mask.items()
            if family == bits and (index := nets.get(number & mask)) is not None
        ]
        return self._rules[min(hits)] if hits else None

    def _conditional_rule(self, bits: int, number: int) -> Rule[Net] | None:
        return first(self._rules, lambda net: number & net.mask == net.number if net.bits == bits else None)

    def entries(self) -> Iterator[tuple[str, str, int]]:
        return (("", rule.result, rule.line) for rule in self._rules if not rule.jump)


@lru_cache(maxsize=4096)
def number_of(text: str) -> tuple[int, int] | None:
    """(bits of the family, the address as a number), or None if `text` is no address."""
    family, bits = (socket.AF_INET6, 128) if ":" in text else (socket.AF_INET, 32)
    try:
        return bits, int.from_bytes(socket.inet_pton(family, text), "big")
    except (OSError, ValueError):
        return None


def network(text: str) -> Net:
    """A network as operators write it: address[/length], IPv6 also in brackets. Raises ValueError with the reason."""
    found = ipaddress.ip_network(text.replace("[", "", 1).replace("]", "", 1))
    return Net(found.max_prefixlen, int(found.network_address), int(found.netmask))


def cidr(lines: Iterator[tuple[int, str]], source: Source) -> Cidr:
    """The rules of a cidr table from its logical lines."""

    def parse(line: Line) -> tuple[Net, str] | None:
        pattern, _, result = line.text.replace("\t", " ").partition(" ") if line.text else ("", "", "")
        result = line.text[len(pattern) :].strip(BLANKS)
        try:
            net = network(pattern)
        except ValueError as why:
            source.flaw(line.number, line.column, f"{why}")
            return None
        if not result and not line.word:
            source.flaw(line.number, line.column, f"{pattern} has no result")
            return None
        if result and line.word:
            source.flaw(line.number, line.column, "text after `if network` is ignored", fatal=False)
        return net, result

    return Cidr(Builder(source, parse).read(lines), source)
