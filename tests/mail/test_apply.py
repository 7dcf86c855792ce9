import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mail import apply
from appliance.mail.edits import Edit, text

MESSAGE = (
    b"Received: from a\r\n\tby b; now\r\nSubject: one\r\nX-Spam: old\r\nsubject : two\r\n  folded\r\n"
    b"From: a@example.org\r\n\r\nbody\r\n\r\nX-Spam: not a field\r\n"
)


def test_no_edits_no_change():
    assert apply.whole(MESSAGE, ()) == MESSAGE
    assert b"".join(apply.streamed([MESSAGE[:7], MESSAGE[7:]], ())) == MESSAGE


def test_last_prepend_is_topmost():
    edits = (Edit("prepend", "X-A", "1"), Edit("prepend", "X-B", "2"))
    assert apply.whole(MESSAGE, edits) == b"X-B: 2\r\nX-A: 1\r\n" + MESSAGE


def test_append_goes_before_the_empty_line():
    out = apply.whole(MESSAGE, (Edit("append", "X-A", "1"),))
    assert out == MESSAGE.replace(b"\r\n\r\nbody", b"\r\nX-A: 1\r\n\r\nbody", 1)


def test_change_by_index_counts_whatever_the_case():
    out = apply.whole(MESSAGE, (Edit("change", "Subject", "new", 2),))
    assert out == MESSAGE.replace(b"subject : two\r\n  folded\r\n", b"Subject: new\r\n")


def test_change_of_what_is_not_there_adds_it():
    out = apply.whole(MESSAGE, (Edit("change", "X-New", "1", 1),))
    assert out == MESSAGE.replace(b"\r\n\r\nbody", b"\r\nX-New: 1\r\n\r\nbody", 1)


@pytest.mark.parametrize(
    ("index", "gone"),
    [
        (1, [b"Subject: one\r\n"]),
        (2, [b"subject : two\r\n  folded\r\n"]),
        (0, [b"Subject: one\r\n", b"subject : two\r\n  folded\r\n"]),
        (3, []),
    ],
)
def test_delete(index, gone):
    expected = MESSAGE
    for raw in gone:
        expected = expected.replace(raw, b"")
    assert apply.whole(MESSAGE, (Edit("delete", "SUBJECT", index=index),)) == expected


def test_delete_does_not_touch_the_body():
    assert apply.whole(MESSAGE, (Edit("delete", "X-Spam"),)).endswith(b"body\r\n\r\nX-Spam: not a field\r\n")


def test_edits_act_one_after_the_other():
    edits = (Edit("delete", "X-Spam"), Edit("prepend", "X-Spam", "new"), Edit("change", "X-Spam", "newer", 1))
    assert apply.whole(MESSAGE, edits) == b"X-Spam: newer\r\n" + MESSAGE.replace(b"X-Spam: old\r\n", b"", 1)


def test_body_is_replaced_with_crlf_only():
    out = apply.whole(MESSAGE, (Edit("body", value="a\nb\r\nc\rd"),))
    assert out == MESSAGE.split(b"\r\n\r\n")[0] + b"\r\n\r\na\r\nb\r\nc\r\nd\r\n", "the last line ends, too"


def test_a_value_cannot_break_out_of_its_field():
    out = apply.whole(MESSAGE, (Edit("prepend", "X-A", "1\r\n\r\nEvil: body\nBcc: x\n two"),))
    assert out == b"X-A: 1\r\n\tEvil: body\r\n\tBcc: x\r\n two\r\n" + MESSAGE


@pytest.mark.parametrize("size", [1, 3, 17, 10000])
def test_pieces_make_no_difference(size):
    edits = (Edit("delete", "X-Spam"), Edit("append", "X-A", "é"), Edit("prepend", "X-B", "2"))
    pieces = [MESSAGE[at : at + size] for at in range(0, len(MESSAGE), size)]
    assert b"".join(apply.streamed(pieces, edits)) == apply.whole(MESSAGE, edits)


@pytest.mark.parametrize(
    "content",
    [
        b"A: 1\r\n",
        b"A: 1\r\n\r\n",
        b"\r\nbody only\r\n",
        b"A: 1\r\nno field here\r\nB: 2\r\n\r\nbody",
        b"A: 1\r\n\r\r\nodd\r\n",
        b"",
        b"\xff\xfe\x00\r\n",
    ],
)
def test_odd_headers_keep_every_octet(content):
    header, rest = apply.split(content)
    assert header + rest == content
    out = apply.whole(content, (Edit("append", "X-A", "1"), Edit("delete", "X-None")))
    assert out.replace(b"X-A: 1\r\n", b"", 1) == content


def test_a_last_line_without_an_end_gets_one():
    assert apply.whole(b"A: 1", (Edit("append", "B", "2"),)) == b"A: 1\r\nB: 2\r\n"


