"""Sendmail's texts as they are: tags, search orders and values (protocols 2.10)."""

import pytest

from appliance.checks.access import read_entry
from appliance.config.transports import parse_transport
from appliance.tables import open_table
from appliance.tables.sendmail import READERS, read_action

ACCESS = b"""\
# local policy
Connect:bad.example\tREJECT
Connect:192.0.2\tERROR:5.7.1:550 Blocked network
Connect:192.0.2.9\tOK
Connect:IPv6:2001:db8::1\tDISCARD
From:spam.example\tREJECT
From:friend@spam.example\tOK
from:joe+*@x.example\tDISCARD
From:sales@\t550 No sales
To:old@example.com\tERROR:5.1.6:551 moved
To:example.net\tRELAY
cyberspammer.com\t"ERROR:550 We don't accept mail from spammers"
198.51.100\tREJECT
To:held@example.com\tQUARANTINE:look at it
From:skip.spam.example\tSKIP
ClientRate:192.0.2.1\t10
Connect:[192.0.2.77]\tREJECT
"""


def values(kind: str, text: bytes, *keys: str) -> list[str | None]:
    table = open_table(f"{kind}:t", lambda _: text)
    assert not any(flaw.fatal for flaw in table.source.flaws), table.source.flaws
    found = [table.get(key) for key in keys]
    return [hit[0] if hit else None for hit in found]  # type: ignore[index]


def test_access_by_client() -> None:
    asked = (
        "mx.bad.example",
        "192.0.2.1",
        "192.0.2.9",
        "2001:db8::1",
        "198.51.100.7",
        "a.cyberspammer.com",
        "spam.example",
    )
    assert values("sendmail_connect", ACCESS, *asked) == [
        "REJECT", "550 5.7.1 Blocked network", "OK", "DISCARD", "REJECT", "550 We don't accept mail from spammers", None,
    ]  # fmt: skip


def test_access_by_sender_and_recipient() -> None:
    asked = (
        "x@spam.example", "x@sub.spam.example", "Friend@spam.example", "friend+a@spam.example", "joe+list@x.example",
        "joe@x.example", "sales@any.example", "a@cyberspammer.com", "x@skip.spam.example", "<>",
    )  # fmt: skip
    assert values("sendmail_from", ACCESS, *asked) == [
        "REJECT", "REJECT", "OK", "OK", "DISCARD", None, "550 No sales",
        "550 We don't accept mail from spammers", "DUNNO", None,
    ]  # fmt: skip
    assert values("sendmail_to", ACCESS, "old@example.com", "any@example.net", "held@example.com", "x@spam.example") == [
        "551 5.1.6 moved", "RELAY", "HOLD look at it", None,
    ]  # fmt: skip


def test_what_is_not_read_is_said() -> None:
    table = open_table("sendmail_connect:t", lambda _: ACCESS + b"x nonsense\nlonely\n")
    assert [(flaw.line, flaw.fatal) for flaw in table.source.flaws] == [(16, False), (17, False), (18, True), (19, True)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ok", "OK"),
        ("Relay", "RELAY"),
        ("ERROR:4.2.1:450 try later", "450 4.2.1 try later"),
        ('ERROR:"550 no"', "550 no"),
        ("ERROR:550 5.7.1 no", "550 5.7.1 no"),
        ("550", "550"),
        ("QUARANTINE:", "HOLD"),
        ("error:nouser 550 gone", "550 5.1.1 gone"),
    ],
)
def test_actions_are_those_of_access_5(value: str, expected: str) -> None:
    assert read_action(value) == expected
    read_entry(expected, "sender")


@pytest.mark.parametrize("value", ["ERROR:", "ERROR:200 fine", "maybe", "FRIEND"])
def test_what_is_no_action(value: str) -> None:
    with pytest.raises(ValueError, match="is no action"):
        read_action(value)


@pytest.mark.parametrize(("value", "near"), [("REJCT", "REJECT"), ("Dscard", "DISCARD"), ("maybe", ""), ("x" * 5000, "")])
def test_what_is_no_action_is_told_with_what_is_near(value: str, near: str) -> None:
    with pytest.raises(ValueError, match=r"access table( \(did you mean |\Z)") as caught:
        read_action(value)
    assert str(caught.value).partition(" (did you mean ")[2] == (f"{near}?)" if near else "")


