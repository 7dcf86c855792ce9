"""Row A2 of the threats, rule by rule: what is weak or malformed never counts."""

import base64
import itertools
import re
from typing import Any

import msgspec
import pytest

from appliance.mail.auth import Signature
from appliance.mailauth import dkim
from appliance.mailauth.dkim_message import Message
from appliance.mailauth.dkim_signature import host, selector
from appliance.protocol.errors import Unavailable
from tests.mailauth.signing import (
    BODY,
    ED25519_RECORD,
    HEADER,
    MAIL,
    NOW,
    RULES,
    Letter,
    only,
    record,
    report,
    secret,
    sign,
    signature,
)


def judged(octets: bytes, keys: Any = None) -> tuple[str, bool]:
    found = only(octets, keys)
    assert found.counts <= (found.result == "pass"), "only a pass may count"
    return found.result, found.counts


@pytest.mark.parametrize("header", ["simple", "relaxed"])
@pytest.mark.parametrize("body", ["/simple", "/relaxed", ""])
@pytest.mark.parametrize("key", [1024, 2048, 4096, "ed25519"])
def test_honest_signatures_count(header: str, body: str, key: Any) -> None:
    if key == "ed25519":
        assert judged(sign(a="ed25519-sha256", c=header + body), ED25519_RECORD) == ("pass", True)
    else:
        assert judged(sign(bits=key, c=header + body), record(key)) == ("pass", True)


def test_what_a_signature_tells() -> None:
    found = only(sign(i="alice@mail.example.org"))
    assert (found.domain, found.selector, found.identity) == ("example.org", "s", "alice@mail.example.org")
    assert (found.algorithm, found.bits, found.reason) == ("rsa-sha256", 2048, "")
    assert len(found.digest) == 32 and re.fullmatch(r"[A-Za-z0-9+/=]{8,12}", found.signature)


CHANGES = [
    (b"Hello", b"Hallo", "body hash"),
    (b"an end.", b"an end. And more", "body hash"),
    (b"Alice", b"Alise", "did not verify"),
    (b"A  subject", b"A subjekt", "did not verify"),
    (b"bob@", b"rob@", "did not verify"),
    (b"Message-ID: <1", b"Message-ID: <2", "did not verify"),
    (b"\r\nDate: Mon", b"\r\nX-Date: Mon", "did not verify"),
]


@pytest.mark.parametrize(("old", "new", "why"), CHANGES)
@pytest.mark.parametrize("how", ["simple/simple", "relaxed/relaxed"])
@pytest.mark.parametrize("algorithm", ["rsa-sha256", "ed25519-sha256"])
def test_what_is_signed_cannot_be_changed(old: bytes, new: bytes, why: str, how: str, algorithm: str) -> None:
    signed = sign(c=how, a=algorithm)
    assert signed.count(old) == 1
    found = only(signed.replace(old, new), record() if algorithm[0] == "r" else ED25519_RECORD)
    assert found.result == "fail" and why in found.reason and not found.counts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"A  subject\r\n\twith a fold ", b"A subject with  a\r\n fold"),
        (b"\r\nTo: bob", b"\r\nTO :   bob"),
        (b"blanks \t at the end \t ", b"blanks at\tthe end"),
        (b"and an end.\r\n\r\n\r\n", b"and an end.\r\n"),
        (b"\r\nDate:", b"\r\nX-New: field\r\nDate:"),
    ],
)
def test_relaxed_bears_what_relays_do(old: bytes, new: bytes) -> None:
    assert judged(sign().replace(old, new)) == ("pass", True)
    assert judged(sign(c="simple/simple").replace(old, new))[1] is (old == b"\r\nDate:" or old.startswith(b"and an"))


