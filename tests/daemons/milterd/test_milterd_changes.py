"""Edits of decisions become edits of a milter: an MTA that makes them has the header that mail.apply makes (property
test, both index rules), whatever was deleted, changed, added, cut out."""

import errno
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.daemons.fronts.content import TempContent
from appliance.daemons.milterd import changes
from appliance.daemons.milterd import collector as collector_module
from appliance.daemons.milterd.changes import Seen
from appliance.daemons.milterd.collector import Collector, Memory
from appliance.mail import apply
from appliance.mail.edits import Edit
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.fields import Header

TOP = b"Received: from x by mx.example.com (Postgate) with ESMTP id 1;\r\n\tMon, 1 Jan 2024 12:00:00 +0000\r\n"
NAMES = ["A", "a", "B", "Received", "X-Postgate-Mark", "x-postgate-x", "Authentication-Results"]
Fields = list[tuple[bytes, bytes]]


def collected(fields: Fields, body: bytes = b"body\r\n") -> tuple[Collector, bytes]:
    collector = Collector(TOP, 0, 1 << 20, Memory(1 << 20), "/nonexistent")
    for name, value in fields:
        collector.field(name, value)
    collector.body(body)
    return collector, b"".join(collector.whole().chunks())


def made_by_the_mta(seen: list[Seen], asked: list[p.Modification], shifting: bool, leading_space: bool) -> bytes:
    """The header, the MTA's own field left out, after it did what it was asked for."""
    header = Header([(one.name, one.value) for one in seen], (b"Received", b" by the MTA"), shifting=shifting)
    for edit in asked:
        if not leading_space and isinstance(edit, p.AddHeader | p.InsertHeader | p.ChangeHeader) and edit.value:
            edit = edit._replace(value=b" " + edit.value)
        header.apply(edit)
    own = (b"Received", b" by the MTA")
    listed = header.whole
    assert listed[0] == own  # whatever goes on top goes below the MTA's own field
    return b"".join(name + b":" + value.replace(b"\n", b"\r\n") + b"\r\n" for name, value in listed[1:])


def wanted(content: bytes, edits: list[Edit]) -> bytes:
    """The same by mail.apply, our trace field left out."""
    header = apply.whole(content, edits).partition(b"\r\n\r\n")[0] + b"\r\n"
    assert TOP in header
    return header.replace(TOP, b"", 1)


field_values = st.sampled_from([b" 1", b"2", b" folded\n\tvalue", b"  two blanks", b" x: y"])
fields_ = st.lists(st.tuples(st.sampled_from([name.encode() for name in NAMES]), field_values), max_size=7)
names = st.sampled_from([*NAMES, "Subject", "x-postgate-*", "C*"])
values_ = st.sampled_from(["new", "two\r\n\tlines", "\u00e4"])
plain_edits = st.one_of(
    st.builds(lambda name, value: Edit("prepend", name.rstrip("*"), value), names, values_),
    st.builds(lambda name, value: Edit("append", name.rstrip("*"), value), names, values_),
    st.builds(lambda name, value, n: Edit("insert", name.rstrip("*"), value, n), names, values_, st.integers(0, 9)),
    st.builds(lambda name, value, n: Edit("change", name.rstrip("*"), value, n), names, values_, st.integers(0, 4)),
    st.builds(
        lambda name, n: Edit("delete", name.lower(), "", 0 if name.endswith("*") or name == "Received" else n),
        names.filter(lambda name: name not in ("Received",)),
        st.integers(0, 4),
    ),
)


