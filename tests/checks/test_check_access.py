"""access: the whole vocabulary of access(5), its lookup orders, replies repaired, broken tables."""

from typing import Any

import pytest

from appliance.checks import access
from appliance.mail.actions import WORDS, read_entry
from appliance.mail.context import Client
from appliance.mail.ports import Ports, Site, Unavailable
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table
from tests.engine.scripted import address, context

SITE = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")


@pytest.mark.parametrize(
    ("value", "outcome", "reply"),
    [
        ("OK", "ok", ""),
        ("relay", "ok", ""),
        ("123456", "ok", ""),
        ("250", "ok", ""),
        ("DUNNO whatever", "dunno", ""),
        ("REJECT", "reject", ""),
        ("reject Go away", "reject", "554 5.7.1 Sender address rejected: Go away"),
        ("REJECT 5.1.1 Nobody", "reject", "554 5.1.7 Sender address rejected: Nobody"),
        ("DEFER Later", "defer", "450 4.7.1 Sender address rejected: Later"),
        ("DEFER 5.2.0 Later", "defer", "450 4.2.0 Sender address rejected: Later"),
        ("DEFER_IF_PERMIT", "defer_if_permit", ""),
        ("defer_if_reject x", "defer_if_reject", "450 4.7.1 Sender address rejected: x"),
        ("550", "reject", "550 5.7.1 Sender address rejected: Access denied"),
        ("550 5.1.2 No such domain", "reject", "550 5.1.8 Sender address rejected: No such domain"),
        ("450 4.7.1", "defer", "450 4.7.1 Sender address rejected: Access denied"),
        ("421 Bye", "hangup", "421 4.7.1 Sender address rejected: Bye"),
        ("521 Bye", "hangup", "521 5.7.1 Sender address rejected: Bye"),
        ("HANGUP", "hangup", ""),
        ("DISCARD silently", "discard", ""),
        ("HOLD look at it", "hold", ""),
        ("WARN hm", "warn", ""),
        ("INFO hm", "info", ""),
        ("OK\tx", "ok", ""),
        ("REJECT\tspam", "reject", "554 5.7.1 Sender address rejected: spam"),
        ("reject \t 5.1.1\tNobody", "reject", "554 5.1.7 Sender address rejected: Nobody"),
        ("550\t5.7.1 x", "reject", "550 5.7.1 Sender address rejected: x"),
        ("DEFER\tx", "defer", "450 4.7.1 Sender address rejected: x"),
        ("PREPEND\tX-Seen: yes", "prepend", ""),
    ],
)
def test_words(value: str, outcome: str, reply: str) -> None:
    entry = read_entry(value, "sender")
    assert (entry.outcome, entry.reply) == (outcome, reply)


@pytest.mark.parametrize(
    ("value", "argument"),
    [
        ("FILTER smtp:[127.0.0.1]:10025", "smtp:[127.0.0.1]:10025"),
        ("REDIRECT abuse@example.com", "abuse@example.com"),
        ("BCC copy@example.com", "copy@example.com"),
        ("PREPEND X-Seen: yes, indeed", "X-Seen: yes, indeed"),
    ],
)
def test_words_with_an_argument(value: str, argument: str) -> None:
    assert read_entry(value, "client").argument == argument


@pytest.mark.parametrize(
    "value",
    [
        *("", "REJCT", "permit_mynetworks, reject", "x@y", "FILTER", "FILTER smtp", "REDIRECT me", "BCC @", "PREPEND hi"),
        *("REDIRECT a b@example.com", "BCC a@b@", "REDIRECT <a@example.com>", "BCC a@example.com, b@example.com"),
        *(
            "250 ok",
            "300 x",
            "600 blah",
            "4505 spam",
            "5500 spam",
            "45 x",
            "0\t0",
            "\u0664\u0665\u0660 x",
            "\u0662\u0665\u0660",
        ),
    ],
)
def test_what_is_no_action(value: str) -> None:
    with pytest.raises(ValueError, match=r"is no action|needs"):
        read_entry(value, "client")


@pytest.mark.parametrize(
    ("subject", "status", "repaired"),
    [
        ("sender", "5.1.1", "5.1.7"),
        ("sender", "5.1.2", "5.1.8"),
        ("sender", "5.1.5", "5.1.0"),
        ("sender", "5.1.9", "5.1.0"),
        ("recipient", "5.1.7", "5.1.3"),
        ("recipient", "5.1.8", "5.1.2"),
        ("recipient", "5.1.6", "5.1.6"),
        ("client", "5.1.1", "5.0.0"),
        ("helo", "5.1.3", "5.0.0"),
        ("helo", "4.5.2", "5.5.2"),
    ],
)
def test_statuses_are_repaired(subject: Any, status: str, repaired: str) -> None:
    assert read_entry(f"REJECT {status} x", subject).reply.split()[1] == repaired


