"""Which domains are ours, and where their mail goes (protocols 2.9)."""

import pytest

from appliance.config.model import Wiring
from appliance.config.routes import Routes, parse_transport
from appliance.config.values import NextHop
from appliance.mail.ports import Unavailable
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table


def routes(relay: dict[str, object], **files: str) -> Routes:
    wiring = Wiring.model_validate({"relay": relay})
    specs = [spec for spec in (*wiring.relay.domains, wiring.relay.routes) if isinstance(spec, str) and ":" in spec]
    return Routes(wiring, {spec: open_table(spec, lambda path: files[path].encode()) for spec in specs})


def hops(found: Routes, address: str) -> list[str]:
    local, _, domain = address.rpartition("@")
    return [str(hop) for hop in found.next_hops(Address(local, domain, address))]


def test_ours_is_exact() -> None:
    found = routes({"domains": ["Example.COM", "bücher.example"]})
    assert found.is_ours("example.com")
    assert found.is_ours("xn--bcher-kva.example")
    for other in ("sub.example.com", "xexample.com", "com", "", "example.com.", "[192.0.2.1]"):
        assert not found.is_ours(other), other


def test_ours_by_table() -> None:
    found = routes({"domains": ["a.example", "texthash:d", "pcre:p"]}, d="b.example x\n", p="/^c[0-9]\\.example$/ x\n")
    assert [name for name in ("a.example", "b.example", "c1.example", "d.example") if found.is_ours(name)] == [
        "a.example",
        "b.example",
        "c1.example",
    ]


def test_routes_by_address_domain_parent_and_star() -> None:
    found = routes(
        {
            "next_hop": "smtp:[10.0.0.1]",
            "routes": {
                "boss@example.com": "smtp:[10.0.0.2]",
                "example.com": ["smtp:[10.0.0.3]", "smtp:[10.0.0.4]:26"],
                ".example.com": "lmtp:unix:/run/l",
            },
        }
    )
    assert hops(found, "Boss@example.com") == ["smtp:[10.0.0.2]:25"]
    assert hops(found, "boss+x@example.com") == ["smtp:[10.0.0.2]:25"]
    assert hops(found, "ann@example.com") == ["smtp:[10.0.0.3]:25", "smtp:[10.0.0.4]:26"]
    assert hops(found, "ann@a.b.example.com") == ["lmtp:unix:/run/l"]
    assert hops(found, "ann@example.org") == ["smtp:[10.0.0.1]:25"]
    assert [str(hop) for hop in found.next_hops("example.com")] == ["smtp:[10.0.0.3]:25", "smtp:[10.0.0.4]:26"]
    assert hops(routes({"next_hop": "smtp:a.example", "routes": {"*": "smtp:b.example"}}), "x@y.example") == [
        "smtp:b.example"
    ]


TRANSPORT = """\
user@example.com  smtp:[10.0.0.2]:26
example.com       relay:[10.0.0.3], [10.0.0.4]:27
.example.com      lmtp:unix:/run/l
mx.example        smtp:
same.example      :
next.example      :[10.0.0.5]
"""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("user+x@example.com", ["smtp:[10.0.0.2]:26"]),
        ("ann@example.com", ["smtp:[10.0.0.3]:25", "smtp:[10.0.0.4]:27"]),
        ("ann@sub.example.com", ["lmtp:unix:/run/l"]),
        ("ann@mx.example", ["smtp:mx.example"]),
        ("ann@same.example", ["smtp:[10.0.0.1]:25"]),
        ("ann@next.example", ["smtp:[10.0.0.5]:25"]),
        ("ann@other.example", ["smtp:[10.0.0.1]:25"]),
    ],
)
def test_a_transport_table(address: str, expected: list[str]) -> None:
    found = routes({"next_hop": "smtp:[10.0.0.1]", "routes": "texthash:t"}, t=TRANSPORT)
    assert hops(found, address) == expected


def test_a_pattern_table_of_transports_sees_the_full_address_only() -> None:
    found = routes(
        {"next_hop": "smtp:[10.0.0.1]", "routes": "pcre:t"}, t="/^sub\\./ smtp:[10.0.0.9]\n/^a@/ smtp:[10.0.0.2]\n"
    )
    assert hops(found, "a@sub.example") == ["smtp:[10.0.0.2]:25"]
    assert hops(found, "b@sub.example") == ["smtp:[10.0.0.1]:25"]


def test_a_value_that_is_no_way_puts_the_mail_off() -> None:
    found = routes({"next_hop": "smtp:[10.0.0.1]", "routes": "texthash:t"}, t="example.com error:no\n")
    with pytest.raises(Unavailable, match="t:1"):
        hops(found, "a@example.com")


@pytest.mark.parametrize("value", ["error:5.1.1 no", "discard:", "retry:x", "uucp:host", "smtp:10.0.0.1", "nonsense"])
def test_what_is_no_transport(value: str) -> None:
    with pytest.raises(ValueError):
        parse_transport(value, "example.com")


def test_tls_levels_by_the_most_exact_name() -> None:
    tls = {"smtp:[10.0.0.1]:26": "verify", "10.0.0.1": "encrypt", "mail.example": "none", "*": "verify"}
    found = routes({"tls": tls})
    assert found.tls_level(NextHop("smtp", "10.0.0.1", 26)) == "verify"
    assert found.tls_level(NextHop("smtp", "10.0.0.1", 25)) == "encrypt"
    assert found.tls_level(NextHop("smtp", "mail.example", 25, True)) == "none"
    assert found.tls_level(NextHop("smtp", "other.example", 25, True)) == "verify"
    plain = routes({})
    assert plain.tls_level(NextHop("smtp", "10.0.0.1", 25)) == "may"
    assert plain.tls_level(NextHop("lmtp", path="/run/l")) == "none"