def test_what_is_no_field_ends_the_header():
    out = apply.whole(b"A: 1\r\nno field here\r\nB: 2\r\n\r\nbody", (Edit("delete", "B"), Edit("append", "C", "3")))
    assert out == b"A: 1\r\nC: 3\r\nno field here\r\nB: 2\r\n\r\nbody"


def test_octets_that_are_no_text_go_through():
    assert apply.whole(b"A: \xff\xfe\r\nB: 1\r\n\r\n\xff", (Edit("delete", "B"),)) == b"A: \xff\xfe\r\n\r\n\xff"


def test_a_long_header_is_edited_without_reading_on():
    long = b"".join(b"X-%d: %s\r\n" % (n, b"v" * 1000) for n in range(500))
    out = b"".join(apply.streamed([long, b"\r\nbody"], (Edit("delete", "X-7"),)))
    assert out == long.replace(b"X-7: " + b"v" * 1000 + b"\r\n", b"") + b"\r\nbody"


SPLICED = b"A: 1\r\nB: 2\r\n more\r\nA: 3\r\n\r\none\r\ntwo\r\n"


def at(text: bytes) -> int:
    return SPLICED.index(text)


@pytest.mark.parametrize(
    ("edits", "sent"),
    [
        ([Edit("splice", index=at(b"B:"), length=13)], b"A: 1\r\nA: 3\r\n\r\none\r\ntwo\r\n"),
        (
            [Edit("splice", value="C: 9\r\n", index=at(b"A: 3"), length=6)],
            b"A: 1\r\nB: 2\r\n more\r\nC: 9\r\n\r\none\r\ntwo\r\n",
        ),
        ([Edit("splice", value="C: 9\r\n", index=at(b"A: 3"))], SPLICED.replace(b"A: 3", b"C: 9\r\nA: 3")),
        # Another edit that took the field: the splice has nothing left to act on.
        (
            [Edit("delete", "A"), Edit("splice", value="A: x\r\n", index=at(b"A: 3"), length=6)],
            SPLICED[6:].replace(b"A: 3\r\n", b""),
        ),
        (
            [Edit("splice", value="A: x\r\n", index=0, length=6), Edit("change", "A", "y", 1)],
            SPLICED.replace(b"A: 1", b"A: y"),
        ),
        # Whatever is prepended, appended or changed elsewhere: the place is that of the content as received.
        ([Edit("prepend", "A", "0"), Edit("splice", index=0, length=6)], b"A: 0\r\n" + SPLICED[6:]),
        # Two of the same field: the first.
        ([Edit("splice", index=0, length=6), Edit("splice", value="A: x\r\n", index=0, length=6)], SPLICED[6:]),
        ([Edit("splice", value="1", index=at(b"one"), length=3)], SPLICED.replace(b"one", b"1")),
        (
            [Edit("splice", value="0", index=at(b"two")), Edit("splice", index=at(b"one"), length=5)],
            SPLICED[:-10] + b"0two\r\n",
        ),
        (
            [Edit("splice", index=at(b"one"), length=7), Edit("splice", value="x", index=at(b"two"), length=3)],
            SPLICED[:-10] + b"o\r\n",
        ),
        ([Edit("splice", value="end", index=len(SPLICED))], SPLICED + b"end"),
        ([Edit("body", value="new\n"), Edit("splice", index=at(b"one"), length=5)], SPLICED[:-10] + b"new\r\n"),
    ],
)
def test_a_splice_is_of_the_content_as_it_came(edits: list[Edit], sent: bytes) -> None:
    assert apply.whole(SPLICED, edits) == sent
    for size in (1, 3, 50):
        pieces = [SPLICED[start : start + size] for start in range(0, len(SPLICED), size)]
        assert b"".join(apply.streamed(pieces, edits)) == sent


def test_insert_goes_below_so_many_fields() -> None:
    for index, place in (
        (0, b"X: 1\r\nA: 1\r\nB: 2\r\n"),
        (1, b"A: 1\r\nX: 1\r\nB: 2\r\n"),
        (9, b"A: 1\r\nB: 2\r\nX: 1\r\n"),
    ):
        edits = (Edit("insert", "X", "1", index),)
        assert apply.whole(b"A: 1\r\nB: 2\r\n\r\nbody", edits) == place + b"\r\nbody"


@given(st.binary(max_size=40))
def test_any_octets_can_be_a_new_body(octets: bytes) -> None:
    value, encoding = text(octets)
    edit = msgspec.msgpack.decode(msgspec.msgpack.encode(Edit("body", value=value, encoding=encoding)), type=Edit)
    lines = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    lines += b"" if not lines or lines.endswith(b"\r\n") else b"\r\n"
    assert apply.whole(b"A: 1\r\n\r\nbody", (edit,)) == b"A: 1\r\n\r\n" + lines
