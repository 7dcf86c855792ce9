"""The reader of MIME structures: what it counts (the largest of several readings), its limits, that nothing breaks it."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocol.mime import LIMITS, Limits, Readings, read

MIXED = b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n'


def shape(content: bytes, start: int = 0, end: int | None = None) -> tuple[int, int]:
    found = read(content, start, end)
    assert found.over == ""
    return found.parts, found.depth


def nested(levels: int) -> bytes:
    return (
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(levels)
        )
        + b"\r\nhi\r\n"
    )


@pytest.mark.parametrize(
    ("content", "parts", "depth"),
    [
        (b"", 1, 0),
        (b"\r\nbody", 1, 0),
        (b"From: a\r\n\r\nbody\r\n--x\r\n", 1, 0),
        (b"no header at all", 1, 0),
        (
            MIXED + b"preamble\r\n--x\r\n\r\na\r\n--x\r\nA: b\r\n\r\nb\r\n--x--\r\nepilogue\r\n--x\r\n\r\nno part\r\n",
            5,
            1,
        ),
        (MIXED + b"--x\r\n\r\na\r\n", 2, 1),
        (MIXED.replace(b"\r\n", b"\n") + b"--x\n\na\n--x--\n", 2, 1),
        (MIXED + b"--x  \t\r\n\r\na\r\n--x--  \r\n", 2, 1),
        (MIXED + b"--xy\r\n\r\na\r\n--X\r\n\r\n", 2, 1),
        (MIXED + b"--x\r\nA: b\r\n--x\r\n--x--\r\n", 3, 1),
        (b"Content-Type: message/rfc822\r\n\r\n" + MIXED + b"--x\r\n\r\na\r\n--x--\r\n", 3, 2),
        (b'Content-Type: multipart/mixed; boundary="a\\"b"\r\n\r\n--a"b\r\n\r\n', 2, 1),
        (b"Content-Type: multipart/mixed;\r\n\tboundary*0=a;\r\n\tboundary*1=b\r\n\r\n--ab\r\n\r\n", 2, 1),
        (b"content-type:MULTIPART/Mixed;BOUNDARY=x\r\n\r\n--x\r\n\r\n", 2, 1),
        (b"Content-Type: multipart/mixed; boundary=y\r\n" + MIXED + b"--x\r\n\r\n\r\n--y\r\n\r\n", 3, 1),
    ],
)
def test_what_is_counted(content: bytes, parts: int, depth: int) -> None:
    assert shape(content) == (parts, depth)


def test_an_outer_delimiter_ends_what_is_inside() -> None:
    inner = b'Content-Type: multipart/mixed; boundary="y"\r\n\r\n--y\r\n\r\na\r\n'
    content = MIXED + b"--x\r\n" + inner + b"--x\r\n\r\nb\r\n--y\r\n\r\nno part\r\n--x--\r\n"
    assert shape(content) == (4, 2)


def test_the_same_boundary_inside_itself_is_the_inner_one() -> None:
    content = MIXED + b"--x\r\n" + MIXED + b"--x\r\n\r\na\r\n--x--\r\n--x\r\n\r\nb\r\n"
    assert shape(content) == (4, 2)


@pytest.mark.parametrize(("levels", "over"), [(50, ""), (51, "depth"), (90, "depth"), (5000, "depth")])
def test_c2_nesting(levels: int, over: str) -> None:
    found = read(nested(levels))
    assert found.over == over and found.depth <= LIMITS.depth
    messages = read(b"Content-Type: message/rfc822\r\n\r\n" * levels)
    assert messages.over == over and messages.depth <= LIMITS.depth


@pytest.mark.parametrize(("count", "over"), [(1999, ""), (2000, "parts"), (10000, "parts"), (200000, "parts")])
def test_c2_parts(count: int, over: str) -> None:
    found = read(MIXED + b"--x\r\n\r\na\r\n" * count)
    assert found.over == over and found.parts == 2000


def test_c2_headers() -> None:
    assert read(b"X: " + b"a" * LIMITS.header + b"\r\n\r\n").over == "header"
    assert read(b"X: " + b"a" * LIMITS.header).over == "header"
    assert read(b"X: " + b"a" * (LIMITS.header - 5) + b"\r\n\r\n" + b"body" * 200000).over == ""
    assert read(MIXED + b"--x\r\nX: " + b"a" * LIMITS.header + b"\r\n\r\n").over == "header"
    assert read(b"X: a\r\n" * 10000 + b"\r\n").over == ""
    assert read(b"X: a\r\n" * 10001 + b"\r\n").over == "fields"
    assert read(b"X: a\r\n\tb\r\n" * 10000 + b"\r\n").over == ""
    assert read(b"Content-Type: multipart/mixed" + b";a=b" * 201 + b"\r\n\r\n").over == "parameters"


def test_limits_are_the_callers() -> None:
    content = MIXED + b"--x\r\n\r\na\r\n" * 5
    assert read(content, limits=Limits(parts=6)).over == ""
    assert read(content, limits=Limits(parts=5)).over == "parts"
    assert read(content, limits=Limits(depth=0)).over == "depth"


def test_only_the_given_range_is_read() -> None:
    inner = MIXED + b"--x\r\n\r\na\r\n"
    content = b"junk\r\n" + inner + b"--x\r\n\r\nbehind\r\n"
    assert shape(content, 6, 6 + len(inner)) == (2, 1)


FRAGMENTS = st.sampled_from(
    [
        b"--x",
        b"--x--",
        b"--",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        MIXED,
        b"Content-Type:",
        b" multipart/mixed",
        b";boundary=x",
        b'"',
        b"\\",
        b"message/rfc822",
        b"boundary*0=x",
        b" ",
        b"\0",
        b"\xff",
        b";",
        b"=",
        b"name=",
        b"a" * 80,
    ]
)


@given(st.lists(FRAGMENTS | st.binary(max_size=4), max_size=60).map(b"".join))
@settings(max_examples=300, deadline=None)
def test_nothing_makes_it_raise(content: bytes) -> None:
    found: Readings = read(content)
    assert 1 <= found.parts <= LIMITS.parts and 0 <= found.depth <= LIMITS.depth
    assert found.parts > found.depth
    assert all(0 <= piece.start <= piece.end <= len(content) for piece in found.pieces)


def seconds(content: bytes) -> float:
    """The best of three."""
    best = 60.0
    for _ in range(3):
        start = time.process_time()
        read(content)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize(
    "unit",
    [
        b"--\n",
        b"--xy\r\n",
        b"\n",
        b"--x\r\n" + b"A: b\n" * 50,
        b"--x\r\n" + b"--q\n" * 50,
        b"QUJD" * 19 + b"\r\n",
        b"\r",
        b"--x",
        b'--x\r\nContent-Type: a;b="' + b"\\" * 900 + b"\r\n\r\n",
        b"--x\r\nContent-Type: a" + b" ;" * 180 + b"\r\n\r\n",
    ],
)
def test_c3_time_is_linear(unit: bytes) -> None:
    """Eight times the content takes no more than about eight times the time (a quadratic reader: sixty-four times)."""
    limits = 60000 // len(unit)
    small, large = seconds(MIXED + unit * limits), seconds(MIXED + unit * limits * 8)
    assert large < 30 * max(small, 0.0005)