# -- tables ----------------------------------------------------------------------------------------------------------


def ask(stage: str, *specs: str, **more: Any) -> Verdict:
    ports = Ports(site=SITE, tables={spec: open_table(spec, lambda path: b"") for spec in specs})
    kind = {"connect": "client", "helo": "helo", "mail": "sender", "rcpt": "recipient"}[stage]
    return access.check(context(stage, **more), access.Policy(**{kind: specs}), ports)


def test_no_table_and_no_hit_say_nothing() -> None:
    ports = Ports(site=SITE)
    for stage in access.STAGES:
        assert access.check(context(stage), access.Policy(), ports).outcome == "dunno"
    assert ask("connect", "inline:{{192.0.2.9 = REJECT}}").outcome == "dunno"


@pytest.mark.parametrize(
    ("key", "hit"),
    [
        ("mail.example.net", True),
        ("example.net", True),
        ("net", True),
        ("192.0.2.1", True),
        ("192.0.2", True),
        ("192", True),
        ("192.0.2.", False),
        (".example.net", False),
        ("unknown", False),
    ],
)
def test_client_keys(key: str, hit: bool) -> None:
    assert (ask("connect", f"inline:{{{{{key} = REJECT}}}}").outcome == "reject") is hit


def test_an_unproven_client_is_unknown() -> None:
    client = Client(address="192.0.2.1", reverse_name="mail.example.net")
    assert ask("connect", "inline:{{unknown = HOLD}}", client=client).outcome == "hold"
    assert ask("connect", "inline:{{mail.example.net = HOLD}}", client=client).outcome == "dunno"


def test_networks_and_patterns() -> None:
    assert ask("connect", "cidr:{{192.0.2.0/24 REJECT x}}").reply == "554 5.7.1 Client host rejected: x"
    assert ask("helo", "pcre:{{/^mail\\./ WARN}}").outcome == "warn"
    assert ask("mail", "regexp:{{/@example\\.net$/ DISCARD}}").outcome == "discard"


@pytest.mark.parametrize("key", ["s+x@example.net", "s@example.net", "example.net", "net", "s+x@", "s@"])
def test_sender_keys(key: str) -> None:
    verdict = ask("mail", f"inline:{{{{{key} = BCC copy@example.org}}}}", sender=address("s+x@example.net"))
    assert (verdict.outcome, verdict.argument) == ("bcc", "copy@example.org")


def test_the_null_sender_has_a_key_of_its_own() -> None:
    null = Address("", "", "")
    assert ask("mail", "inline:{{<> = REJECT}}", sender=null).outcome == "reject"
    assert ask("mail", "inline:{{<> = REJECT}}").outcome == "dunno"


def test_a_longer_key_of_a_later_table_comes_first() -> None:
    verdict = ask("rcpt", "inline:{{example.com = REJECT}}", "inline:{{r@example.com = OK}}")
    assert verdict.outcome == "ok" and verdict.evidence["key"] == "r@example.com"


def test_dunno_ends_the_search() -> None:
    assert ask("rcpt", "inline:{{r@example.com = DUNNO}, {example.com = REJECT}}").outcome == "dunno"


def test_evidence_names_table_and_key() -> None:
    spec = "texthash:/t"
    ports = Ports(site=SITE, tables={spec: open_table(spec, lambda path: b"# x\nexample.com REJECT no\n")})
    verdict = access.check(context("rcpt"), access.Policy(recipient=spec), ports)
    assert verdict.evidence == {"subject": "recipient", "key": "example.com", "value": "REJECT no", "table": "/t:2"}
    assert verdict.reason == "/t:2: recipient example.com: REJECT no"
    assert "/t" not in verdict.reply


def test_a_value_that_is_no_action_is_temperror_with_its_place() -> None:
    verdict = ask("rcpt", "inline:{{example.com = REJCT}}")
    assert verdict.outcome == "temperror" and "rejct is no action" in verdict.reason and verdict.evidence["key"]


def test_a_table_that_is_not_open_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="texthash:x is not open"):
        access.check(context("connect"), access.Policy(client="texthash:x"), Ports(site=SITE))


def test_every_word_has_an_action() -> None:
    for word in WORDS.values():
        assert word in access.OUTCOMES