@pytest.mark.parametrize("tag", ["v", "a", "c", "d", "s", "h", "bh"])
def test_no_tag_can_be_changed(tag: str) -> None:
    signed = sign()
    for change in (rb"\1x\2", rb"\1\2\2", rb"\1"):
        changed = re.sub(rb"([ ;]" + tag.encode() + rb"=)([^;]+)", change, signed, count=1)
        assert changed != signed
        assert only(changed).result in ("fail", "permerror"), changed[:300]


@pytest.mark.parametrize("tag", ["v", "a", "d", "s", "h", "bh"])
def test_a2_a_signature_lacks_a_tag(tag: str) -> None:
    assert judged(sign(**{tag: None})) == ("permerror", False)


def test_a_signature_is_none_without_a_value() -> None:
    assert judged(re.sub(rb"\bb=[^;]+?\r\n(?! )", b"b=\r\n", sign(), count=1))[0] == "permerror"


@pytest.mark.parametrize(("bits", "counts"), [(512, False), (1024, True), (2048, True)])
def test_a2_short_keys_are_policy(bits: int, counts: bool) -> None:
    assert judged(sign(bits=bits), record(bits)) == ("pass" if counts else "policy", counts)
    assert judged(sign(bits=bits).replace(b"Hello", b"Hallo"), record(bits)) == ("fail", False)
    stricter = msgspec.structs.replace(RULES, bits=2048)
    assert only(sign(bits=bits), record(bits), stricter).counts is (bits >= 2048)


def test_a2_sha1_is_policy() -> None:
    assert judged(sign(a="rsa-sha1")) == ("policy", False)
    assert judged(sign(a="rsa-sha1").replace(b"Hello", b"Hallo")) == ("fail", False)


def test_a2_a_body_that_goes_on_behind_l_does_not_count() -> None:
    length = str(len(b"Hello Bob,\r\n\r\n blanks at the end\r\nand an end.\r\n"))
    signed = sign(l=length)
    assert judged(signed) == ("pass", True)
    found = only(signed.rstrip(b"\r\n") + b"\r\nBuy now!\r\n")
    assert (found.result, found.counts, found.short) == ("pass", False, True)
    assert "10 octets" in found.reason
    shorter = only(sign(l="5"))
    assert (shorter.result, shorter.counts, shorter.short) == ("pass", False, True)
    assert only(sign(l="0")).short


def test_a2_a_body_that_ends_before_l_fails() -> None:
    assert judged(sign(l="1000")) == ("fail", False)
    assert judged(sign(l="9" * 76)) == ("fail", False)


@pytest.mark.parametrize("length", ["", "x", "-1", "+1", "1 0", "9" * 77, "0x10"])
def test_a2_a_length_that_is_none(length: str) -> None:
    assert judged(sign(l=length)) == ("permerror", False)


@pytest.mark.parametrize("names", ["To:Subject", "X-From:To", "", ":", "fromm"])
def test_a2_from_is_not_signed(names: str) -> None:
    assert judged(sign(h=names)) == ("permerror", False)