@given(fields_, st.lists(plain_edits, max_size=6), st.booleans(), st.booleans())
@example([(b"A", b" 1"), (b"a", b" 2")], [Edit("delete", "a"), Edit("prepend", "A", "x")], True, True)
@example([(b"A", b" 1"), (b"A", b" 2")], [Edit("delete", "a", "", 1), Edit("change", "a", "x", 1)], False, True)
@example([(b"A", b" 1")] * 3, [Edit("insert", "A", "new", 3), Edit("delete", "a", "", 1)], False, True)
@example([(b"A", b" 1")] * 3, [Edit("insert", "A", "new", 3), Edit("delete", "a", "", 1)], True, True)
def test_the_mta_ends_up_with_the_header_that_was_decided(
    fields: Fields, edits: list[Edit], shifting: bool, leading_space: bool
) -> None:
    if any(edit.op == "change" and edit.name.lower() == "received" for edit in edits):
        return  # the topmost Received of what is judged is ours alone
    collector, content = collected(fields)
    asked = changes.of_header(collector.seen, b"Received", edits, leading_space)
    got = made_by_the_mta(collector.seen, asked, shifting, leading_space)
    expected = wanted(content, edits)
    if not leading_space:  # such an MTA puts one blank before each value
        got, expected = (b"\n".join(line.replace(b":  ", b": ") for line in one.split(b"\n")) for one in (got, expected))
    if not shifting and {"insert", "delete"} <= {edit.op for edit in edits}:
        # Where what is deleted keeps its number, a field between others may stand too low (see changes): none is lost.
        got, expected = (b"\n".join(sorted(one.split(b"\r\n"))) for one in (got, expected))
    assert got == expected


@given(fields_.filter(bool), st.data(), st.booleans())
def test_whole_fields_cut_out_of_the_content(fields: Fields, data: st.DataObject, shifting: bool) -> None:
    collector, content = collected(fields)
    picked = data.draw(st.sets(st.integers(0, len(fields) - 1)))
    edits = [Edit("splice", index=collector.seen[at].start, length=_length(collector.seen[at])) for at in sorted(picked)]
    edits.append(Edit("prepend", "Authentication-Results", "mx.example.com; none"))
    asked = changes.of_header(collector.seen, b"Received", edits, True)
    assert made_by_the_mta(collector.seen, asked, shifting, True) == wanted(content, edits)


@given(fields_.filter(bool), st.data())
def test_fields_put_between_others_and_in_the_place_of_others(fields: Fields, data: st.DataObject) -> None:
    collector, content = collected(fields)
    at = data.draw(st.integers(0, len(fields) - 1))
    length = data.draw(st.sampled_from([0, _length(collector.seen[at])]))
    edits = [Edit("splice", value="X-New: 1\r\n\tfolded\r\n", index=collector.seen[at].start, length=length)]
    edits.append(Edit("append", "X-Last", "z"))
    asked = changes.of_header(collector.seen, b"Received", edits, True)
    assert made_by_the_mta(collector.seen, asked, True, True) == wanted(content, edits)


def _length(seen: Seen) -> int:
    return seen.end - seen.start


@given(st.lists(st.sampled_from(["A", "B"]), max_size=4), st.booleans())
def test_what_goes_on_top_needs_no_look_at_what_is_there(names: list[str], leading_space: bool) -> None:
    """And is what a look would have made of it."""
    tops = [Edit("prepend", name, f"{number}\n x") for number, name in enumerate(names)]
    others = [Edit("sender", value="a@b.example"), Edit("body", value="new\n")]
    seen = collected([(b"A", b" 1"), (b"B", b" 2")])[0].seen
    looked = changes.of_header(seen, b"Received", [*tops, Edit("delete", "C")], leading_space)
    assert changes.of_header(_Unseen(), b"Received", [*tops, *others], leading_space) == looked
    assert len(looked) == len(tops)


class _Unseen(list[Seen]):
    def __iter__(self) -> NoReturn:
        raise AssertionError("somebody looked")

    __getitem__ = __len__ = __iter__  # type: ignore[assignment]


