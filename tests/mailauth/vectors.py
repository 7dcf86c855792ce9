"""The test suite of RFC 7208 that comes with pyspf, and its zones behind a real name server on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset
import yaml

from tests.net.nameserver import NameServer

SUITE = Path(__file__).with_name("rfc7208-tests.yml")
#: Record types of a name; TIMEOUT stands for all that is not listed, or for one type. SERVFAIL, REFUSED: that answer.
Records = dict[str, list[Any]]


class Vector(NamedTuple):
    scenario: str
    name: str
    host: str
    helo: str
    mailfrom: str
    results: tuple[str, ...]
    explanation: str | None
    zone: dict[str, Records]


def vectors() -> Iterator[Vector]:
    """Every test of every scenario."""
    for scenario in yaml.safe_load_all(SUITE.read_bytes()):
        zone = {owner.lower(): records(entries) for owner, entries in scenario["zonedata"].items()}
        for name, test in scenario["tests"].items():
            wanted = test["result"]
            yield Vector(
                scenario["description"],
                name,
                test["host"],
                test["helo"],
                test["mailfrom"],
                (wanted,) if isinstance(wanted, str) else tuple(wanted),
                test.get("explanation"),
                zone,
            )


def records(entries: list[Any]) -> Records:
    """As the suite's own driver reads them: SPF entries stand for TXT where there is none."""
    found: Records = {}
    for entry in entries:
        if entry == "TIMEOUT":
            found["TIMEOUT"] = []
            continue
        for rtype, value in entry.items():
            found.setdefault(rtype, []).append(value)
    spf = found.pop("SPF", [])
    if "TXT" not in found and spf:
        found["TXT"] = spf
    if found.get("TXT") == ["NONE"]:
        del found["TXT"]
    return found


def rdata(rtype: str, value: Any) -> dns.rdata.Rdata:
    kind = dns.rdatatype.from_text(rtype)
    if rtype == "TXT":
        strings = [value] if isinstance(value, str) else value
        octets = [text.encode("utf-8") for text in strings]
        pieces = [text[at : at + 255] for text in octets for at in range(0, len(text) or 1, 255)]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, kind, pieces or [b""])
    if rtype == "MX":
        preference, host = value
        return dns.rdata.from_text("IN", kind, f"{preference} {host or '.'}", origin=dns.name.root, relativize=False)
    return dns.rdata.from_text("IN", kind, value, origin=dns.name.root, relativize=False)


def serve(server: NameServer, zone: dict[str, Records], ttl: int = 300) -> None:
    """Let `server` answer from `zone`; what is TIMEOUT is not answered."""

    def script(query: dns.message.Message, how: str) -> list[bytes]:
        question = query.question[0]
        owner = b".".join(question.name.labels[:-1]).decode("latin-1").lower()
        rtype = dns.rdatatype.to_text(question.rdtype)
        reply = dns.message.make_response(query)
        found = zone.get(owner)
        if found is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif "TIMEOUT" in (found.get(rtype) or found.get("CNAME") or found):
            return []
        elif refusal := next((word for word in found if word in ("SERVFAIL", "REFUSED")), ""):
            reply.set_rcode(dns.rcode.from_text(refusal))
        else:
            kind = rtype if rtype in found else "CNAME"
            listed = [rdata(kind, value) for value in found.get(kind, [])]
            if listed:
                reply.answer.append(dns.rrset.from_rdata_list(question.name, ttl, listed))
        if not reply.answer:
            reply.authority.append(dns.rrset.from_text(".", ttl, "IN", "SOA", f"ns. host. 1 2 3 4 {ttl}"))
        wire = reply.to_wire(max_size=65535)
        if how == "udp" and len(wire) > 1232:
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC
            return [short.to_wire()]
        return [wire]

    server.script = script
