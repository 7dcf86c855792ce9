"""DNS messages as octets: compared with dnspython, and what strangers can make of them."""

import random
import struct
import time
from collections.abc import Callable

import dns.flags
import dns.message
import dns.rrset
import pytest

from appliance.net import message, records
from appliance.net.message import Question
from tests.net.nameserver import answer

TYPES = ["A", "AAAA", "TXT", "MX", "PTR", "CNAME", "NS", "SOA", "TLSA", "SRV", "CAA"]
DATA = {
    "A": ["192.0.2.1", "203.0.113.255"],
    "AAAA": ["2001:db8::1", "::1", "::ffff:192.0.2.1"],
    "TXT": ['"v=spf1 " "-all"', '"\\255\\000x"', '""'],
    "MX": ["10 Mail.Example.COM.", "0 ."],
    "PTR": ["a\\.b.example.com.", "x\\032y.example.com."],
    "CNAME": ["Target.example.net."],
    "NS": ["ns1.example.com."],
    "SOA": ["ns. host. 1 2 3 4 5"],
    "TLSA": ["3 1 1 " + "ab" * 32],
    "SRV": ["1 2 25 mx.example.com."],
    "CAA": ['0 issue "ca.example"'],
}


def query(name: str = "www.example.com", rtype: str = "A", edns: bool = True) -> bytes:
    return message.ask(Question(message.name_octets(name), message.type_number(rtype)), edns)


@pytest.mark.parametrize("rtype", TYPES)
def test_records_read_like_dnspython_reads_them(rtype: str) -> None:
    asked = query("Mixed.Example.com", rtype)
    reply = answer(dns.message.from_wire(asked), *(f"@ 300 IN {rtype} {data}" for data in DATA[rtype]))
    read = message.read(asked, reply.to_wire())
    assert read is not None
    number = message.type_number(rtype)
    found = read.sets[message.name_octets("mixed.example.com"), number]
    assert sorted(read.texts(number, found)) == sorted(records.text(rdata) for rrset in reply.answer for rdata in rrset)
    assert read.ttl(found) == 300


@pytest.mark.parametrize("edns", [True, False])
def test_a_query_reads_like_one(edns: bool) -> None:
    asked = dns.message.from_wire(query("a_b-1.example.com", "TXT", edns))
    assert asked.question[0].to_text() == "a_b-1.example.com. IN TXT"
    assert (asked.edns, asked.payload if edns else 1232) == (0 if edns else -1, 1232)
    assert asked.flags == dns.flags.RD and not asked.answer


@pytest.mark.parametrize(
    "name", ["example.com", "a\\.b.example.com", "x\\032y.de", "*.example.com", "bücher.example", ""]
)
def test_names_go_out_and_in_like_dnspython_has_them(name: str) -> None:
    expected = records.question(name)
    assert message.name_octets(name) == expected.canonicalize().to_wire()
    assert message.name_text(message.name_octets(name)) == records.name_text(expected)


@pytest.mark.parametrize(
    "name", ["a..b", ".a", "x" * 64 + ".com", "y." * 130, "\\", "a" * 63 + ("." + "b" * 63) * 3 + "c"]
)
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a DNS name"):
        message.name_octets(name)


def test_the_extended_code_of_an_opt_record_is_no_success() -> None:
    asked = query()
    reply = answer(dns.message.from_wire(asked))
    reply.set_rcode(16)  # BADVERS: its lower four bits are NOERROR
    read = message.read(asked, reply.to_wire())
    assert read is not None and read.rcode == 16


