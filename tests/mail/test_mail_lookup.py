"""Key orders of access(5), transport(5) and recipient lists (protocols 2.1, 2.2, 2.9)."""

import pytest

from appliance.mail.lookup import (
    Found,
    Key,
    address_keys,
    address_map_keys,
    client_keys,
    domain_keys,
    rewrite_keys,
    search,
    sender_keys,
    split_extension,
    transport_keys,
)
from appliance.mail.ports import Unavailable
from appliance.protocol.smtp.address import Address


class Fake:
    """A table that notes what it was asked."""

    def __init__(self, name: str, entries: dict[str, str], *, pattern: bool = False) -> None:
        self.name, self.entries, self.pattern = name, entries, pattern
        self.asked: list[str] = []

    def get(self, key: str) -> tuple[str, str] | None:
        self.asked.append(key)
        value = self.entries.get(key)
        return None if value is None else (value, f"{self.name}:1")


def texts(keys: list[Key]) -> list[str]:
    return [key.text for key in keys]


def address(text: str) -> Address:
    local, at, domain = text.rpartition("@")
    return Address(local, domain, text) if at else Address(text, "", text)


@pytest.mark.parametrize(
    ("name", "client", "expected"),
    [
        ("a.b.example", "192.0.2.1", ["a.b.example", "b.example", "example", "192.0.2.1", "192.0.2", "192.0", "192"]),
        ("unknown", "2001:db8::1", ["unknown", "2001:db8::1", "2001:db8:", "2001:db8", "2001"]),
        ("192.0.2.9", "192.0.2.9", ["192.0.2.9", "192.0.2.9", "192.0.2", "192.0", "192"]),
        ("", "192.0.2.1", ["192.0.2.1", "192.0.2", "192.0", "192"]),
        ("unknown", "local", ["unknown", "local"]),
    ],
)
def test_clients(name: str, client: str, expected: list[str]) -> None:
    assert texts(client_keys(name, client)) == expected


def test_only_the_whole_name_and_the_whole_address_are_full_keys() -> None:
    assert [key.text for key in client_keys("a.example", "192.0.2.1") if key.full] == ["a.example", "192.0.2.1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mx.example.com", ["mx.example.com", "example.com", "com"]),
        ("example.com.", ["example.com", "com"]),
        ("[192.0.2.1]", ["[192.0.2.1]"]),
        ("[IPv6:2001:db8::1]", ["[IPv6:2001:db8::1]"]),
        ("", []),
        ("..", []),
        ("a..b", ["a..b", ".b", "b"]),
    ],
)
def test_domains(name: str, expected: list[str]) -> None:
    assert texts(list(domain_keys(name))) == expected


@pytest.mark.parametrize(
    ("text", "delimiter", "expected"),
    [
        (
            "user+ext@sub.example.com",
            "+",
            [
                "user+ext@sub.example.com",
                "user@sub.example.com",
                "sub.example.com",
                "example.com",
                "com",
                "user+ext@",
                "user@",
            ],
        ),
        ("user@example.com", "+", ["user@example.com", "example.com", "com", "user@"]),
        ("user+ext@example.com", "", ["user+ext@example.com", "example.com", "com", "user+ext@"]),
        ("user@[192.0.2.1]", "+", ["user@[192.0.2.1]", "[192.0.2.1]", "user@"]),
        ("", "+", ["<>"]),
        ("postmaster", "+", ["postmaster", "postmaster@"]),
    ],
)
def test_addresses(text: str, delimiter: str, expected: list[str]) -> None:
    keys = address_keys(address(text), delimiter)
    assert texts(keys) == expected
    assert [key.full for key in keys] == [True] + [False] * (len(keys) - 1)


def test_the_domain_of_an_address_is_a_partial_key() -> None:
    """A pattern for a domain name must not be asked about the domain of an address."""
    assert [key.text for key in address_keys(address("u@example.com")) if key.full] == ["u@example.com"]


