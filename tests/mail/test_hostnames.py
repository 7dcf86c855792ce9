"""Names and addresses as Postfix's valid_hostname(3) takes them (tests/interop compares with a real one)."""

import pytest

from appliance.mail.hostnames import is_address, is_literal, is_name, undotted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", True),
        ("192.0.2.01", True),
        ("010.0.0.0001", True),
        ("0.0.0.0", True),
        ("000.0.00.0", True),
        ("0.1.2.3", False),
        ("00.0.0.1", False),
        ("256.0.0.1", False),
        ("1.2.3", False),
        ("1.2.3.4.5", False),
        ("1.2.3.\u0664", False),
        ("2001:db8::1", True),
        ("1:2:3", True),
        ("1:2", False),
        ("1:2:3:4:5:6:7::", False),
        ("::ffff:192.0.2.01", True),
        ("::ffff:0.1.2.3", False),
        ("fe80::1%eth0", False),
        ("1:::2", False),
        ("1::2::3", False),
        (":1:2", False),
        ("1:2:", False),
        ("", False),
        ("9" * 5000 + ".1.1.1", False),
    ],
)
def test_addresses_and_the_same_in_brackets(text: str, expected: bool) -> None:
    assert is_address(text) is expected
    assert is_literal(f"[{'IPv6:' if ':' in text else ''}{text}]") is expected
    assert not is_literal(text) and not is_literal(f"[{text}") and not is_literal(f"[{text}].")


def test_a_literal_of_ipv6_has_its_prefix() -> None:
    assert is_literal("[ipv6:::1]") and not is_literal("[::1]") and not is_literal("[ipv6:192.0.2.1]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail", True),
        ("mail.example.org", True),
        ("A_b.Example", True),
        ("a.1", True),
        ("1-2", True),
        ("12345", False),
        ("1.2.3", False),
        ("a..b", False),
        ("-a.example", False),
        ("a-.example", False),
        ("a" * 64, False),
        (".".join("a" * 128), True),
        (".".join("a" * 129), False),
        ("\u212aelvin.example", False),
        ("m\u00fcnchen.example", False),
        ("", False),
        ("a\n", False),
    ],
)
def test_names(text: str, expected: bool) -> None:
    assert is_name(text) is expected


def test_one_dot_at_the_end_is_none() -> None:
    assert [undotted(text) for text in ("a.", "a..", "a", ".")] == ["a", "a..", "a", ""]
