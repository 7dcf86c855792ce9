"""DNS messages as octets: a question out, its reply in (RFC 1035, 2181, 6891).

Contract: pure; time linear in the octets, whatever they are (a general parser takes over half a second for a hostile
64 KB reply, see tests/net/test_message.py). Names are wire octets, uncompressed and in lower case, the root's nought at
the end. What is not a whole, well-formed reply to the very question raises ValueError and is no answer to anybody.
"""

import re
import secrets
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from appliance.net import records

EDNS_SIZE = 1232
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
_A, _NS, _CNAME, _SOA, _PTR, _MX, _TXT, _AAAA, _OPT = 1, 2, 5, 6, 12, 15, 16, 28, 41
CNAME = _CNAME
_TYPES = {"A": _A, "NS": _NS, "CNAME": _CNAME, "SOA": _SOA, "PTR": _PTR, "MX": _MX, "TXT": _TXT, "AAAA": _AAAA}
_HEAD = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_QUESTION_END = struct.Struct("!HH")
_MAX_JUMPS = 32
_PLAIN = re.compile(r"[A-Za-z0-9._=+*-]+\Z")
_PLAIN_OCTETS = b"abcdefghijklmnopqrstuvwxyz0123456789-_"


class Question(NamedTuple):
    """`name` as wire octets, `rtype` as a number."""

    name: bytes
    rtype: int


class Record(NamedTuple):
    """One record of the answer: its data stands in the message from `at`, `size` octets."""

    ttl: int
    at: int
    size: int


class Reply(NamedTuple):
    """`sets` are the answer's records by owner and type; `negative` is the time that "no such thing" may be kept (RFC
    2308), None without an SOA record."""

    data: bytes
    rcode: int
    truncated: bool
    sets: dict[tuple[bytes, int], list[Record]]
    negative: int | None
    names: "Names"

    def ttl(self, found: Iterable[Record]) -> int:
        """The least of a set's (RFC 2181 5.2)."""
        return min(record.ttl for record in found)

    def target(self, record: Record) -> bytes:
        """The name that a CNAME leads to."""
        return self.names.at(record.at)[0]

    def texts(self, rtype: int, found: Iterable[Record]) -> tuple[str, ...]:
        """Records as `protocol.dns.Answer` has them. Raises ValueError for data that is not of the type."""
        return tuple(_text(self, rtype, record) for record in found)


def name_octets(name: str) -> bytes:
    """The wire octets of a name in presentation form, lower case. Raises ValueError if it cannot be a DNS name."""
    if not _PLAIN.match(name):
        return records.question(name).canonicalize().to_wire() or b""
    labels = name.lower().removesuffix(".").encode().split(b".")
    wire = b"".join([bytes((len(label),)) + label if 0 < len(label) < 64 else b"" for label in labels]) + b"\0"
    if len(wire) != sum(map(len, labels)) + len(labels) + 1 or len(wire) > 255 or b"" in labels:
        raise ValueError(f"not a DNS name: {name!r}")
    return wire


def name_text(wire: bytes) -> str:
    """ "mx.example.com" of wire octets ("." for the root)."""
    labels, at = [], 0
    while size := wire[at]:
        labels.append(wire[at + 1 : at + 1 + size])
        at += size + 1
    if any(label.translate(None, _PLAIN_OCTETS) for label in labels):
        return dns.name.Name([*labels, b""]).to_text(omit_final_dot=True)
    return b".".join(labels).decode() or "."


def type_number(rtype: str) -> int:
    """Raises ValueError for a type that does not exist."""
    try:
        return _TYPES.get(rtype) or int(dns.rdatatype.from_text(rtype))
    except dns.exception.DNSException as error:
        raise ValueError(f"no DNS type: {rtype!r}") from error


def ask(question: Question, edns: bool) -> bytes:
    """A query with a random id, recursion desired, with EDNS 1232 if `edns`."""
    head = _HEAD.pack(secrets.randbits(16), 0x0100, 1, 0, 0, edns)
    opt = b"\0" + _RECORD.pack(_OPT, EDNS_SIZE, 0, 0) if edns else b""
    return head + question.name + _QUESTION_END.pack(question.rtype, 1) + opt