def changed(change: Callable[[bytearray], None]) -> tuple[bytes, bytes]:
    asked = query()
    wire = bytearray(answer(dns.message.from_wire(asked), "@ 300 IN A 192.0.2.1").to_wire())
    change(wire)
    return asked, bytes(wire)


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: wire.__setitem__(0, wire[0] ^ 1),
        lambda wire: wire.__setitem__(2, wire[2] & 0x7F),
        lambda wire: wire.__setitem__(2, wire[2] | 0x20),
        lambda wire: wire.__setitem__(13, ord("x")),
        lambda wire: wire.__setitem__(30, 28),
        lambda wire: wire.__setitem__(5, 0),
        lambda wire: wire.__setitem__(5, 2),
        lambda wire: wire.__delitem__(slice(10, None)),
    ],
    ids=["id", "no response", "opcode", "other name", "other type", "no question", "two questions", "short"],
)
def test_d4_what_is_not_the_reply_to_the_question_is_none(change: Callable[[bytearray], None]) -> None:
    assert message.read(*changed(change)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: wire.__delitem__(slice(-14, None)),
        lambda wire: wire.__setitem__(7, 9),
        lambda wire: wire.__setitem__(slice(33, 35), b"\xc0\x21"),
        lambda wire: wire.__setitem__(slice(33, 35), b"\xff\xff"),
        lambda wire: wire.__setitem__(slice(33, 35), b"\x80\x0c"),
        lambda wire: wire.__setitem__(slice(43, 45), b"\xff\xff"),
    ],
    ids=["cut", "more records than there are", "points at itself", "points ahead", "odd label", "too long"],
)
def test_d4_a_broken_reply_is_an_error(change: Callable[[bytearray], None]) -> None:
    with pytest.raises(ValueError, match=r"."):
        message.read(*changed(change))


@pytest.mark.parametrize("seed", range(20))
def test_d4_random_damage_is_an_answer_none_or_an_error(seed: int) -> None:
    chance = random.Random(seed)
    asked = query()
    whole = answer(
        dns.message.from_wire(asked),
        "@ 300 IN CNAME b.example.com.",
        "b.example.com. 9 IN MX 1 c.example.com.",
        soa="com. 1 2",
    ).to_wire()
    for _ in range(300):
        wire = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            wire[chance.randrange(12, len(wire))] = chance.randrange(256)
        try:
            read = message.read(asked, bytes(wire[: chance.randint(12, len(wire))]))
            if read is not None:
                for (_, rtype), found in read.sets.items():
                    read.texts(rtype, found)
        except ValueError:
            continue


def hostile_labels(count: int) -> tuple[bytes, bytes]:
    """Records whose owner is a pointer to a name of 120 labels."""
    name = b"\x01a" * 120 + b"\0"
    return name, (b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 300, 4) + b"\x7f\0\0\x02") * count


def hostile_pointers(count: int) -> tuple[bytes, bytes]:
    """Records whose owner is one label and a pointer to the owner before: chains that grow."""
    name = b"\x01a\0"
    body, last = b"", 12
    for _ in range(count):
        here = 12 + len(name) + 4 + len(body)
        body += b"\x01b" + struct.pack("!H", 0xC000 | last) + struct.pack("!HHIH", 1, 1, 300, 4) + b"\x7f\0\0\x02"
        last = here if here - 12 < 0x3000 and len(body) % 540 else 12
    return name, body


def cost(hostile: Callable[[int], tuple[bytes, bytes]], count: int) -> float:
    """CPU seconds for a reply of so many records, the best of three."""
    name, body = hostile(count)
    asked = message.ask(Question(name, 1), False)
    wire = asked[:2] + struct.pack("!HHHHH", 0x8180, 1, count, 0, 0) + name + b"\0\1\0\1" + body
    assert len(wire) < 65536
    best = 9.0
    for _ in range(3):
        begun = time.process_time()
        read = message.read(asked, wire)
        assert read is not None and sum(map(len, read.sets.values())) == count
        for (_, rtype), found in read.sets.items():
            read.texts(rtype, found)
        best = min(best, time.process_time() - begun)
    return best


@pytest.mark.parametrize("hostile", [hostile_labels, hostile_pointers])
def test_d4_a_hostile_reply_costs_no_more_than_its_octets(hostile: Callable[[int], tuple[bytes, bytes]]) -> None:
    assert cost(hostile, 3500) < 40 * cost(hostile, 350)
