"""postgrey's white lists, read as they are: `postgrey_clients:file` and `postgrey_recipients:file`.

Contract: pattern tables (only full keys are offered). The clients' table is asked with the client's name, then with its
address; the recipients' table with the full address. The value is the entry as written. Blanks within a /regex/ are
not possible, `#` begins a comment everywhere.
"""

import ipaddress
import re
from collections.abc import Iterator

import regex

from appliance.tables.cidr import Net, network, number_of
from appliance.tables.dialect import Dialect, rewrite
from appliance.tables.pattern import Pattern, Patterns
from appliance.tables.rules import Rule
from appliance.tables.text import BLANKS, Source

_SHORT = re.compile(r"\d{1,3}(?:\.\d{1,3}){0,2}\.?\Z")
_DOMAIN = re.compile(r"\.?[^\s@/]+\Z")
#: Answers that a table remembers, the patterns' among them; all are forgotten when it is full.
REMEMBERED = 4096


class Exemptions:
    """The entries of one white list: names or addresses in dictionaries, networks and patterns in order."""

    pattern = True
    at_once = True

    def __init__(self, source: Source) -> None:
        self.source = source
        self.exact: dict[str, tuple[str, int]] = {}
        self.domains: dict[str, tuple[str, int]] = {}
        self.nets: list[tuple[Net, str, int]] = []
        self.patterns = Patterns([], source)
        self._answers: dict[str, tuple[str, str] | None] = {}

    def get(self, key: str) -> tuple[str, str] | None:
        """(entry, "file:line"), or None. Raises Unavailable when a pattern takes too long."""
        if key in self._answers:
            return self._answers[key]
        found = self._find(key.lower())
        if len(self._answers) >= REMEMBERED:
            self._answers.clear()
        answer = self._answers[key] = None if found is None else (found[0], f"{self.source.path}:{found[1]}")
        return answer

    def entries(self) -> Iterator[tuple[str, str, int]]:
        named = [*self.exact.items(), *self.domains.items()]
        return ((key, entry, line) for key, (entry, line) in named)

    def _find(self, key: str) -> tuple[str, int] | None:
        address = number_of(key)
        if address:
            return next(((entry, n) for net, entry, n in self.nets if _within(net, address)), None)
        return self.exact.get(key) or self._mailbox(key) or self._domain(key) or self._pattern(key)

    def _mailbox(self, key: str) -> tuple[str, int] | None:
        """`user@` holds in every domain, `user@domain` also for user+ext@domain."""
        local, at, domain = key.rpartition("@")
        if not at:
            return None
        plain = local.split("+", 1)[0]
        keys = (f"{plain}@{domain}", f"{local}@", f"{plain}@")
        return next((self.exact[name] for name in keys if name in self.exact), None)

    def _domain(self, key: str) -> tuple[str, int] | None:
        name = key.rpartition("@")[2]
        while name:
            if name in self.domains:
                return self.domains[name]
            name = name.partition(".")[2]
        return None

    def _pattern(self, key: str) -> tuple[str, int] | None:
        rule = self.patterns.find(key)
        return None if rule is None else (rule.result, rule.line)


def _within(net: Net, address: tuple[int, int]) -> bool:
    return net.bits == address[0] and address[1] & net.mask == net.number


def clients(data: bytes, source: Source) -> Exemptions:
    """whitelist_clients: /regex/, domain (and its sub-domains), address, network, leading octets of an address."""
    table = Exemptions(source)
    for line, entry in _entries(data, source):
        if entry.startswith("/") and len(entry) > 1:
            _add_pattern(table, line, entry)
        elif net := _network(table, line, entry):
            table.nets.append((net, entry, line))
        elif _DOMAIN.match(entry) and not _looks_numeric(entry):
            table.domains.setdefault(entry.lower().strip("."), (entry, line))
        else:
            source.flaw(line, 1, f'"{entry}" is no /regex/, domain, address or network')
    return table


def recipients(data: bytes, source: Source) -> Exemptions:
    """whitelist_recipients: /regex/, user@domain, user@ (every domain), domain (and its sub-domains)."""
    table = Exemptions(source)
    for line, entry in _entries(data, source):
        local, at, domain = entry.rpartition("@")
        if entry.startswith("/"):
            _add_pattern(table, line, entry)
        elif at and local:
            table.exact.setdefault(entry.lower(), (entry, line))
        elif _DOMAIN.match(domain):
            table.domains.setdefault(domain.lower().strip("."), (entry, line))
        else:
            source.flaw(line, 1, f'"{entry}" is no /regex/, user@domain, user@ or domain')
    return table


def _entries(data: bytes, source: Source) -> Iterator[tuple[int, str]]:
    """One entry a line; the rest of a line after blanks or `#` is no data (postgrey's own reading)."""
    for number, text in source.physical(data):
        entry = text.partition("#")[0].strip(BLANKS)
        if not entry:
            continue
        first, _, more = entry.partition(" ")
        if more.strip():
            source.flaw(number, len(first) + 2, "one entry a line, and no blanks within a /regex/")
            continue
        yield number, first


def _add_pattern(table: Exemptions, line: int, entry: str) -> None:
    body = entry[1:-1] if entry.endswith("/") and len(entry) > 2 else ""
    if not body:
        table.source.flaw(line, 1, "a pattern is written /regex/")
        return
    try:
        compiled = regex.compile(rewrite(body, Dialect()), regex.IGNORECASE | regex.VERSION1)
    except (regex.error, ValueError) as why:
        table.source.flaw(line, 2, why.msg if isinstance(why, regex.error) else str(why))
        return
    table.patterns.rules.append(Rule(Pattern(compiled, False), False, entry, line))


def _network(table: Exemptions, line: int, entry: str) -> Net | None:
    """A network, an address, or the leading octets of one. None: something else (or a flaw, noted)."""
    if _SHORT.match(entry):
        octets = entry.rstrip(".").split(".")
        if len(octets) == 2:
            # postgrey documents 1.2 as 1.2.0.0/16, its code keeps 1.2.0.0/24: we do as documented
            table.source.flaw(line, 1, f"{entry} is read as {entry}.0.0/16; write it so", fatal=False)
        entry = ".".join([*octets, *["0"] * (4 - len(octets))]) + f"/{8 * len(octets)}"
    try:
        loose = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None
    return network(str(loose))


def _looks_numeric(entry: str) -> bool:
    """Meant as an address, but none: an octet over 255, a bad prefix length."""
    return bool(re.fullmatch(r"[0-9.:/]+", entry))
