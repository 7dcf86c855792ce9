"""How lists are written, what they are asked for, and what their answers mean."""

import pytest

from appliance.mail.dns_list import address_label, error, host, parse_site


@pytest.mark.parametrize(
    ("text", "zone", "weight"),
    [
        ("bl.example.org", "bl.example.org", 1),
        ("BL.example.org.", "bl.example.org", 1),
        ("bl.example.org*3", "bl.example.org", 3),
        ("wl.example.org=127.0.[0..255].[1..3]*-2", "wl.example.org", -2),
        ("bl.example.org=127.0.0.2", "bl.example.org", 1),
    ],
)
def test_a_list_as_it_is_written(text: str, zone: str, weight: int) -> None:
    site = parse_site(text)
    assert (site.zone, site.weight) == (zone, weight)


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("a.example", "127.0.0.2 127.0.0.11 127.0.1.2 127.1.2.3", "127.0.0.1 127.0.0.255 127.255.255.254 127.255.255.2"),
        ("a.example=127.0.0.2", "127.0.0.2", "127.0.0.3 127.0.1.2 127.0.0.22"),
        ("a.example=127.0.0.[2..4]", "127.0.0.2 127.0.0.3 127.0.0.4", "127.0.0.1 127.0.0.5"),
        ("a.example=127.0.0.[2..11;20;&64]", "127.0.0.11 127.0.0.20 127.0.0.64 127.0.0.200", "127.0.0.12 127.0.0.32"),
        (
            "a.example=127.0.0.&10",
            "127.0.0.2 127.0.0.8 127.0.0.10 127.0.0.11 127.0.0.127",
            "127.0.0.1 127.0.0.4 127.0.0.128",
        ),
        ("a.example=127.[0..255].[0..255].[0..255]", "127.0.0.1 127.0.0.255", "127.255.255.1 127.255.255.255 128.0.0.2"),
    ],
)
def test_which_answers_are_a_listing(text: str, yes: str, no: str) -> None:
    site = parse_site(text)
    assert [code for code in yes.split() if not site.listed(code)] == []
    assert [
        code for code in [*no.split(), "10.0.0.2", "203.0.113.5", "", "::1", "127.0.0", "127.0.0.x"] if site.listed(code)
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "*3",
            "=127.0.0.2",
            "a b.example",
            "a..example",
            "-.example",
            "a.example*",
            "a.example*x",
            "a.example=",
            "a/b",
        ),
        *("a.example=127.0.0", "a.example=127.0.0.2.3", "a.example=127.0.0.256", "a.example=127.0.0.[9..2]"),
        *("a.example=127.0.0.[2", "a.example=127.0.0.[]", "a.example=127.0.0.[2,3]", "a.example=127.0.0.2x"),
        *("a.example=10.0.0.2", "a.example=127.0.0.2.", "a.example=127.0.0.[2..]", "a.example=127.0.0.-2"),
    ],
)
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"written|domain name|four octets|neither|lets none"):
        parse_site(text)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("127.0.0.2", ""),
        ("127.255.255.252", "a typing error"),
        ("127.255.255.254", "public resolver"),
        ("127.255.255.255", "too often"),
        ("127.255.255.1", "not served"),
        ("198.51.100.7", "no answer of a DNS list"),
    ],
)
def test_errors_are_known_as_such(answer: str, said: str) -> None:
    assert said in error(answer) and bool(error(answer)) is bool(said)


@pytest.mark.parametrize(
    ("address", "label"),
    [
        ("192.0.2.99", "99.2.0.192"),
        ("::ffff:192.0.2.99", "99.2.0.192"),
        ("2001:db8::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"),
        *((inside, "") for inside in ("127.0.0.1", "10.1.2.3", "192.168.1.1", "172.31.0.1", "100.64.0.1", "169.254.1.1")),
        *((inside, "") for inside in ("::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "0.0.0.0", "local", "")),
    ],
)
def test_the_label_of_an_address(address: str, label: str) -> None:
    assert address_label(address) == label


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("Mail.Example.COM.", "mail.example.com"),
        ("a_b.example.com", "a_b.example.com"),
        *((bad, "") for bad in ("", "localhost", "192.0.2.1", "[192.0.2.1]", "a b.com", "a..com", "-a.com", "bücher.de")),
        ("x." * 130 + "com", ""),
        ("a" * 3000 + ".com", ""),
    ],
)
def test_names_from_strangers(name: str, asked: str) -> None:
    assert host(name) == asked


def test_a_customers_key_is_not_shown() -> None:
    assert parse_site("abcdefghij0123456789abcdef.zen.dq.example.net").shown == "KEY.zen.dq.example.net"
    assert parse_site("zen.example.org").shown == "zen.example.org"