def read(query: bytes, data: bytes) -> Reply | None:
    """The reply to `query`, None for what is not meant for it (a forgery, an echo). Raises ValueError for a reply that is
    broken."""
    if len(data) < 12 or data[:2] != query[:2]:
        return None
    _, flags, questions, *counts = _HEAD.unpack_from(data)
    rcode, at = flags & 15, 12
    if flags & 0xF800 != 0x8000:  # a response to a standard query
        return None
    name_end = len(query) - 4 - (11 if query[11] else 0)
    end = name_end + 4
    if questions == 1 and data[12:name_end].lower() == query[12:name_end] and data[name_end:end] == query[name_end:end]:
        at = end
    elif questions or rcode == NOERROR:
        return None
    names = Names(data)
    if flags & 0x0200:
        return Reply(data, rcode, True, {}, None, names)
    try:
        return _sections(data, at, rcode, counts, names)
    except (IndexError, struct.error) as error:
        raise ValueError("a broken reply") from error


def _sections(data: bytes, at: int, rcode: int, counts: list[int], names: "Names") -> Reply:
    sets: dict[tuple[bytes, int], list[Record]] = {}
    negative: int | None = None
    for section, count in enumerate(counts):
        for _ in range(count):
            owner, at = names.at(at) if section == 0 else (b"", _behind_name(data, at))
            rtype, rclass, ttl, size = _RECORD.unpack_from(data, at)
            at += 10
            if at + size > len(data):
                raise ValueError("a record ends behind the reply")
            if section == 0 and rclass == 1:
                sets.setdefault((owner, rtype), []).append(Record(ttl if ttl < 2**31 else 0, at, size))
            elif section == 1 and rtype == _SOA and size >= 22:
                minimum = int.from_bytes(data[at + size - 4 : at + size], "big")
                negative = min(ttl if ttl < 2**31 else 0, minimum)
            elif section == 2 and rtype == _OPT:
                rcode |= ttl >> 24 << 4
            at += size
    return Reply(data, rcode, False, sets, negative, names)


def _behind_name(data: bytes, at: int) -> int:
    while size := data[at]:
        if size >= 64:
            if size < 192:
                raise ValueError("a label of an unknown kind")
            return at + 2
        at += size + 1
    return at + 1


class Names:
    """The names of one message. What a pointer leads to is read once, so that pointers to pointers cost nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._known: dict[int, bytes] = {}

    def at(self, at: int) -> tuple[bytes, int]:
        """The name that begins there, and where it ends. Raises ValueError or IndexError for what is no name."""
        data, known = self._data, self._known
        labels: list[bytes] = []
        jumps: list[tuple[int, int]] = []
        end, lowest = 0, at
        while size := data[at]:
            if size < 64:
                labels.append(data[at : at + size + 1])
                at += size + 1
                continue
            target = (size & 63) << 8 | data[at + 1]
            if size < 192 or target >= lowest or len(jumps) >= _MAX_JUMPS:
                raise ValueError("a pointer that leads nowhere")
            end = end or at + 2
            if target in known:
                labels.append(known[target])
                break
            jumps.append((target, len(labels)))
            lowest = at = target
        else:
            labels.append(b"\0")
        name = b"".join(labels).lower()  # the octets of lengths are no letters
        if len(name) > 255:
            raise ValueError("a name of more than 255 octets")
        for target, behind in jumps:
            known[target] = b"".join(labels[behind:]).lower()
        return name, end or at + 1


def _text(reply: Reply, rtype: int, record: Record) -> str:
    data, at, size = reply.data, record.at, record.size
    if rtype == _A and size == 4:
        return socket.inet_ntoa(data[at : at + 4])
    if rtype == _AAAA and size == 16:
        return socket.inet_ntop(socket.AF_INET6, data[at : at + 16])
    if rtype == _TXT:
        return _strings(data[at : at + size])
    try:
        if rtype == _MX:
            return f"{data[at] << 8 | data[at + 1]} {_name_in(reply, at + 2, at + size)}"
        if rtype in (_PTR, _CNAME, _NS):
            return _name_in(reply, at, at + size)
        return records.text(dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RdataType(rtype), data, at, size))
    except (IndexError, dns.exception.DNSException) as error:
        raise ValueError("a record that is not of its type") from error


def _name_in(reply: Reply, at: int, until: int) -> str:
    name, end = reply.names.at(at)
    if end != until:
        raise ValueError("a record that is not of its type")
    return name_text(name)


def _strings(data: bytes) -> str:
    found, at = [], 0
    while at < len(data):
        found.append(data[at + 1 : at + 1 + data[at]])
        at += data[at] + 1
    if at != len(data) or not data:
        raise ValueError("a TXT record whose strings do not end with it")
    return b"".join(found).decode("latin-1")
