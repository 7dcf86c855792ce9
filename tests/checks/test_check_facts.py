"""relay, early_talker, helo, rdns, size, loop: what is judged from facts that are at hand."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.checks import early_talker, helo, loop, rdns, relay, size
from appliance.mail.context import Client, Recipient
from appliance.mail.ports import Ports, Site
from appliance.protocol.smtp.address import AddressError, parse_address
from tests.engine.scripted import context

OURS = frozenset({"example.com", "xn--mnchen-3ya.example"})
SITE = Site(hostname="mx.example.com", is_ours=OURS.__contains__, our_addresses=("192.0.2.25", "2001:db8::25"))
PORTS = Ports(site=SITE)


# -- relay (threats B8) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (b"u@example.com", "ours"),
        (b"U@EXAMPLE.COM", "ours"),
        (b"u+ext@example.com", "ours"),
        (b"postmaster", "ours"),
        (b"Postmaster", "ours"),
        (b"postmaster@mx.example.com", "ours"),
        (b"PostMaster@MX.Example.com", "ours"),
        (b"postmaster@example.net", "not_ours"),
        (b"root@mx.example.com", "not_ours"),
        (b"u@example.net", "not_ours"),
        (b"u@sub.example.com", "not_ours"),
        (b"u@com", "not_ours"),
        (b"u@notexample.com", "not_ours"),
        (b"u@example.com.evil.net", "not_ours"),
        (b"u%example.net@example.com", "trick"),
        (b"u%example.com@example.net", "not_ours"),
        (b"example.net!u@example.com", "trick"),
        (b'"u@example.net"@example.com', "trick"),
        (b'"@example.net:u"@example.com', "trick"),
        (b"@example.net:u@example.com", "ours"),
        (b"@example.com:u@example.net", "not_ours"),
        (b"u@[192.0.2.25]", "not_ours"),
        (b"u@[IPv6:2001:db8::25]", "not_ours"),
    ],
)
def test_relay(text: bytes, outcome: str) -> None:
    address = parse_address(text)[0]
    verdict = relay.check(context(recipient=Recipient(address=address)), relay.Policy(), PORTS)
    assert verdict.outcome == outcome
    assert outcome != "ours" or address.domain in {
        "",
        "example.com",
        "mx.example.com",
    }  # what is judged is what is relayed to


@pytest.mark.parametrize(
    "text", [b"u@example.net@example.com", b"u@example.com@example.net", b"u@example.com\0.net", b"u"]
)
def test_relay_never_sees_what_is_no_address(text: bytes) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


def test_relay_without_a_recipient_is_no_pass() -> None:
    assert relay.check(context("data"), relay.Policy(), PORTS).outcome == "temperror"


# -- helo --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("mail.example.net", "ok"),
        ("Mail.Example.NET.", "ok"),
        ("under_score.example.net", "ok"),
        ("xn--mnchen-3ya.de", "ok"),
        ("mx.example.com", "claims_our_name"),
        ("MX.example.com.", "claims_our_name"),
        ("example.com", "claims_our_name"),
        ("extra.example.org", "claims_our_name"),
        ("sub.example.com", "ok"),
        ("192.0.2.25", "claims_our_name"),
        ("[192.0.2.25]", "claims_our_name"),
        ("[IPv6:2001:db8::25]", "claims_our_name"),
        ("[192.0.2.1]", "ok"),
        ("[192.0.2.2]", "literal_mismatch"),
        ("[IPv6:2001:db8::1]", "literal_mismatch"),
        ("192.0.2.1", "malformed"),
        ("[192.0.2.1", "malformed"),
        ("[192.0.2.300]", "malformed"),
        ("[2001:db8::1]", "malformed"),
        ("localhost", "malformed"),
        ("pc", "malformed"),
        ("", "malformed"),
        ("a b.example", "malformed"),
        ("-a.example", "malformed"),
        ("a..example", "malformed"),
        ("a.123", "malformed"),
        ("m\u00fcnchen.example", "malformed"),
        ("a" * 64 + ".example", "malformed"),
        ("a." * 130 + "example", "malformed"),
    ],
)
def test_helo(name: str, outcome: str) -> None:
    policy = helo.Policy(our_names="extra.example.org")
    assert helo.check(context("helo", helo=name), policy, PORTS).outcome == outcome


@pytest.mark.parametrize(
    ("name", "client", "outcome"),
    [
        ("[IPv6:2001:DB8:0::1]", "2001:db8::1", "ok"),
        ("[192.0.2.1]", "::ffff:192.0.2.1", "ok"),
        ("[192.0.2.25]", "192.0.2.25", "ok"),
        ("[192.0.2.1]", "local", "ok"),
    ],
)
def test_helo_literals(name: str, client: str, outcome: str) -> None:
    assert helo.decide(name, client, SITE) == outcome


def test_a_gateway_without_a_name_claims_no_localhost() -> None:
    site = Site(hostname="localhost.localdomain", is_ours=OURS.__contains__)
    assert helo.decide("localhost.localdomain", "127.0.0.1", site) == "ok"


# -- early_talker (threats B5) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signs", "outcome"), [((), "waited"), (("bare_lf",), "waited"), (("early_talk",), "talked")])
def test_early_talker(signs: tuple[str, ...], outcome: str) -> None:
    ctx = context("helo", helo="mail.example.org", signs=frozenset(signs))
    assert early_talker.check(ctx, early_talker.Policy(), PORTS).outcome == outcome


# -- rdns --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proof", "outcome"),
    [
        ("pass", "ok"),
        ("none", "none"),
        ("fail", "unconfirmed"),
        ("temperror", "temperror"),
        ("unknown", "skipped"),
    ],
)
def test_rdns(proof: Any, outcome: str) -> None:
    client = Client(address="192.0.2.1", proof=proof)
    assert rdns.check(context("connect", client=client), rdns.Policy(), PORTS).outcome == outcome


def test_rdns_of_a_relay_of_ours_is_no_evidence() -> None:
    client = Client(address="10.0.0.1", proof="none", trusted_relay=True)
    assert rdns.check(context("connect", client=client), rdns.Policy(), PORTS).outcome == "skipped"


# -- size --------------------------------------------------------------------------------------------------------------


class Letter:
    """Content of which only the header is real."""

    def __init__(self, header: bytes = b"\r\n", size: int = 0, complete: bool = True) -> None:
        self.header, self.size, self.header_complete = header, size, complete

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        yield self.header

    def open_fd(self) -> int:
        raise OSError


SMALL = Ports(site=Site(hostname="mx.example.com", is_ours=OURS.__contains__, size_limit=1000))


@pytest.mark.parametrize(
    ("declared", "limit", "outcome"),
    [(0, 0, "ok"), (1000, 0, "ok"), (1001, 0, "over"), (1001, 2000, "ok"), (501, 500, "over")],
)
def test_declared_size(declared: int, limit: int, outcome: str) -> None:
    verdict = size.check(context("mail", declared_size=declared), size.Policy(limit=limit), SMALL)
    assert verdict.outcome == outcome


def test_counted_size_without_our_own_field() -> None:
    trace = b"Received: from a (a [192.0.2.1])\r\n\tby mx.example.com (Postgate) with SMTP id 4F;\r\n\tnow\r\n"
    for first in (b"Subject: x\r\n", b"Received: from b\r\n\tby c;\r\n\tthen\r\n", b" reads as a line of ours\r\n"):
        for octets, outcome in ((1000, "ok"), (1001, "over")):
            letter = Letter(trace + first + b"\r\n", octets + len(trace))
            verdict = size.check(context("message", content=letter, declared_size=10), size.Policy(), SMALL)
            assert verdict.outcome == outcome


def test_no_limit_is_none() -> None:
    ports = Ports(site=Site(hostname="h", is_ours=OURS.__contains__, size_limit=0))
    assert size.check(context("mail", declared_size=10**12), size.Policy(), ports).outcome == "ok"


@pytest.mark.parametrize(
    ("letter", "more", "outcome"),
    [
        (Letter(b"A: " + b"x" * 97), {"header_limit": 100}, "ok"),
        (Letter(b"A: " + b"x" * 98), {"header_limit": 100}, "header_over"),
        (Letter(b"A: x\r\n", complete=False), {}, "header_over"),
        (Letter(b"A: x\r\n" * 10), {"fields_limit": 10}, "ok"),
        (Letter(b"A: x\r\n" * 11), {"fields_limit": 10}, "header_over"),
        (Letter(b"A: x\r\n y\r\n" * 10), {"fields_limit": 10}, "ok"),
        (Letter(b"A: x\r\n" * 11), {"fields_limit": 0, "header_limit": 0}, "ok"),
    ],
)
def test_header(letter: Letter, more: dict[str, int], outcome: str) -> None:
    assert size.check(context("message", content=letter), size.Policy(**more), SMALL).outcome == outcome


# -- loop (threats B10) ------------------------------------------------------------------------------------------------


def hops(count: int, by: str = "other.example.net") -> bytes:
    return b"".join(
        b"Received: from x.example (x [192.0.2.%d])\r\n\tby %s id 1\r\n" % (n % 256, by.encode()) for n in range(count)
    )


@pytest.mark.parametrize(
    ("header", "outcome"),
    [
        (hops(50), "ok"),
        (hops(51), "loop"),
        (hops(51).replace(b"Received:", b"RECEIVED :"), "loop"),
        (hops(10, "mx.example.com"), "ok"),
        (hops(11, "mx.example.com"), "loop"),
        (hops(11, "MX.example.com."), "loop"),
        (hops(11, "notmx.example.com"), "ok"),
        (hops(10) + b"X: Received: 1\r\nReceived-SPF: pass by mx.example.com\r\n" * 60, "ok"),
        (b"", "ok"),
    ],
)
def test_loop(header: bytes, outcome: str) -> None:
    content = Letter(header + b"Subject: x\r\n\r\n")
    assert loop.check(context("message", content=content), loop.Policy(), PORTS).outcome == outcome


@pytest.mark.parametrize("piece", [b"Received:", b"Received: by ", b"received\r\n", b"Received: x\r\n ", b" \r\n "])
def test_hostile_headers_cost_linear_time(piece: bytes) -> None:
    """Eight times the header may cost about eight times the CPU; quadratic would be sixty-four times."""

    def cost(count: int) -> float:
        header = b"Received: x\r\n " + piece * count
        began = time.process_time()
        loop.decide(header, "mx.example.com", loop.Policy())
        size.own_trace(header)
        return time.process_time() - began

    small = min(cost(10_000) for _ in range(3))
    assert min(cost(80_000) for _ in range(3)) < 24 * small + 0.05


def test_without_content_there_is_no_pass() -> None:
    assert loop.check(context("data"), loop.Policy(), PORTS).outcome == "temperror"