def test_a_part_of_a_field_that_some_readers_take_for_a_field_of_ours() -> None:
    """What stands behind a bare CR: it is cut out, the rest of the field stays."""
    collector, content = collected([(b"X", b" a\rX-Postgate-Mark: spf=pass"), (b"Y", b" b")])
    start = content.index(b"X-Postgate")
    edits = [Edit("splice", index=start, length=content.index(b"\r\n", start) + 2 - start)]
    asked = changes.of_header(collector.seen, b"Received", edits, True)
    assert asked == [p.ChangeHeader(1, b"X", b" a\r")]


def test_a_field_that_a_milter_behind_us_wrote_without_a_blank() -> None:
    collector, _ = collected([(b"A", b" 1")])
    for leading_space, value in ((True, b"close"), (False, b"close")):
        asked = changes.of_header(collector.seen, b"Received", [Edit("append", "X", "close", tight=True)], leading_space)
        assert asked == [p.AddHeader(b"X", value)]


def test_several_forged_fields_in_one_cut() -> None:
    collector, content = collected([(b"A", b" 1"), (b"B", b" 2"), (b"C", b" 3")])
    edits = [Edit("splice", index=content.index(b"A:"), length=len(b"A: 1\r\nB: 2\r\n"))]
    assert changes.of_header(collector.seen, b"Received", edits, True) == [
        p.ChangeHeader(1, b"B", b""),
        p.ChangeHeader(1, b"A", b""),
    ]


def test_envelope_and_body() -> None:
    edits = [
        Edit("sender", "RET=HDRS", "new@example.org"),
        Edit("add_recipient", "", "x@example.com"),
        Edit("add_recipient", "NOTIFY=NEVER", "<y@example.com>"),
        Edit("delete_recipient", "", "z@example.com"),
        Edit("prepend", "X", "1"),
    ]
    written = [("z@example.com", b"<Z@Example.com>"), ("other@example.com", b"<other@example.com>")]
    assert changes.of_envelope(edits, written) == [
        p.ChangeSender(b"<new@example.org>", b"RET=HDRS"),
        p.AddRecipient(b"<x@example.com>"),
        p.AddRecipient(b"<y@example.com>", b"NOTIFY=NEVER"),
        p.DeleteRecipient(b"<Z@Example.com>"),
    ]
    assert changes.of_envelope(edits[2:4], [], arguments=False) == [p.AddRecipient(b"<y@example.com>")]
    collector, content = collected([(b"A", b" 1")], b"old\r\n")
    cut = Edit("splice", value="new", index=content.index(b"old"), length=3)
    assert changes.touches_body([cut], collector.body_start)
    assert not changes.touches_body([Edit("splice", index=collector.seen[0].start, length=6)], collector.body_start)
    assert changes.of_body(apply.whole(content, [cut])) == [p.ReplaceBody(b"new\r\n")]
    assert changes.of_body(apply.whole(content, [Edit("body", value="all new\n")])) == [p.ReplaceBody(b"all new\r\n")]


@pytest.mark.parametrize("size", [10, 65536, 200_000])
def test_small_in_memory_large_in_a_file(size: int, tmp_path: object) -> None:
    memory = Memory(1 << 20)
    collector = Collector(TOP, 0, 1 << 20, memory, str(tmp_path))
    collector.field(b"Subject", b" x\n\ty")
    for start in range(0, size, 65535):
        collector.body(b"z" * min(65535, size - start))
    content = collector.whole()
    octets = b"".join(content.chunks())
    assert octets == TOP + b"Subject: x\r\n\ty\r\n\r\n" + b"z" * size and content.size == len(octets)
    assert content.header == octets[: len(octets) - size] and content.header_complete
    assert (memory.used > 0) == (size == 10)
    collector.drop()
    collector.drop()
    assert memory.used == 0


def test_all_of_a_worker_together_have_a_limit(tmp_path: object) -> None:
    memory = Memory(1000)
    first, second = (Collector(TOP, 0, 1 << 20, memory, str(tmp_path)) for _ in range(2))
    for one in (first, second):
        one.body(b"x" * 600)
    assert memory.used < 1000 + len(TOP)
    assert second.whole().size == first.whole().size
    first.drop()
    second.drop()
    assert memory.used == 0


