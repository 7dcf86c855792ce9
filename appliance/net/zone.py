"""A zone file that is answered before any name server: the demo's names, self-tests, split horizon (RFC 1035 section 5).

Contract: read once from octets; no IO. Names below a zone's apex (the owner of an SOA record; the file may hold several)
are answered completely, NXDOMAIN included; other names that own a record of the file get NODATA for its other types
(what unbound calls a transparent zone); all else is asked from the name servers.
What failure means for the mail: a file that cannot be read stops the start.
"""

from collections.abc import Iterator
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.zonefile

from appliance.net.records import name_text, question, text
from appliance.protocol.dns import Answer

_MAX_CNAMES = 8


class _Records(dns.zonefile.RRsetsReaderTransaction):
    """Takes every record as it is read; dnspython's own transaction allows only one SOA a file."""

    def __init__(self, manager: Any) -> None:
        super().__init__(manager, True, False)  # type: ignore[no-untyped-call]
        self.read: list[tuple[dns.name.Name, int, dns.rdata.Rdata]] = []

    def add(self, *args: Any) -> None:
        name, ttl, rdata = args
        self.read.append((name, ttl, rdata))


def _read(data: bytes, source: str) -> list[tuple[dns.name.Name, int, dns.rdata.Rdata]]:
    manager = dns.zonefile.RRSetsReaderManager(dns.name.root, False, dns.rdataclass.IN)
    records = _Records(manager)
    tokens = dns.tokenizer.Tokenizer(data.decode("utf-8"), source)
    dns.zonefile.Reader(tokens, dns.rdataclass.IN, records, allow_include=False, allow_directives=True).read()
    return records.read


class Zone:
    """The file's records. `Zone(b"")` answers nothing."""

    def __init__(self, data: bytes, source: str = "zone") -> None:
        """Raises ValueError("file:line: what is wrong") if the octets are no zone file."""
        self._sets: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self._owners: set[str] = set()
        self._names: set[str] = set()  # owners and empty non-terminals
        self._apexes: set[str] = set()
        try:
            records = _read(data, source)
        except (dns.exception.DNSException, ValueError) as error:
            raise ValueError(str(error) or f"{source}: not a zone file") from error
        for name, ttl, rdata in records:
            self._keep(name_text(name), ttl, rdata)

    def _keep(self, owner: str, ttl: int, rdata: dns.rdata.Rdata) -> None:
        rtype = dns.rdatatype.to_text(rdata.rdtype)
        self._sets.setdefault((owner, rtype), (ttl, []))[1].append(text(rdata))
        self._owners.add(owner)
        self._names.update(_upwards(owner))
        if rtype == "SOA":
            self._apexes.add(owner)

    def __bool__(self) -> bool:
        return bool(self._sets)

    def answer(self, name: str, rtype: str) -> Answer | None:
        """What the file says of `name`, or None: ask the name servers. Follows CNAMEs inside the file."""
        asked = name_text(question(name))
        current, ttl = asked, 86400
        for _ in range(_MAX_CNAMES):
            owner = self._owner(current)
            if found := self._sets.get((owner, rtype)):
                return Answer(asked, rtype, tuple(found[1]), min(ttl, found[0]))
            alias = self._sets.get((owner, "CNAME"))
            if alias is None:
                break
            current, ttl = alias[1][0], min(ttl, alias[0])
        owner = self._owner(current)
        if owner not in self._owners and not self._complete(current):
            return None
        return Answer(asked, rtype, (), 60, exists=owner in self._names)

    def _complete(self, name: str) -> bool:
        return any(parent in self._apexes for parent in _upwards(name))

    def _owner(self, name: str) -> str:
        """The owner that answers for `name`: itself, or the nearest wildcard (RFC 4592)."""
        if name in self._names:
            return name
        for parent in list(_upwards(name))[1:]:
            if f"*.{parent}" in self._names:
                return f"*.{parent}"
            if parent in self._names:
                break
        return name


def _upwards(name: str) -> Iterator[str]:
    """The name, its parents, and the root "."."""
    while name and name != ".":
        yield name
        name = name.partition(".")[2]
    yield "."
