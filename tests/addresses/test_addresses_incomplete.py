"""Names without a domain in header fields, completed as by a real Postfix (tests/interop/test_incomplete_postfix.py)."""

import asyncio
import time

import pytest

from appliance.addresses import Completion, Rewriter, Settings, header
from appliance.mail import apply
from appliance.mail.edits import Edit
from appliance.tables import open_table

LOCAL = Completion("mx.example.com")
DOTTED = Completion("mx.example.com", "example.com")
REMOTE = Completion("domain.invalid", "", "remote_header_rewrite_domain")


def canonical() -> Rewriter:
    maps = "joe@mx.example.com joe.smith@example.com\nann@h.example.com <>\n"
    return Rewriter(
        Settings(origin="mx.example.com", canonical_maps=(open_table("texthash:m", lambda _: maps.encode()),))
    )


def completed(block: bytes, *edits: Edit, by: Completion = LOCAL, rewriter: Rewriter | None = None) -> header.Fields:
    return asyncio.run(header.rewritten(rewriter, block, edits, by))


def text(value: str, by: Completion = LOCAL, rewriter: Rewriter | None = None) -> str:
    block = f"To: {value}\r\nSubject: joe\r\n".encode()
    found = apply.header(block, completed(block, by=by, rewriter=rewriter).edits).decode()
    assert found.endswith("\r\nSubject: joe\r\n")
    return found.removeprefix("To: ").removesuffix("\r\nSubject: joe\r\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("joe", "joe@mx.example.com"),
        ("<joe>", "<joe@mx.example.com>"),
        ("Joe Smith <joe>", "Joe Smith <joe@mx.example.com>"),
        ("joe, ann@example.com, bob", "joe@mx.example.com, ann@example.com, bob@mx.example.com"),
        ("Joe Smith", "Joe@mx.example.com, Smith@mx.example.com"),
        ("joe\r\n\tann\r\n bob@x.example", "joe@mx.example.com,\r\n\tann@mx.example.com,\r\n bob@x.example"),
        ("joe (one) ann (two)", "joe@mx.example.com (one), ann@mx.example.com (two)"),
        ("group: joe, bob;", "group: joe@mx.example.com, bob@mx.example.com;"),
        ("=?utf-8?q?J=C3=B6rg?= <j>", "=?utf-8?q?J=C3=B6rg?= <j@mx.example.com>"),
        ('"quoted name"', '"quoted name"@mx.example.com'),
        ('"quo@ted" <"a b">', '"quo@ted" <"a b"@mx.example.com>'),
        ("joe.smith+x (c, d)", "joe.smith+x@mx.example.com (c, d)"),
        ("Jörg <jö>", "Jörg <jö@mx.example.com>"),
    ],
)
def test_names_get_the_domain_of_this_host(before: str, after: str) -> None:
    assert text(before) == after
    assert text(before, REMOTE) == after.replace("mx.example.com", "domain.invalid")
    assert text(before, Completion()) == before


STAYS = "|".join(
    (
        "a@b.example, B <b@c.example>",
        "<>",
        "undisclosed-recipients:;",
        "(only a comment)",
        "joe@",
        "joe@host",
        '""',
        "host!user",
        "user%host",
        "[127.0.0.1]",
        "joe@[127.0.0.1]",
        "ann@b.example bob@c.example",
    )
)


@pytest.mark.parametrize("value", STAYS.split("|"))
def test_what_is_complete_or_no_name_stays(value: str) -> None:
    assert text(value) == value


def test_names_of_machines_get_the_parent_domain_where_it_is_asked_for() -> None:
    assert text("joe@host, J <ann@other>", DOTTED) == "joe@host.example.com, J <ann@other.example.com>"
    assert text("joe@[::1], joe@, a@b.example", DOTTED) == "joe@[::1], joe@, a@b.example"


def test_maps_come_behind() -> None:
    assert text("joe", rewriter=canonical()) == "joe.smith@example.com"
    assert text("ann@h", DOTTED, canonical()) == "ann@h.example.com"  # the null address is none
    steps = completed(b"To: joe\r\nFrom: ann@h\r\n", by=DOTTED, rewriter=canonical()).steps
    assert [str(step) for step in steps] == [
        "To: append_at_myorigin [addresses]: <joe> -> <joe@mx.example.com>",
        "To: canonical_maps m:1: <joe@mx.example.com> -> <joe.smith@example.com>",
        "From: append_dot_mydomain [addresses]: <ann@h> -> <ann@h.example.com>",
    ]


def test_all_fields_with_addresses_and_no_others() -> None:
    block = b"".join(b"%b: joe\r\n" % name.title() for name in header.PLACES) + b"X-Other: joe\r\n"
    found = apply.header(block, completed(block).edits)
    assert found.count(b": joe@mx.example.com\r\n") == len(header.PLACES)
    assert found.endswith(b"X-Other: joe\r\n")


def test_fields_that_edits_wrote_are_completed_too() -> None:
    block = b"From: a@b.example\r\n"
    edits = (Edit("insert", "Cc", "joe"), Edit("change", "From", "ann", 1))
    assert (
        apply.header(block, completed(block, *edits).edits) == b"Cc: joe@mx.example.com\r\nFrom: ann@mx.example.com\r\n"
    )


@pytest.mark.parametrize("piece", [b"a ", b"a@b.example,", b'"', b"(", b"<", b"a,", b"A <a@b.example> ", b"\\", b'"a" '])
def test_hostile_fields_take_linear_time(piece: bytes) -> None:
    def seconds(size: int) -> float:
        block = b"To: " + piece * (size // len(piece)) + b"\r\n"
        begun = time.thread_time()
        completed(block)
        return time.thread_time() - begun

    assert min(seconds(80_000) for _ in range(3)) < 12 * min(seconds(20_000) for _ in range(3)) + 0.1
