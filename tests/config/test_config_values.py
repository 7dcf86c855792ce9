"""What operators write for next hops, addresses, networks."""

from collections.abc import Callable

import pytest

from appliance.config.values import (
    Endpoint,
    NextHop,
    network,
    parse_front_address,
    parse_listen_address,
    parse_nameserver,
    parse_networks,
    parse_next_hop,
    parse_peer,
)


@pytest.mark.parametrize(
    ("text", "hop", "canonical"),
    [
        ("smtp:[10.0.0.25]:25", NextHop("smtp", "10.0.0.25", 25), "smtp:[10.0.0.25]:25"),
        ("smtp:[Mail.Example.com]", NextHop("smtp", "mail.example.com", 25), "smtp:[mail.example.com]:25"),
        ("smtp:[2001:DB8::1]:26", NextHop("smtp", "2001:db8::1", 26), "smtp:[2001:db8::1]:26"),
        ("smtp:[IPv6:2001:db8::1]", NextHop("smtp", "2001:db8::1", 25), "smtp:[2001:db8::1]:25"),
        ("smtp:example.com", NextHop("smtp", "example.com", 25, True), "smtp:example.com"),
        ("smtp:example.com:587", NextHop("smtp", "example.com", 587, True), "smtp:example.com:587"),
        ("smtp:[localhost]:2525", NextHop("smtp", "localhost", 2525), "smtp:[localhost]:2525"),
        ("lmtp:unix:/run/dovecot/lmtp", NextHop("lmtp", path="/run/dovecot/lmtp"), "lmtp:unix:/run/dovecot/lmtp"),
        ("lmtp:[127.0.0.1]:24", NextHop("lmtp", "127.0.0.1", 24), "lmtp:[127.0.0.1]:24"),
        ("lmtp:store.example:2003", NextHop("lmtp", "store.example", 2003), "lmtp:[store.example]:2003"),
    ],
)
def test_next_hops(text: str, hop: NextHop, canonical: str) -> None:
    assert parse_next_hop(text) == hop
    assert str(hop) == canonical
    assert parse_next_hop(canonical) == hop


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.0.0.25:25", "smtp:[host]:port"),
        ("smtp:10.0.0.25", "brackets: smtp:[10.0.0.25]"),
        ("smtp:10.0.0.25:25", "brackets"),
        ("smtp:", "smtp:[host]:port"),
        ("smtp:[10.0.0.25]:0", "ports are"),
        ("smtp:[10.0.0.25]:99999", "ports are"),
        ("smtp:[10.0.0.25", "no next hop"),
        ("smtp:[10.0.0.25]x", "no next hop"),
        ("smtp:[]", "no domain name"),
        ("smtp:unix:/x", "lmtp:unix:/x"),
        ("lmtp:unix:", "unix:/path"),
        (f"lmtp:unix:/{'x' * 120}", "107"),
        ("smtp:bad..name", "no domain name"),
        ("smpt:[10.0.0.25]", "no next hop"),
        ("smtp:a b", "no next hop"),
        ("smtp:[fe80::1%eth0]:25", "no domain name"),
    ],
)
def test_what_is_no_next_hop_says_how_it_is_written(text: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_next_hop(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_listen_address, "0.0.0.0:25", Endpoint("0.0.0.0", 25)),
        (parse_listen_address, "[::]:25", Endpoint("::", 25)),
        (parse_listen_address, "127.0.0.1:0", Endpoint("127.0.0.1", 0)),
        (parse_listen_address, "unix:/run/x", Endpoint(path="/run/x")),
        (parse_peer, "clam.example:3310", Endpoint("clam.example", 3310)),
        (parse_peer, "[::1]:783", Endpoint("::1", 783)),
        (parse_peer, "unix:/run/clamav/clamd.ctl", Endpoint(path="/run/clamav/clamd.ctl")),
        (parse_nameserver, "127.0.0.1:5353", Endpoint("127.0.0.1", 5353)),
        (parse_nameserver, "192.0.2.53", Endpoint("192.0.2.53", 53)),
        (parse_nameserver, "2001:db8::53", Endpoint("2001:db8::53", 53)),
        (parse_nameserver, "[::1]:54", Endpoint("::1", 54)),
    ],
)
def test_addresses(parse: Callable[[str], Endpoint], text: str, expected: Endpoint) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_listen_address, "localhost:25"),
        (parse_listen_address, "25"),
        (parse_listen_address, ":25"),
        (parse_listen_address, "*:25"),
        (parse_listen_address, "0.0.0.0"),
        (parse_listen_address, "::1:25"),
        (parse_listen_address, "127.0.0.1:70000"),
        (parse_listen_address, "unix:"),
        (parse_peer, "/run/clamd.ctl"),
        (parse_peer, "clamd"),
        (parse_peer, "host:0"),
        (parse_nameserver, "dns.example:53"),
    ],
)
def test_what_is_no_address(parse: Callable[[str], Endpoint], text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_networks() -> None:
    found = parse_networks(["192.0.2.0/24", "[2001:db8::]/32", "10.0.0.1", "::1"])
    assert [str(net) for net in found] == ["192.0.2.0/24", "2001:db8::/32", "10.0.0.1/32", "::1/128"]


@pytest.mark.parametrize(
    ("text", "hint"), [("10.0.0.1/8", "did you mean 10.0.0.0/8?"), ("10.0.0/8", "no network"), (7, "written")]
)
def test_what_is_no_network(text: object, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        network(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("inet:127.0.0.1:10041", "127.0.0.1:10041"),
        ("inet:[::1]:10041", "[::1]:10041"),
        ("inet:127.0.0.1:0", "127.0.0.1:0"),
        ("unix:/run/milter.sock", "unix:/run/milter.sock"),
        ("unix:milter.sock", "unix:milter.sock"),
    ],
)
def test_where_a_front_listens(text: str, shown: str) -> None:
    assert str(parse_front_address(text)) == shown


@pytest.mark.parametrize("text", ["127.0.0.1:10041", "inet:10041@127.0.0.1", "local:/run/x", "inet:host:1", "unix:", ""])
def test_where_no_front_can_listen(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|unix|address"):
        parse_front_address(text)
