"""Header fields rewritten: only the addresses, only where something changes, behind the edits that are in force."""

import asyncio
import time

import pytest

from appliance.addresses import Rewriter, Settings, header
from appliance.mail import apply
from appliance.mail.edits import Edit
from appliance.mail.ports import Unavailable
from appliance.tables import open_table


class Away:
    pattern, at_once = False, True

    def get(self, key: str) -> None:
        raise Unavailable("it is away")


def rewriter(**told: object) -> Rewriter:
    maps = 'a@example.com new.a@example.com\n"q q"@example.com plain@example.com\nnull@example.com <>\n'
    table = open_table("texthash:m", lambda _: maps.encode())
    return Rewriter(
        Settings(
            **{  # type: ignore[arg-type]
                "origin": "mx.example.com",
                "canonical_maps": (table,),
                "masquerade_domains": ("masq.example",),
                **told,
            }
        )
    )


def rewritten(block: bytes, *edits: Edit, **told: object) -> bytes:
    found = asyncio.run(header.rewritten(rewriter(**told), block, edits))
    return apply.header(block, found.edits)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"From: a@example.com\r\n", b"From: new.a@example.com\r\n"),
        (b"FROM:a@example.com\r\n", b"FROM:new.a@example.com\r\n"),
        (b"From : A <a@example.com> (x)\r\n", b"From : A <new.a@example.com> (x)\r\n"),
        (
            b'To: "A, B" <a@example.com>,\r\n\t=?utf-8?q?x?= <x@h.masq.example>,\r\n b@example.com (a@example.com)\r\n',
            b'To: "A, B" <new.a@example.com>,\r\n\t=?utf-8?q?x?= <x@masq.example>,\r\n b@example.com (a@example.com)\r\n',
        ),
        (b'Cc: g: a@example.com;, "q q"@example.com\r\n', b"Cc: g: new.a@example.com;, plain@example.com\r\n"),
        (b"Reply-To: a @ example . com\r\n", b"Reply-To: new.a@example.com\r\n"),
        (b"From: J\xf6rg <a@example.com>\r\n", b"From: J\xf6rg <new.a@example.com>\r\n"),
        ("From: Jörg <a@example.com>\r\n".encode(), "From: Jörg <new.a@example.com>\r\n".encode()),
    ],
)
def test_only_addresses_change(before: bytes, after: bytes) -> None:
    other = b"Subject: a@example.com\r\nX-From: a@example.com\r\nDKIM-Signature: i=a@example.com\r\n"
    assert rewritten(before + other) == after + other


@pytest.mark.parametrize(
    "field",
    [
        b"From: b@example.com, x@masq.example\r\n",
        b"To: undisclosed-recipients:;\r\n",
        b"To: a, root, Joe Doe\r\n",
        b"From: null@example.com\r\n",
        b"From: a@@example.com, <a@example.com\xff>\r\n",
        b"From:\r\n",
        b'From: "a@example.com\r\n',
    ],
)
def test_what_does_not_change_makes_no_edit(field: bytes) -> None:
    found = asyncio.run(header.rewritten(rewriter(), field, ()))
    assert found.edits == ()
    assert found.steps == ()


def test_every_field_of_senders_and_recipients_and_its_class() -> None:
    block = b"".join(name.title() + b": a@example.com\r\n" for name in header.PLACES)
    assert rewritten(block) == block.replace(b"a@", b"new.a@")
    senders = rewritten(block, canonical_classes=frozenset({"header_sender"}))
    assert b"\r\nTo: a@example.com" in senders
    assert senders.startswith(b"From: new.a@example.com")


def test_edits_before_ours_hold() -> None:
    block = b"From: x@h.masq.example\r\nTo: a@example.com\r\nTo: b@example.com\r\nSubject: s\r\n"
    to = block.index(b"To: a")
    length = len(b"To: a@example.com\r\n")
    edits = (
        Edit("change", "From", "changed <a@example.com>", 1),
        Edit("append", "Cc", "a@example.com"),
        Edit("splice", value="X-Before: a@example.com\r\n", index=to),
        Edit("splice", value="To: replaced <a@example.com>\r\n", index=to, length=length),
        Edit("prepend", "To", "top <a@example.com>"),
    )
    assert rewritten(block, *edits) == (
        b"To: top <new.a@example.com>\r\nFrom: changed <new.a@example.com>\r\nX-Before: a@example.com\r\n"
        b"To: replaced <new.a@example.com>\r\nTo: b@example.com\r\nSubject: s\r\nCc: new.a@example.com\r\n"
    )
    gone = (Edit("splice", value="", index=to, length=length), Edit("append", "To", "a@example.com"))
    assert rewritten(block, *gone) == (
        b"From: x@masq.example\r\nTo: b@example.com\r\nSubject: s\r\nTo: new.a@example.com\r\n"
    )
    inserted = (Edit("splice", value="X-Before: a@example.com\r\n", index=to),)
    assert rewritten(block, *inserted) == (
        b"From: x@masq.example\r\nX-Before: a@example.com\r\nTo: new.a@example.com\r\nTo: b@example.com\r\nSubject: s\r\n"
    )


def test_steps_name_the_field() -> None:
    found = asyncio.run(header.rewritten(rewriter(), b"From: a@example.com\r\nTo: a@example.com, a@example.com\r\n", ()))
    assert [str(step) for step in found.steps] == [
        "From: canonical_maps m:1: <a@example.com> -> <new.a@example.com>",
        "To: canonical_maps m:1: <a@example.com> -> <new.a@example.com>",
    ]


def test_a_table_that_is_away_puts_off() -> None:
    with pytest.raises(Unavailable):
        rewritten(b"From: a@example.com\r\n", canonical_maps=(Away(),))


def test_a_hundred_thousand_addresses_are_bounded() -> None:
    block = b"To: " + b",\r\n ".join(b"u%d@h.masq.example" % n for n in range(100_000)) + b"\r\n"
    begin = time.process_time()
    found = asyncio.run(header.rewritten(rewriter(), block, ()))
    assert time.process_time() - begin < 2.0
    assert not found.whole
    after = apply.header(block, found.edits)
    assert after.count(b"@masq.example") == header.MOST
    assert after.count(b"\r\n") == 100_000