def test_too_much_and_no_place(tmp_path: object) -> None:
    memory = Memory(1 << 20)
    collector = Collector(TOP, 1000, 1 << 20, memory, str(tmp_path))
    collector.body(b"x" * 1001)
    assert collector.too_big and memory.used == 0
    collector = Collector(TOP, 0, 1 << 20, memory, "/nonexistent")
    collector.body(b"x" * 100_000)
    assert isinstance(collector.trouble, OSError) and memory.used == 0
    collector.body(b"x" * 100_000)


@pytest.mark.parametrize("good", [0, 1])
def test_a_disk_that_is_full_in_the_middle(tmp_path: object, monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    """At the first octets of the file or later: never a message without its middle."""
    written: list[bytes] = []

    def write(_file: object, octets: bytes) -> None:
        if len(written) == good:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(octets)

    monkeypatch.setattr(TempContent, "write", write)
    memory = Memory(1 << 20)
    collector = Collector(TOP, 0, 1 << 20, memory, str(tmp_path))
    for _ in range(5):
        collector.body(b"x" * 60_000)
    assert isinstance(collector.trouble, OSError) and collector.trouble.errno == errno.ENOSPC
    assert len(written) == good and memory.used == 0 and collector._file is None


@pytest.mark.parametrize(("field", "taken"), [(b"", collector_module.FIELDS), (b"x" * 1000, 1044)])
def test_d6_a_header_without_end_is_given_up(tmp_path: object, field: bytes, taken: int) -> None:
    """By its fields or its octets; nothing is held of it, however long it goes on."""
    memory = Memory(1 << 30)
    collector = Collector(TOP, 0, 1 << 16, memory, str(tmp_path))
    for _ in range(taken):
        collector.field(b"a", field)
    assert not collector.header_over and len(collector.seen) == taken
    for _ in range(3):
        collector.field(b"a", field)
        assert collector.header_over and not collector.seen and memory.used == 0 and not collector._pieces
    collector.end_of_header()
    collector.body(b"x" * 100_000)
    assert memory.used == 0 and collector._file is None and not collector._pieces


def test_a_message_over_its_limit_is_given_up_with_its_fields(tmp_path: object) -> None:
    memory = Memory(1 << 30)
    collector = Collector(TOP, 100, 1 << 16, memory, str(tmp_path))
    for _ in range(100):
        collector.field(b"a", b"b")
    assert collector.too_big and not collector.header_over and not collector.seen and memory.used == 0


def test_octets_of_a_field_that_are_no_utf8_stay() -> None:
    collector, _ = collected([(b"A", b" 1"), (b"B", b" 2")], b"")
    edits = [
        Edit("change", "A", "gr\xfc\xdf", 1, encoding="latin-1"),
        Edit("append", "C", "\xfc", encoding="latin-1"),
        Edit("prepend", "D", "\xfc"),
    ]
    assert changes.of_header(collector.seen, b"Received", edits, True) == [
        p.ChangeHeader(1, b"A", b" gr\xfc\xdf"),
        p.AddHeader(b"C", b" \xfc"),
        p.InsertHeader(1, b"D", b" \xc3\xbc"),
    ]


def test_who_was_put_in_and_taken_out_again_is_not_put_in() -> None:
    """By two milters behind us: an MTA knows who is taken out only if it was told of them."""
    put_in, out = Edit("add_recipient", "", "x@example.com"), Edit("delete_recipient", "", "X@example.com")
    assert changes.of_envelope([put_in, out], []) == []
    assert changes.of_envelope([out, put_in], [("x@example.com", b"<x@example.com>")]) == [
        p.DeleteRecipient(b"<x@example.com>"),
        p.AddRecipient(b"<x@example.com>"),
    ]