def test_recipient_lists() -> None:
    assert texts(address_map_keys(address("a+b@example.com"))) == ["a+b@example.com", "a@example.com", "@example.com"]


def test_transports() -> None:
    assert texts(transport_keys(address("a+b@x.example.com"))) == [
        "a+b@x.example.com",
        "a@x.example.com",
        "x.example.com",
        ".example.com",
        ".com",
        "*",
    ]


@pytest.mark.parametrize(
    ("local", "delimiter", "expected"),
    [
        ("user+ext", "+", ("user", "ext")),
        ("user-a+b", "+-", ("user", "a+b")),
        ("+ext", "+", ("+ext", "")),
        ("user+", "+", ("user", "")),
        ("PostMaster", "p", ("PostMaster", "")),
        ("mailer-daemon", "-", ("mailer-daemon", "")),
        ("double-bounce", "-", ("double-bounce", "")),
        ("owner-list", "-", ("owner-list", "")),
        ("list-request", "-", ("list-request", "")),
        ("owner+x", "+", ("owner", "x")),
        ("owner-a+b", "+", ("owner-a", "b")),
        ("owner-a+b", "+-", ("owner-a+b", "")),
        ("a+b-request", "+-", ("a+b-request", "")),
        ("a-b+c", "+-", ("a", "b+c")),
        ("user", "", ("user", "")),
    ],
)
def test_extensions(local: str, delimiter: str, expected: tuple[str, str]) -> None:
    assert split_extension(local, delimiter) == expected


def test_one_key_goes_through_all_tables_before_the_next() -> None:
    first, second = Fake("first", {"example.com": "short"}), Fake("second", {"u@example.com": "full"})
    assert search([first, second], address_keys(address("u@example.com"))) == Found("u@example.com", "full", "second:1")
    assert first.asked == ["u@example.com"]


def test_pattern_tables_see_full_keys_only() -> None:
    table = Fake("p", {}, pattern=True)
    assert search([table], client_keys("a.example", "192.0.2.1")) is None
    assert table.asked == ["a.example", "192.0.2.1"]


def test_an_empty_result_is_no_match_but_trouble() -> None:
    with pytest.raises(Unavailable, match="t:1"):
        search([Fake("t", {"x": ""}), Fake("u", {"x": "OK"})], [Key("x", True)])


def test_parents_with_a_dot_where_the_operator_wants_them_so() -> None:
    assert texts(list(domain_keys("mx.example.com", True))) == ["mx.example.com", ".example.com", ".com"]
    assert texts(client_keys("a.b.example", "192.0.2.1", True))[:3] == ["a.b.example", ".b.example", ".example"]
    found = texts(address_keys(address("u@sub.example.com"), "+", True))
    assert found == ["u@sub.example.com", "sub.example.com", ".example.com", ".com", "u@"]


@pytest.mark.parametrize(
    ("text", "local", "expected"),
    [
        ("user+ext@example.com", False, ["user+ext@example.com", "user@example.com", "@example.com"]),
        (
            "user+ext@example.com",
            True,
            ["user+ext@example.com", "user@example.com", "user+ext", "user", "@example.com"],
        ),
        ("user@example.com", True, ["user@example.com", "user", "@example.com"]),
    ],
)
def test_maps_that_rewrite(text: str, local: bool, expected: list[str]) -> None:
    keys = rewrite_keys(address(text), "+", local=local)
    assert texts(keys) == expected
    assert [key.text for key in keys if key.full] == expected[:1]


def test_a_local_part_that_needs_quotes_is_looked_up_with_them_first() -> None:
    keys = [key.text for key in transport_keys(Address("a b+c", "example.com", '"a b+c"@example.com'))]
    assert keys[:4] == ['"a b+c"@example.com', "a b+c@example.com", '"a b"@example.com', "a b@example.com"]


def test_keys_by_the_sender() -> None:
    assert [key.text for key in sender_keys(address("u+x@d.example"))] == ["u+x@d.example", "u@d.example", "@d.example"]
    assert sender_keys(Address("", "", "")) == [Key("<>", True)]
