"""The author as every reader will show him, or in which ways readers differ (A4)."""

import base64
import random
import time

import pytest

from appliance.daemons.fronts.content import RamContent
from appliance.mailauth.author import of, read

TRACE = b"Received: from a (b [192.0.2.1])\r\n\tby mx.example.com;\r\n\tMon, 1 Jan 2024 12:00:00 +0000\r\n"


def header(value: bytes) -> bytes:
    return TRACE + b"From: " + value + b"\r\nTo: someone@example.com\r\n\r\n"


@pytest.mark.parametrize(
    ("value", "address", "name"),
    [
        (b"a@b.org", "a@b.org", ""),
        (b"<a@b.org>", "a@b.org", ""),
        (b"A@B.Org", "A@b.org", ""),
        (b"Jane Doe <a@b.org>", "a@b.org", "Jane Doe"),
        (b"Jane Q. Doe <a@b.org>", "a@b.org", "Jane Q. Doe"),
        (b'"Doe, Jane" <a@b.org>', "a@b.org", "Doe, Jane"),
        (b'"say \\"hi\\"" <a@b.org>', "a@b.org", 'say "hi"'),
        (b"a@b.org (Cron Daemon)", "a@b.org", "Cron Daemon"),
        (b"(Cron Daemon) a@b.org", "a@b.org", "Cron Daemon"),
        (b"Jane (Jira) <a@b.org>", "a@b.org", "Jane Jira"),
        (b"\r\n\ta@b.org", "a@b.org", ""),
        (b"Jane\r\n\t<a@b.org>", "a@b.org", "Jane"),
        (b"=?utf-8?q?J=C3=BCrgen?= =?utf-8?b?IE0=?= <a@b.org>", "a@b.org", "J\xfcrgen M"),
        (b"=?iso-8859-1?q?J=FCrgen_M?= <a@b.org>", "a@b.org", "J\xfcrgen M"),
        (b"J\xfcrgen <a@b.org>", "a@b.org", "J?rgen"),
        ("J\xfcrgen <a@b.org>".encode(), "a@b.org", "J\xfcrgen"),
        (b"a@b.org <A@b.ORG>", "A@b.org", "a@b.org"),
        (b'"ceo@bank.example" <a@b.org>', "a@b.org", "ceo@bank.example"),
        (b'"Jane Doe"@b.org', "Jane Doe@b.org", ""),
        (b"a..b@b.org", "a..b@b.org", ""),
        (b"a%b!c@b.org", "a%b!c@b.org", ""),
        (b"a@b.org.", "a@b.org", ""),
        ("a@b\xfccher.example".encode(), "a@xn--bcher-kva.example", ""),
        (b"a@XN--BCHER-KVA.example", "a@xn--bcher-kva.example", ""),
        (b"a@b_c.org", "a@b_c.org", ""),
    ],
)
def test_one_mailbox_that_all_readers_show_alike(value: bytes, address: str, name: str) -> None:
    found = read(header(value))
    assert (found.address, found.name, found.flaws) == (address, name, ())
    assert found.domain == address.rpartition("@")[2]
    assert found.domain in found.domains


NUL_NAME = b"=?utf-8?b?" + base64.b64encode(b"ceo@bank.example\0x") + b"?="
LINE_NAME = b"=?utf-8?q?ceo=40bank.example=0A?="