SINGLE = ["From", "from", "FROM ", "From\t", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "Sender"]
SINGLE += ["References", "In-Reply-To", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("where", ["top", "bottom"])
def test_a2_a_field_that_stands_twice_makes_no_signature_count(name: str, where: str) -> None:
    field = f"{name}: Mallory <m@example.net>\r\n".encode()
    mail = MAIL if name.strip().lower().encode() + b":" in MAIL.lower() else field + MAIL
    signed = sign(mail) + b""
    assert judged(signed) == ("pass", True)
    top, bottom = field + signed, signed.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n", 1)
    found = only(top if where == "top" else bottom)
    assert not found.counts
    assert found.result == "fail" or "more than once" in found.reason


@pytest.mark.parametrize("line", [b"no field", b"X Y: z", b"caf\xc3\xa9: x", b": x", b"From", b"X\0: y"])
def test_a2_a_line_that_is_no_field_makes_no_signature_count(line: bytes) -> None:
    """For some readers the header ends there: what was signed is a body to them."""
    found = only(line + b"\r\n" + sign())
    assert (found.result, found.counts) == ("pass", False) and "no field" in found.reason


def test_a2_an_empty_line_in_front_leaves_no_header() -> None:
    assert report(b"\r\n" + sign()).signatures == ()


def test_a2_signing_twice_notices_what_is_added() -> None:
    signed = sign(h="From:From:To:Subject:Subject")
    assert judged(signed) == ("pass", True)
    assert judged(b"Subject: another\r\n" + signed) == ("fail", False)
    assert judged(b"From: Mallory <m@example.net>\r\n" + signed) == ("fail", False)


def test_a2_without_a_from_nothing_counts() -> None:
    header = HEADER.replace(b"From:", b"X-From:")
    found = only(sign(header + b"\r\n" + BODY))
    assert not found.counts and found.reason == "there is no From"


@pytest.mark.parametrize(
    ("signed_at", "expires", "result"),
    [
        (NOW - 10, NOW + 10, "pass"),
        (None, NOW - 299, "pass"),
        (None, NOW - 301, "policy"),
        (NOW - 100000, NOW - 5000, "policy"),
        (NOW + 299, None, "pass"),
        (NOW + 301, None, "policy"),
        (NOW, NOW, "permerror"),
        (NOW, NOW - 1, "permerror"),
    ],
)
def test_a2_times(signed_at: float | None, expires: float | None, result: str) -> None:
    tags = {tag: str(int(when)) for tag, when in (("t", signed_at), ("x", expires)) if when is not None}
    found = only(sign(**tags))
    assert (found.result, found.counts) == (result, result == "pass")
    assert found.expired is (expires is not None and expires < NOW - 300)


@pytest.mark.parametrize("time", ["x", "-1", "1.5", "9" * 13, "", "1 2"])
@pytest.mark.parametrize("tag", ["t", "x"])
def test_a2_a_time_that_is_none(tag: str, time: str) -> None:
    assert judged(sign(**{tag: time})) == ("permerror", False)


@pytest.mark.parametrize(
    ("identity", "result"),
    [
        ("@example.org", "pass"),
        ("alice@EXAMPLE.org", "pass"),
        ("alice@a.b.example.org", "pass"),
        ("@", "permerror"),
        ("", "permerror"),
        ("example.org", "permerror"),
        ("alice@org", "permerror"),
        ("alice@example.com", "permerror"),
        ("alice@badexample.org", "permerror"),
        ("alice@example.org.example.com", "permerror"),
        ("alice@example.org\0.example.org", "permerror"),
        ("alice@example.org@example.com", "permerror"),
    ],
)
def test_a2_identity_outside_of_domain(identity: str, result: str) -> None:
    assert judged(sign(i=identity)) == (result, result == "pass")


BAD_HOSTS = [
    "",
    ".",
    "org",
    ".example.org",
    "example..org",
    "exa mple.org",
    'exa"mple.org',
    "exa\0mple.org",
    "-a.example",
]
BAD_HOSTS += [
    "example.org.",
    "[192.0.2.1]",
    "192.0.2.1",
    "a/b.example",
    "example.org\\",
    "*.example.org",
    "a" * 64 + ".org",
]
BAD_HOSTS += ["a." * 130 + "org", "exämple.org\u2028", "(c)example.org", "example.org'", "a\tb.example", "a,b.example"]


@pytest.mark.parametrize("name", BAD_HOSTS)
@pytest.mark.parametrize("tag", ["d", "s"])
def test_a2_names_that_are_none_are_permerror_before_any_question(tag: str, name: str) -> None:
    if tag == "s" and name in ("org", "192.0.2.1", "[192.0.2.1]"):
        name += "\0"
    message = Message(Letter(sign(**{tag: name}, i="@example.org")))
    signatures, _ = dkim.read(message, 10)
    assert dkim.questions(signatures) == []
    assert judged(sign(**{tag: name})) == ("permerror", False)


def test_names_that_are_allowed() -> None:
    assert host(b"EXAMPLE.org") == "example.org"
    assert host("bücher.example".encode()) == "xn--bcher-kva.example"
    assert host(b"a_b.example.org") == "a_b.example.org"
    assert [selector(name) for name in (b"S", b"2026", b"a.b", b"a_b", b"20.26")] == ["s", "2026", "a.b", "a_b", "20.26"]


def test_a_name_that_dns_cannot_hold() -> None:
    long = ".".join(["a" * 60] * 4)
    assert judged(sign(d=long, s="b" * 10)) == ("permerror", False)


@pytest.mark.parametrize(
    "tags",
    [
        {"v": "2"},
        {"v": "1.0"},
        {"a": "rsa-md5"},
        {"a": "none"},
        {"a": "ed25519-sha1"},
        {"c": "nowsp"},
        {"c": "relaxed/nofws"},
        {"c": "relaxed/"},
        {"q": "dns"},
        {"q": "http"},
        {"bh": "not base64!"},
        {"bh": "abc"},
    ],
)
def test_a2_tags_that_nobody_knows(tags: dict[str, str]) -> None:
    algorithm = tags.pop("a", "rsa-sha256")
    signed = sign(**tags).replace(b"a=rsa-sha256", b"a=" + algorithm.encode())
    assert judged(signed) == ("permerror", False)


@pytest.mark.parametrize(
    "field",
    [
        b"DKIM-Signature:",
        b"DKIM-Signature: ",
        b"DKIM-Signature: ;;;",
        b"DKIM-Signature: v=1; v=1",
        b"DKIM-Signature: =",
        b"DKIM-Signature: \0\xff\xfe",
        b"DKIM-Signature: 1=2; a=b",
        b"DKIM-Signature: v",
        b"dkim-signature :\r\n\t\r\n ",
        b"DKIM-Signature: " + b"a" * 100_000,
        b"DKIM-Signature: " + b";" * 5000,
        b"DKIM-Signature: " + b"a=b;" * 1900,
        b"DKIM-Signature: " + b"\r\n " * 5000 + b"v=1",
    ],
    ids=lambda field: field[:40],
)
def test_a2_fields_that_are_no_signature(field: bytes) -> None:
    assert judged(field + b"\r\n" + MAIL) == ("permerror", False)


@pytest.mark.parametrize("folds", [100, 101])
def test_a2_folds_of_a_signature_are_limited(folds: int) -> None:
    field = signature(MAIL, h="From:To" + ":\r\n X-Y" * (folds - 7))
    assert field.count(b"\r\n") == folds + 1, "with its own end"
    assert judged(field + MAIL)[0] == ("pass" if folds == 100 else "permerror")


# -- keys


def fresh(text: str) -> str:
    return text.format(p=record(tags="").removeprefix("p="))


@pytest.mark.parametrize(
    ("text", "result", "why"),
    [
        ("v=DKIM1; p={p}", "pass", ""),
        ("p={p}", "pass", ""),
        ("v=DKIM1; k=RSA; h=sha1:sha256; s=*; n=note; p={p};", "pass", ""),
        ("v=DKIM1; s=email:other; t=s; p={p}", "pass", ""),
        ("v=DKIM1; p={p}; v=DKIM1", "permerror", "no tag list"),
        ("v=DKIM2; p={p}", "permerror", "version"),
        ("v=dkim1; p={p}", "permerror", "version"),
        ("k=rsa; v=DKIM1; p={p}", "permerror", "version"),
        ("v=DKIM1; h=sha1; p={p}", "permerror", "hash"),
        ("v=DKIM1; s=tlsrpt; p={p}", "permerror", "not for mail"),
        ("v=DKIM1; s=; p={p}", "permerror", "not for mail"),
        ("v=DKIM1; k=ed25519; p={p}", "permerror", "32 octets"),
        ("v=DKIM1; k=dsa; p={p}", "permerror", "unknown kind"),
        ("v=DKIM1; p=", "permerror", "revoked"),
        ("v=DKIM1; p=;", "permerror", "revoked"),
        ("v=DKIM1; k=rsa", "permerror", "no p="),
        ("v=DKIM1", "permerror", "no p="),
        ("", "permerror", "no key"),
        ("v=spf1 -all", "permerror", "no key"),
        ("v=DKIM1; p=!!!!", "permerror", "not base64"),
        ("v=DKIM1; p=AAAA", "permerror", "cannot be read"),
        ("v=DKIM1; p=" + "A" * 9000, "permerror", "too long"),
        ("v=DKIM1; \xff\xfe; p={p}", "permerror", "no tag list"),
    ],
)
def test_a2_key_records(text: str, result: str, why: str) -> None:
    found = only(sign(), fresh(text))
    assert (found.result, found.counts) == (result, result == "pass")
    assert why in found.reason


def public(n: int, e: int) -> str:
    """An RSAPublicKey of these numbers, by hand: no library makes impossible ones."""

    def integer(number: int) -> bytes:
        octets = number.to_bytes(number.bit_length() // 8 + 1, "big")
        return b"\x02" + size(len(octets)) + octets

    def size(count: int) -> bytes:
        return bytes([count]) if count < 128 else b"\x82" + count.to_bytes(2, "big")

    inner = integer(n) + integer(e)
    return "v=DKIM1; p=" + base64.b64encode(b"\x30" + size(len(inner)) + inner).decode()


N = secret(2048).public_key().public_numbers().n
EC = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiY"
EC += "wpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q=="


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (public(N, 1), ""),
        (public(N, 2), ""),
        (public(N, 65536), ""),
        (public(N, N - 2), "impossible"),
        (public(N + 1, 65537), "impossible"),
        (public(N, 0), ""),
        (public(0, 65537), ""),
        (public(1, 3), ""),
        (public(2**16383 + 1, 65537), "more than 8192"),
        (public(2**30000 + 1, 65537), "too long"),
        (f"v=DKIM1; p={EC}", "not RSA"),
        *((record()[:cut], "") for cut in range(20, 400, 17)),
        *((ED25519_RECORD[:cut], "") for cut in range(24, 68, 5)),
    ],
    ids=itertools.count(),
)
def test_a2_keys_of_every_bad_kind(text: str, why: str) -> None:
    found = only(sign(), text)
    assert found.result == "permerror" and not found.counts
    assert why in found.reason


