"""Replies and EHLO: what we write is well formed, what we read is bounded and printable, at any split."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp import ehlo
from appliance.protocol.smtp.reply import Reply, ReplyReader, from_text, printable


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        (Reply(250, "2.1.0", ("Ok",)), b"250 2.1.0 Ok\r\n"),
        (Reply(250, "", ("a", "b", "c")), b"250-a\r\n250-b\r\n250 c\r\n"),
        (Reply(550, "5.7.1", ("no", "really")), b"550-5.7.1 no\r\n550 5.7.1 really\r\n"),
        (Reply(250), b"250\r\n"),
        (Reply(250, "2.0.0", ()), b"250 2.0.0\r\n"),
        (Reply(550, "5.7.1", ("a\r\n250 ok\0\x1bü",)), b"550 5.7.1 a??250 ok???\r\n"),
    ],
)
def test_encode(reply: Reply, wire: bytes) -> None:
    assert reply.encode() == wire


def test_long_lines_are_broken_not_cut() -> None:
    words = " ".join(f"word{n}" for n in range(300))
    wire = Reply(451, "4.3.0", (words + " end-of-text",)).encode()
    lines = wire.split(b"\r\n")[:-1]
    assert len(lines) > 1
    assert all(len(line) <= 510 for line in lines)
    assert lines[-1].startswith(b"451 4.3.0 ")
    assert all(line.startswith(b"451-4.3.0 ") for line in lines[:-1])
    assert b" ".join(line[10:] for line in lines).decode() == words + " end-of-text"
    blob = Reply(451, "", ("x" * 2000,)).encode().split(b"\r\n")[:-1]
    assert max(map(len, blob)) == 510
    assert b"".join(line[4:] for line in blob) == b"x" * 2000


@pytest.mark.parametrize("size", range(497, 505))
def test_break_at_the_very_border(size: int) -> None:
    lines = Reply(451, "4.3.0", ("x" * size + " y",)).encode().split(b"\r\n")[:-1]
    assert all(len(line) <= 510 for line in lines)
    assert b"".join(line[10:] for line in lines).replace(b" ", b"") == b"x" * size + b"y"


def test_from_text() -> None:
    assert from_text("550 5.1.1 <x@y>: unknown") == Reply(550, "5.1.1", ("<x@y>: unknown",))
    assert from_text("221 Bye") == Reply(221, "", ("Bye",))
    assert from_text("450") == Reply(450)
    assert from_text("550 5.7.1 one\ntwo").encode() == b"550-5.7.1 one\r\n550 5.7.1 two\r\n"
    for wrong in ("", "no", "99 x", "650 x", "2500", "250-x"):
        with pytest.raises(ValueError, match="code"):
            from_text(wrong)


def test_text_for_logs() -> None:
    assert Reply(550, "5.1.1", ("a", "", "b")).text == "550 5.1.1 a b"
    assert Reply(250).text == "250"


READ = [
    (b"250 ok\r\n", [Reply(250, "", ("ok",))]),
    (b"250\r\n", [Reply(250)]),
    (b"250 \r\n", [Reply(250)]),
    (b"250 2.1.5 Ok\r\n", [Reply(250, "2.1.5", ("Ok",))]),
    (b"250 2.1.5\r\n", [Reply(250, "2.1.5", ("",))]),
    (b"550 2.1.5 liar\r\n", [Reply(550, "", ("2.1.5 liar",))]),
    (b"550 5.1.1000 x\r\n", [Reply(550, "", ("5.1.1000 x",))]),
    (b"250-a\r\n250-b\r\n250 c\r\n", [Reply(250, "", ("a", "b", "c"))]),
    (b"550-5.7.1 a\r\n550-b\r\n550 5.7.1 c\r\n", [Reply(550, "5.7.1", ("a", "b", "c"))]),
    (b"250-a\r\n250-\r\n250\r\n", [Reply(250, "", ("a", "", ""))]),
    (b"250-a\r\n550 b\r\n", [Reply(550, "", ("a", "b"))]),
    (b"250 a\n354 go\n", [Reply(250, "", ("a",)), Reply(354, "", ("go",))]),
    (b"250 a\r\n550 5.1.1 b\r\n354 c\r\n", [Reply(250, "", ("a",)), Reply(550, "5.1.1", ("b",)), Reply(354, "", ("c",))]),
    (b"250 \x1b[2J\xff\r\n", [Reply(250, "", ("?[2J?",))]),
]


@pytest.mark.parametrize(("wire", "replies"), READ)
def test_read_at_every_split(wire: bytes, replies: list[Reply]) -> None:
    edges = itertools.chain(
        [()], itertools.combinations(range(1, len(wire)), 1), itertools.combinations(range(1, len(wire)), 2)
    )
    for places in [*edges, tuple(range(1, len(wire)))]:
        reader = ReplyReader()
        got = []
        for a, b in itertools.pairwise([0, *places, len(wire)]):
            got += reader.feed(wire[a:b])
        assert got == replies, places
        assert not reader.pending


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"ok\r\n",
        b"99 x\r\n",
        b"650 x\r\n",
        b"150 x\r\n",
        b"2500 x\r\n",
        b"250x\r\n",
        b"250_x\r\n",
        b" 250 x\r\n",
        b"\x16\x03\x01\n",
        b"25\n",
    ],
)
def test_rubbish(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyReader().feed(wire)


def test_limits() -> None:
    reader = ReplyReader(max_line=10, max_lines=3)
    assert reader.feed(b"250 123456\r\n") == [Reply(250, "", ("123456",))]
    for wire in (b"250 1234567\r\n", b"x" * 11, b"250 1234567890", b"250-a\r\n" * 3):
        with pytest.raises(ProtocolError):
            ReplyReader(max_line=10, max_lines=3).feed(wire)
    assert ReplyReader(max_line=10, max_lines=3).feed(b"250-a\r\n250-b\r\n250 c\r\n")[0].lines == ("a", "b", "c")


def test_unread_octets_can_be_thrown_away() -> None:
    reader = ReplyReader()
    reader.push(b"220 go\r\n250 injected\r\n250-half")
    assert reader.next() == Reply(220, "", ("go",))
    assert reader.pending
    reader.clear()
    assert not reader.pending
    assert reader.next() is None


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80).map(str.strip)


@settings(deadline=None)
@given(
    st.sampled_from([220, 250, 354, 421, 550]),
    st.sampled_from([None, "1.1", "7.26"]),
    st.lists(TEXT, min_size=1, max_size=4),
)
def test_round_trip(code: int, detail: str | None, lines: list[str]) -> None:
    enhanced = f"{code // 100}.{detail}" if detail and code != 354 else ""
    if not enhanced:
        lines = ["x" + line for line in lines]
    reply = Reply(code, enhanced, tuple(lines))
    assert ReplyReader().feed(reply.encode()) == [reply]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_reader_is_total(data: bytes) -> None:
    try:
        replies = ReplyReader(max_line=64).feed(data)
    except ProtocolError:
        return
    for reply in replies:
        assert 200 <= reply.code <= 599
        assert all(line == printable(line) for line in reply.lines)


def test_ehlo_round_trip() -> None:
    wire = ehlo.offer("mx.example.com", ["PIPELINING", "SIZE 52428800", "XFORWARD NAME ADDR", "8BITMIME"])
    assert (
        wire == b"250-mx.example.com\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-XFORWARD NAME ADDR\r\n250 8BITMIME\r\n"
    )
    (reply,) = ReplyReader().feed(wire)
    assert ehlo.parse(reply.lines) == {"PIPELINING": "", "SIZE": "52428800", "XFORWARD": "NAME ADDR", "8BITMIME": ""}
    assert ehlo.offer("mx.example.com", []) == b"250 mx.example.com\r\n"


def test_ehlo_of_odd_servers() -> None:
    lines = ("mx PIPELINING greets you", "AUTH=PLAIN LOGIN", "auth PLAIN", "size", "", "???", "Starttls ", "X-A  b c")
    assert ehlo.parse(lines) == {"AUTH": "PLAIN LOGIN PLAIN", "SIZE": "", "STARTTLS": "", "X-A": "b c"}
    assert ehlo.parse(()) == {}