AMBIGUOUS = [
    (b"", "no_address"),
    (b"<>", "no_address"),
    (b"Jane Doe <>", "no_address"),
    (b"root", "no_domain"),
    (b"<root>", "no_domain"),
    (b"Jane Doe", "no_domain"),
    (b"a@", "no_domain"),
    (b"@b.org", "no_local"),
    (b"a@b.org, c@d.org", "several_mailboxes"),
    (b"Doe, Jane <a@b.org>", "several_mailboxes"),
    (b"a@b.org,", "several_mailboxes"),
    (b",a@b.org", "several_mailboxes"),
    (b"<a@b.org,c@d.org>", "several_mailboxes"),
    (b"<a@b.org><c@d.org>", "several_addresses"),
    (b"<a@b.org> <c@d.org>", "several_addresses"),
    (b"a@b.org <c@d.org>", "second_address"),
    (b"team: a@b.org;", "group"),
    (b"team: a@b.org, c@d.org;", "group"),
    (b"undisclosed:;", "group"),
    (b"a;b@d.org", "group"),
    (b"<@d.org:a@b.org>", "route"),
    (b"<@d.org,@e.org:a@b.org>", "route"),
    (b'"a@d.org"@b.org', "quoted_local"),
    (b'"a@d.org>"@b.org', "quoted_local"),
    (b'"a,c"@b.org', "quoted_local"),
    (b"a@d.org@b.org", "several_at"),
    (b"<a@d.org@b.org>", "several_at"),
    (b"a@[192.0.2.1]", "address_literal"),
    (b"=?utf-8?q?a=40b.org?=", "encoded_domain"),
    (b"a@=?utf-8?q?b.org?=", "encoded_domain"),
    (b"=?utf-8?b?YUBiLm9yZw==?=@d.org", "encoded_address"),
    (NUL_NAME + b" <a@b.org>", "nul"),
    (NUL_NAME + b"@b.org", "encoded_address"),
    (LINE_NAME + b" <a@b.org>", "control"),
    (b"a@b.org\0.evil.org", "nul"),
    (b"a\0@b.org", "nul"),
    (b"ceo@bank.example\0 <a@b.org>", "nul"),
    (b"a@b.org\x01", "control"),
    (b"Jane\x0bDoe <a@b.org>", "control"),
    ("a@b.org\u2028".encode(), "control"),
    (b"a@b(x).org", "comment"),
    (b"a(x)@b.org", "comment"),
    (b"(a(b)c) a@b.org", "comment"),
    (b"(ceo@bank.example) a@b.org", "comment"),
    (b"a@b.org (<ceo@bank.example>)", "comment"),
    (b"a@b.org (x", "comment"),
    (b"<a(x)@b.org>", "comment"),
    (b"a @b.org", "blank_in_address"),
    (b"a@ b.org", "blank_in_address"),
    (b"a@b .org", "blank_in_address"),
    (b"a@b.\r\n org", "blank_in_address"),
    (b"< a@b.org>", "blank_in_address"),
    (b"a@d.org a@b.org", "blank_in_address"),
    (b"\r\n \r\n a@b.org", "blank_fold"),
    (b"Jane\r\n \r\n <a@b.org>", "blank_fold"),
    (b"<a@b.org> Jane", "trailing_text"),
    (b"<a@b.org> c@d.org", "trailing_text"),
    (b"<a@b.org", "unbalanced"),
    (b"a@b.org>", "unbalanced"),
    (b"<<a@b.org>>", "unbalanced"),
    (b'"Jane <a@b.org>', "unbalanced"),
    (b'Jane" <a@b.org>', "unbalanced"),
    (b"Ja\\ne <a@b.org>", "escape"),
    (b"a@b..org", "bad_domain"),
    (b"a@b\xfccher.org", "bad_domain"),
    ("a@bank\u3002example".encode(), "bad_domain"),
    ("a@bank\uff0eexample".encode(), "bad_domain"),
    ("a@ba\u200bnk.example".encode(), "bad_domain"),
    (b"a@b.org/c", "bad_domain"),
    (b"a@1.2.3.4", "bad_domain"),
    (b"a\xfc@b.org", "odd_local"),
    (b"a@b.org " + b"x" * 8192, "too_long"),
]


@pytest.mark.parametrize(("value", "flaw"), AMBIGUOUS, ids=lambda item: repr(item)[:40])
def test_a4_an_ambiguous_from_is_named(value: bytes, flaw: str) -> None:
    assert flaw in read(header(value)).flaws