def test_a2_test_keys_do_not_count() -> None:
    text = record(tags="v=DKIM1; t=y; ")
    found = only(sign(), text)
    assert (found.result, found.counts, found.testing) == ("pass", False, True)
    assert only(sign(), text, msgspec.structs.replace(RULES, testing_counts=True)).counts
    assert only(sign(), record(tags="v=DKIM1; t=s:y; ")).testing


def test_a2_a_key_for_its_domain_alone() -> None:
    text = record(tags="v=DKIM1; t=s; ")
    assert judged(sign(i="alice@example.org"), text) == ("pass", True)
    assert judged(sign(i="alice@mail.example.org"), text) == ("permerror", False)


def test_a2_several_keys_at_a_selector() -> None:
    other = record(1024)
    spf, note = "v=spf1 p=x -all", "some text; p=nothing"
    assert judged(sign(), (spf, note, record())) == ("pass", True), "the one that says v=DKIM1 is preferred"
    assert judged(sign(), (other, record())) == judged(sign(), (record(), other)) == ("pass", True)
    assert judged(sign(), (other, "v=DKIM1; p=")) == ("fail", False)
    assert judged(sign(), ("v=DKIM1; p=", "v=DKIM1; k=rsa")) == ("permerror", False)
    assert judged(sign(), (record(tags="v=DKIM1; n=z; "), *(f"v=DKIM1; n={n}; p=" for n in range(50)))) == (
        "permerror",
        False,
    ), "only so many are tried"


