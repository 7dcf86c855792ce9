"""postgrey's white lists as they are (protocols 7.1)."""

import pytest

from appliance.tables import open_table
from appliance.tables.postgrey import Exemptions

CLIENTS = b"""# shipped
example.org      # comment behind data
/^unknown_host\\.example\\.net$/
/cloud[0-9]+\\./
192.0.2.9
198.51.100.0/22
203.0.113
2001:db8::/32
"""

RECIPIENTS = b"postmaster@\nabuse@\nann@example.com\nexample.net\n/^list-.*@example\\.org$/\n"


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("example.org", "example.org"),
        ("mx.Example.ORG", "example.org"),
        ("badexample.org", None),
        ("cloud17.example.com", "/cloud[0-9]+\\./"),
        ("CLOUD1.x", "/cloud[0-9]+\\./"),
        ("unknown", None),
        ("192.0.2.9", "192.0.2.9"),
        ("192.0.2.90", None),
        ("198.51.103.255", "198.51.100.0/22"),
        ("198.51.104.1", None),
        ("203.0.113.77", "203.0.113"),
        ("2001:db8:1::1", "2001:db8::/32"),
        ("2001:db9::1", None),
    ],
)
def test_clients(key: str, entry: str | None) -> None:
    table = open_table("postgrey_clients:w", lambda _: CLIENTS)
    assert table.pattern and not table.source.flaws
    found = table.get(key)
    assert (found and found[0]) == entry
    assert found is None or found[1].startswith("w:")


def test_two_octets_are_a_16_with_a_warning() -> None:
    table = open_table("postgrey_clients:w", lambda _: b"10.1\n")
    assert table.get("10.1.200.3") == ("10.1.0.0/16", "w:1") or table.get("10.1.200.3") == ("10.1", "w:1")
    assert [flaw.fatal for flaw in table.source.flaws] == [False]


@pytest.mark.parametrize("line", [b"10.1.2.300\n", b"/(/\n", b"/half\n", b"two words\n", b"a@b\n", b"10.0.0.0/99\n"])
def test_wrong_entries_are_flaws(line: bytes) -> None:
    table = open_table("postgrey_clients:w", lambda _: line)
    assert [flaw.line for flaw in table.source.flaws] == [1]


@pytest.mark.parametrize(
    ("key", "hit"),
    [
        ("postmaster@any.example", True),
        ("Abuse@any.example", True),
        ("ann@example.com", True),
        ("ann+ext@example.com", True),
        ("bob@example.com", False),
        ("who@example.net", True),
        ("who@sub.example.net", True),
        ("who@badexample.net", False),
        ("list-x@example.org", True),
        ("nolist-x@example.org", False),
    ],
)
def test_recipients(key: str, hit: bool) -> None:
    table = open_table("postgrey_recipients:w", lambda _: RECIPIENTS)
    assert not table.source.flaws
    assert (table.get(key) is not None) is hit


def test_answers_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.tables.postgrey.REMEMBERED", 3)
    table = open_table("postgrey_clients:w", lambda _: CLIENTS)
    assert isinstance(table, Exemptions)
    for _ in range(2):
        assert table.get("mx.example.org") == ("example.org", "w:2")
        assert table.get("cloud1.example.com") == ("/cloud[0-9]+\\./", "w:4")
        assert [table.get(f"host{n}.example") for n in range(10)] == [None] * 10
        assert len(table._answers) <= 3