FIELDS = [
    (b"To: x@example.com\r\n\r\n", "none"),
    (b"Form: a@b.org\r\n\r\n", "none"),
    (b"X-From: a@b.org\r\n\r\n", "none"),
    (b" From: a@b.org\r\nTo: x@example.com\r\n\r\n", "none"),
    (b"Subject: x\r\n From: a@b.org\r\n\r\n", "none"),
    (b" by another hand\r\nFrom: a@b.org\r\n\r\n", "leading_blank"),
    (b"\t\r\nFrom: a@b.org\r\n\r\n", "leading_blank"),
    (b"\r\nFrom: a@b.org\r\n\r\n", "broken_header"),
    (b"\r\n", "leading_blank_line"),
    (b"From: a@b.org\r\nFrom: c@d.org\r\n\r\n", "two_fields"),
    (b"From: a@b.org\r\nTo: x\r\nfrom: a@b.org\r\n\r\n", "two_fields"),
    (b"From: a@b.org\r\nFrom : c@d.org\r\n\r\n", "two_fields"),
    (b"From : a@b.org\r\n\r\n", "space_before_colon"),
    (b"From\t: a@b.org\r\n\r\n", "space_before_colon"),
    (b"From\r\n : a@b.org\r\n\r\n", "folded_name"),
    (b"From \r\n\t: a@b.org\r\n\r\n", "folded_name"),
    (b"Fr\r\n om: a@b.org\r\n\r\n", "odd_name"),
    (b"F rom: a@b.org\r\n\r\n", "odd_name"),
    (b"From\0: a@b.org\r\n\r\n", "odd_name"),
    (b"\0From: a@b.org\r\n\r\n", "odd_name"),
    (b"\xef\xbb\xbfFrom: a@b.org\r\n\r\n", "odd_name"),
    (b"From\xc2\xa0: a@b.org\r\n\r\n", "odd_name"),
    (b"From\xe2\x80\x8b: a@b.org\r\nFrom: c@d.org\r\n\r\n", "two_fields"),
    (b"Subject: x\rFrom: a@b.org\r\nFrom: c@d.org\r\n\r\n", "two_fields"),
    (b"Subject: x\nFrom: a@b.org\r\nFrom: c@d.org\r\n\r\n", "two_fields"),
    (b"no field at all\r\nFrom: a@b.org\r\n\r\n", "broken_header"),
    (b"From a@b.org Mon Jan  1\r\nFrom: a@b.org\r\n\r\n", "broken_header"),
    (b"X: y\r\n \r\nFrom: a@b.org\r\n\r\n", "broken_header"),
    (b"X: y\r\r\nFrom: a@b.org\r\n\r\n", "broken_header"),
    (b": y\r\nFrom: a@b.org\r\n\r\n", "broken_header"),
]


@pytest.mark.parametrize(("fields", "flaw"), FIELDS, ids=lambda item: repr(item)[:40])
def test_a4_a_value_that_was_seen_is_read_as_at_first(fields: bytes, flaw: str) -> None:
    """Twice the same From, beside other fields: nothing of one message comes into another."""
    other = read(TRACE + b"From: A <joe@example.org>\r\n\r\n")
    found = [read(TRACE + front + fields) for front in (b"", b"X: y\r\n", b"")]
    assert found[0] == found[2] and set(found[1].domains) == set(found[0].domains)
    assert read(TRACE + b"From: A <joe@example.org>\r\n\r\n") == other and not other.flaws


@pytest.mark.parametrize(("fields", "flaw"), FIELDS, ids=lambda item: repr(item)[:40])
def test_a4_an_ambiguous_field_is_named(fields: bytes, flaw: str) -> None:
    assert flaw in read(TRACE + fields).flaws


def test_a4_all_domains_that_a_reader_may_show_are_known() -> None:
    found = read(TRACE + b"From: a@b.org, =?utf-8?q?c=40d.org?=\r\nFROM: <@e.org:f@g.org>\r\n\r\n")
    assert set(found.domains) >= {"b.org", "d.org", "e.org", "g.org"}


def test_a4_a_header_that_is_not_whole_is_named() -> None:
    assert read(header(b"a@b.org"), complete=False).flaws == ("long_header",)


def test_a_folded_list_of_signed_names_is_no_from() -> None:
    fields = b"DKIM-Signature: v=1; h=Date:\r\n\tFrom:To; bh=x\r\nFrom: a@b.org\r\nSubject: x\r\n From: y\r\n\r\n"
    assert read(TRACE + fields).flaws == ()