def test_the_key_of_another_algorithm() -> None:
    assert judged(sign(), ED25519_RECORD) == ("permerror", False)
    assert judged(sign(a="ed25519-sha256"), record()) == ("permerror", False)


# -- DNS


def test_no_key_is_permerror_and_no_answer_is_temperror() -> None:
    assert judged(sign(), ()) == ("permerror", False)
    assert judged(sign(), Unavailable("SERVFAIL")) == ("temperror", False)


def test_servfail_at_one_of_two_selectors_costs_one_signature() -> None:
    signed = sign(sign(), s="t", d="list.example.net")
    found = report(signed, {"s": record(), "t": Unavailable("SERVFAIL")})
    assert [(one.selector, one.result, one.counts) for one in found.signatures] == [
        ("t", "temperror", False),
        ("s", "pass", True),
    ]


def test_what_can_no_longer_verify_needs_no_key_to_fail() -> None:
    assert judged(sign().replace(b"Hello", b"Hallo"), Unavailable("timeout")) == ("fail", False)
    assert judged(sign().replace(b"Alice", b"Alise"), Unavailable("timeout")) == ("temperror", False)


def test_a2_ten_signatures_are_tried_and_the_rest_is_noted() -> None:
    octets = MAIL
    for number in range(400):
        octets = (
            f"DKIM-Signature: v=1; a=rsa-sha256; d=d{number}.example; s=s; h=from; bh=YQ==; b=YQ==\r\n".encode() + octets
        )
    message = Message(Letter(octets))
    signatures, unread = dkim.read(message, 10)
    assert (len(signatures), unread) == (10, 390)
    assert len(dkim.questions(signatures)) == 10
    found = report(octets)
    assert len(found.signatures) == 10 and found.unread == 390
    assert {one.result for one in found.signatures} == {"fail"}