def test_mailertable() -> None:
    text = b"example.com esmtp:[10.0.0.1]\n.example.com\tsmtp:%1.inside.example:backup.example\n.\trelay:[fe80::1]\n"
    text += b"gone.example error:5.1.2:550 no such host\nslow.example ERROR:4.2.0:450 slowly\n"
    text += b"full.example error:tempfail 451 later\nnobody.example error:nouser No such user\nhole.example discard:\n"
    text += b"old.example ESMTP:[10.0.0.2]:26\nown.example local:joe\n"
    keys = ("joe@example.com", "a.b.example.com", "other.example", "gone.example", "slow.example", "full.example")
    keys += ("nobody.example", "hole.example", "old.example", "own.example")
    found = values("sendmail_mailertable", text, *keys)
    assert found == [
        "smtp:[10.0.0.1]",
        "smtp:a.b.inside.example,backup.example",
        "smtp:[fe80::1]",
        "error:5.1.2 no such host",
        "retry:4.2.0 slowly",
        "retry:4.3.0 later",
        "error:5.1.1 No such user",
        "discard:",
        "smtp:[10.0.0.2],26",
        "local:joe",
    ]
    ways = [parse_transport(str(value), "example.com") for value in found[:8]]
    assert [str(hop) for hop in ways[1].hops] == ["smtp:a.b.inside.example", "smtp:backup.example"]


def test_virtusertable() -> None:
    text = (
        b"joe@example.com joe\nann+work@example.com boss\nann++@example.com ann-%2\nann+*@example.com ann-none\n"
        b"++@example.org d%2@x\n+*@example.org e@x\n@example.org %1%3@inside\n"
        b"no@example.com error:nouser 550 No such user\n"
        b"off@example.com error:5.7.0:550 off\n"
    )
    asked = {
        "Joe@example.com": "joe", "joe+x@example.com": "joe",
        "ann+work@example.com": "boss", "ann+home@example.com": "ann-home",
        "ann+@example.com": "ann-none", "ann@example.com": None, "z+y@example.org": "dy@x", "z+@example.org": "e@x",
        "z@example.org": "z@inside", "no@example.com": "error:5.1.1 No such user", "off@example.com": "error:5.7.0 off",
    }  # fmt: skip
    assert values("sendmail_virtusertable", text, *asked) == list(asked.values())


def test_genericstable() -> None:
    text = b"joe joe.doe@example.com\nann@host.example ann@example.com\nbob+*@host.example bob-list@example.com\n"
    keys = ("joe@host.example", "joe", "ann@host.example", "ann@other.example", "bob+x@host.example")
    assert values("sendmail_genericstable", text, *keys) == [
        "joe.doe@example.com", "joe.doe@example.com", "ann@example.com", None, "bob-list@example.com",
    ]  # fmt: skip


def test_classes() -> None:
    text = b"# ours\nexample.com\nExample.ORG # a comment\n"
    keys = ("example.com", "sub.example.com", "example.org", "com")
    assert values("sendmail_relay_domains", text, *keys) == ["example.com", "example.com", "Example.ORG", None]
    assert values("sendmail_local_host_names", text, *keys) == ["example.com", None, "Example.ORG", None]


@pytest.mark.parametrize("kind", READERS)
def test_octets_of_any_kind_are_flaws_and_never_crash(kind: str) -> None:
    for data in (b"", b"\xff\xfe\0", b"a", b":\n", b"Connect: x\n", b"@ @\n", b"[ x\n" * 100, b"Connect:IPv6: OK\n"):
        table = open_table(f"{kind}:t", lambda _, data=data: data)  # type: ignore[misc]
        for key in ("", "@", "a@", "@b", "a@b", "::1", "1.2.3.4", "<>", "x" * 5000, "a." * 1000):
            table.get(key)


def test_a_network_with_its_length_is_told() -> None:
    """Sendmail's access table knows leading octets only."""
    table = open_table(
        "sendmail_connect:t", lambda _: b"Connect:192.0.2.0/24 REJECT\nIPv6:2001:db8::/32 REJECT\n192.0.3 REJECT\n"
    )
    assert [(flaw.line, flaw.column, flaw.fatal) for flaw in table.source.flaws] == [(1, 9, False), (2, 6, False)]


def test_a_line_of_control_characters_is_a_mistake_with_its_line() -> None:
    for kind in ("sendmail_from", "sendmail_mailertable", "sendmail_virtusertable", "sendmail_genericstable"):
        table = open_table(f"{kind}:t", lambda _: "\x1f\n\u2028\n".encode())
        assert [(flaw.line, flaw.fatal) for flaw in table.source.flaws] == [(1, True), (2, True)]