def test_what_comes_behind_the_from_makes_no_difference() -> None:
    assert read(TRACE + b"From: a@b.org\r\nno field at all\r\n\r\n").flaws == ()


HOSTILE = [
    b"From: " + b"a@b.org, " * 60000,
    b"From: a\r\n" * 55000,
    b"From: " + b"(" * 500000,
    b"From: " + b'"<' * 250000,
    b"From: " + b'<"' * 250000,
    b"F" + b"\r\n " * 170000,
    b"\x00" * 500000,
    b"x\r\n" * 170000,
    b"From" + b" " * 500000,
    (b"From" + b" " * 70 + b"\r\n") * 6800,
    b"From: " + b"=?utf-8?q?" * 50000,
    b"From: " + b"@" * 500000,
    b" \r\n" * 170000,
    b"Received: x\r\n" + b"\t12:00:00 +0000\r\n" * 28000 + b"From: a\r\n",
    b"Received: " + b" 12:00:00 +0000" * 33000 + b"\r\nFrom: a\r\n",
    b"Received: x\r\n" + (b"\t " * 40000 + b"\r\n") * 6 + b"From: a\r\n",
    b"Received: " + b"\t \t " * 130000 + b"\r\nFrom: a\r\n",
]


@pytest.mark.parametrize("block", HOSTILE, ids=lambda block: repr(block[:16]))
def test_a4_reading_is_linear_in_hostile_headers(block: bytes) -> None:
    """Half a megabyte of anything takes far less than what one quadratic step would."""
    begin = time.process_time()
    assert read(block).flaws
    assert time.process_time() - begin < 0.5


def test_a4_nothing_breaks_the_parser() -> None:
    dice = random.Random(4)
    pieces = [b"a", b"@", b"b.org", b"<", b">", b'"', b"\\", b"(", b")", b",", b":", b";", b" ", b"\r\n ", b"=?utf-8?q?"]
    pieces += [b"?=", b"\0", b"\xff", b"[", b"]", b".", "\u0430".encode(), b"From: ", b"\r\n", b"\r"]
    for _ in range(5000):
        value = b"".join(dice.choice(pieces) for _ in range(dice.randrange(14)))
        found = read(header(value))
        found.address.encode()
        found.name.encode()
        if not found.flaws:
            assert found.domain and found.domain.isascii() and found.address.count("@") == 1


#: Lines of a header; the last ones are odd in some way.
LINES = (
    b"From: Ada <ada@example.org>",
    b"from: eve@example.net",
    b"FROM: x@example.com",
    b"From: a@b.example, c@d.example",
    b"Subject: From: nobody",
    b"Received: from a (b [192.0.2.1])",
    b"\tby mx.example.com; Sat, 28 Nov 2026 19:00:00 +0000",
    b" goes on",
    b"\tFrom: f@example.org",
    b"X-From: g@example.org",
    b"Date: today",
    b"",
    b" ",
    b"\t \t",
    b"no field",
    b":",
    b"From : h@example.org",
    b"F rom: i@example.org",
    b"\x00From: j@example.org",
    b"Fr\xe9om: k@example.org",
    b"From",
    b"From: (c) l@example.org",
    b'From: "m" <m@example.org>',
    b"From:",
    b"From: n@example.org\x01",
    b"\x85From: o@p.example",
)
ENDS = (b"\r\n",) * 30 + (b"\n", b"\r", b"\r\r\n")


def test_a_header_is_read_at_sight_as_it_is_read_at_length() -> None:
    dice, plain = random.Random(7), 0
    for number in range(40_000):
        lines = dice.choices(LINES if number % 2 else LINES[:11], k=dice.randrange(7))
        block = b"".join(line + (dice.choice(ENDS) if number % 4 else b"\r\n") for line in lines)
        content = RamContent(block + b"\r\nbody", 524288 if number % 9 else 40)
        found = of(content)
        assert found == read(content.header, content.header_complete), content.header
        plain += not found.flaws
    assert plain > 3000