def test_one_key_is_asked_for_once() -> None:
    message = Message(Letter(sign(sign(sign(), i="a@example.org"), s="other")))
    assert dkim.questions(dkim.read(message, 10)[0]) == ["other._domainkey.example.org", "s._domainkey.example.org"]


def test_signatures_of_signatures() -> None:
    """h= may name other signatures, never itself."""
    inner = sign()
    outer = sign(inner, s="t", h="From:DKIM-Signature:DKIM-Signature")
    assert [one.result for one in report(outer).signatures] == ["pass", "pass"]
    assert report(outer.replace(b"s=s;", b"s=s ;")).signatures[0].result == "fail"


def test_a_header_that_is_too_long_is_neither_good_nor_bad() -> None:
    letter = Letter(sign(HEADER + b"X: " + b"x" * 600_000 + b"\r\n\r\n" + BODY))
    message = Message(letter)
    signatures, unread = dkim.read(message, 10)
    work = dkim.judge(letter, message, signatures, unread, {}, RULES)
    with pytest.raises(StopIteration) as end:
        next(work)
    assert [(one.result, one.counts) for one in end.value.value.signatures] == [("neutral", False)]
    crowd = report(sign(HEADER + b"X: y\r\n" * 12_001 + b"\r\n" + BODY))
    assert [one.result for one in crowd.signatures] == ["neutral"]


@pytest.mark.parametrize("octets", [b"", b"\r\n", b"\r\n\r\nbody", b"\r\n body", b"x", b"From\r\n\r\n", b": x\r\n\r\n"])
def test_odd_messages_have_no_signature(octets: bytes) -> None:
    assert report(octets).signatures == ()
    assert only(signature(octets) + octets).counts is False


def test_a_signature_can_be_all_there_is() -> None:
    """A header without an end has an empty body."""
    octets = b"From: a@example.org"
    found: Signature = only(signature(octets + b"\r\n\r\n", h="From") + octets)
    assert (found.result, found.counts) == ("pass", True)
