"""End of data, line ends and dots: tables, every split, and random octets against a slow, obvious reference."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.protocol.smtp.data import BareLineEnds, BdatDecoder, DataDecoder, DataEncoder


def reference_lines(raw: bytes) -> bytes:
    """Octet by octet: CRLF stays, a CR or LF of its own becomes CRLF."""
    out, i = bytearray(), 0
    while i < len(raw):
        if raw[i : i + 2] == b"\r\n":
            out += b"\r\n"
            i += 2
        else:
            out += b"\r\n" if raw[i] in b"\r\n" else raw[i : i + 1]
            i += 1
    return bytes(out)


def reference_decode(raw: bytes) -> tuple[bytes, bytes] | None:
    """(content, rest), or None if the end is not there: lines part at CRLF only, "." ends, one leading dot goes."""
    lines, rest = [], raw
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if line == b".":
            return reference_lines(b"".join(lines)), rest
        lines.append(line.removeprefix(b".") + b"\r\n")


def decode(chunks: list[bytes], bare_lf: BareLineEnds = "normalize") -> tuple[bytes, DataDecoder]:
    decoder = DataDecoder(bare_lf)
    return b"".join([decoder.feed(chunk) for chunk in chunks]), decoder


def cuts(raw: bytes, most: int) -> list[list[bytes]]:
    """`raw` in one piece, and cut at every place, at every two places ... up to `most` cuts; and octet by octet."""
    found = [[raw[i : i + 1] for i in range(len(raw))]]
    for count in range(most + 1):
        for places in itertools.combinations(range(1, len(raw)), count):
            edges = [0, *places, len(raw)]
            found.append([raw[a:b] for a, b in itertools.pairwise(edges)])
    return found


WHOLE = [
    (b".\r\n", b""),
    (b"\r\n.\r\n", b"\r\n"),
    (b"a\r\n.\r\n", b"a\r\n"),
    (b"..\r\n.\r\n", b".\r\n"),
    (b"...\r\n.\r\n", b"..\r\n"),
    (b".a\r\n.\r\n", b"a\r\n"),
    (b"a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
    (b"a.\r\n.\r\n", b"a.\r\n"),
    (b"a\r\n\r\n.\r\n", b"a\r\n\r\n"),
    (b". \r\n.\r\n", b" \r\n"),
    (b"a\r\n.\r\nNOOP\r\n.\r\n", b"a\r\n"),
]


@pytest.mark.parametrize(("raw", "content"), WHOLE)
def test_content_at_every_split(raw: bytes, content: bytes) -> None:
    for chunks in cuts(raw, 3):
        got, decoder = decode(chunks)
        assert (got, decoder.done) == (content, True), chunks
        assert decoder.size == len(content)
        assert decoder.signs == set()
        assert not decoder.refused
    expected = reference_decode(raw)
    assert expected is not None
    assert expected[0] == content


# What servers were seen to take for the end of a message; none of it is (threats B1). Behind each a smuggled command.
SMUGGLED = [
    (b"\n.\n", b"\r\n.\r\n", {"bare_lf"}),
    (b"\n.\r\n", b"\r\n.\r\n", {"bare_lf"}),
    (b"\r.\r", b"\r\n.\r\n", {"bare_cr"}),
    (b"\r.\r\n", b"\r\n.\r\n", {"bare_cr"}),
    (b"\r.\n", b"\r\n.\r\n", {"bare_cr", "bare_lf"}),
    (b"\n.\r", b"\r\n.\r\n", {"bare_cr", "bare_lf"}),
    (b"\r\n.\r", b"\r\n\r\n", {"bare_cr"}),
    (b"\r\n.\n", b"\r\n\r\n", {"bare_lf"}),
    (b"\r\r\n.\r\r\n", b"\r\n\r\n\r\n\r\n", {"bare_cr"}),
    (b"\r\n.\r\r\n", b"\r\n\r\n\r\n", {"bare_cr"}),
    (b"\n\n.\r\n", b"\r\n\r\n.\r\n", {"bare_lf"}),
    (b"\n\r.\r\n", b"\r\n\r\n.\r\n", {"bare_cr", "bare_lf"}),
    (b"\r\n\0.\r\n", b"\r\n\0.\r\n", {"nul"}),
    (b"\r\n.\0\r\n", b"\r\n\0\r\n", {"nul"}),
    (b"\r\n.\r\0\n", b"\r\n\r\n\0\r\n", {"nul", "bare_cr", "bare_lf"}),
    (b"\r\0\n.\r\n", b"\r\n\0\r\n.\r\n", {"nul", "bare_cr", "bare_lf"}),
    (b"\r\n\x1a.\r\n", b"\r\n\x1a.\r\n", set()),
    (b"\r\n.\x0b\r\n", b"\r\n\x0b\r\n", set()),
    (b"\r\n.\xe2\x80\xa8", b"\r\n\xe2\x80\xa8", set()),
    (b"\x85.\x85", b"\x85.\x85", set()),
    (b"\r\n. \r\n", b"\r\n \r\n", set()),
    (b"\r\n.\t\r\n", b"\r\n\t\r\n", set()),
]


@pytest.mark.parametrize(("trick", "kept", "signs"), SMUGGLED)
def test_nothing_else_ends_data(trick: bytes, kept: bytes, signs: set[str]) -> None:
    smuggled = b"MAIL FROM:<admin@example.com>\r\n"
    raw = b"x" + trick + smuggled + b".\r\nQUIT\r\n"
    for chunks in cuts(raw[: 1 + len(trick)], 3):
        chunks = [*chunks, raw[1 + len(trick) :]]
        for policy in ("normalize", "reject"):
            content, decoder = decode(chunks, policy)
            assert content == b"x" + kept + smuggled, chunks
            assert decoder.rest == b"QUIT\r\n"
            assert decoder.signs == signs
            assert decoder.refused is (policy == "reject" and bool(signs & {"bare_lf", "bare_cr"}))


@pytest.mark.parametrize("trick", [row[0] for row in SMUGGLED])
def test_what_was_smuggled_in_is_not_smuggled_out(trick: bytes) -> None:
    """Decoded and encoded again there is one end, at the end, and no other line end than CRLF (threats B2)."""
    content, _ = decode([b"x" + trick + b"RSET\r\n.\r\n"])
    encoder = DataEncoder()
    sent = encoder.feed(content) + encoder.finish()
    assert (b"\r\n" + sent).count(b"\r\n.\r\n") == 1
    assert sent.endswith(b"\r\n.\r\n")
    assert sent.replace(b"\r\n", b"").count(b"\n") == sent.replace(b"\r\n", b"").count(b"\r") == 0


WIRE = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\n.\n", b"a", b"\0", b"..", b"\xff"])
    | st.binary(max_size=5),
    max_size=40,
).map(b"".join)
PIECES = st.lists(st.integers(0, 7), max_size=200)


def pieces(raw: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(raw[:size])
        raw = raw[size:]
    return [*chunks, raw]


@settings(deadline=None)
@given(WIRE, PIECES)
@example(b"\r\n.\r\r\n.\r\n", [1] * 20)
@example(b".\r\n", [0, 1, 0, 1, 0])
def test_decoder_agrees_with_the_reference(raw: bytes, sizes: list[int]) -> None:
    content, decoder = decode(pieces(raw, sizes))
    expected = reference_decode(raw)
    assert decoder.done is (expected is not None)
    if expected is not None:
        assert (content, decoder.rest) == expected
        ended = raw[: len(raw) - len(decoder.rest)]
        assert (b"\r\n" + ended).endswith(b"\r\n.\r\n")
        assert (b"\r\n" + ended[:-1]).find(b"\r\n.\r\n") < 0
    assert decoder.size == len(content)


@settings(deadline=None)
@given(WIRE, PIECES)
def test_what_comes_out_before_the_end_never_changes(raw: bytes, sizes: list[int]) -> None:
    """Streaming gives nothing out that a later octet would have made different."""
    whole, _ = decode([raw + b"\r\n.\r\n"])
    early, decoder = decode(pieces(raw, sizes))
    if not decoder.done:
        assert whole.startswith(early)
        assert len(raw) - 2 * raw.count(b".") - 4 <= len(early)


@settings(deadline=None)
@given(WIRE, PIECES, PIECES)
def test_encode_and_decode(content: bytes, out: list[int], back: list[int]) -> None:
    encoder = DataEncoder()
    wire = b"".join([encoder.feed(chunk) for chunk in pieces(content, out)]) + encoder.finish()
    got, decoder = decode(pieces(wire + b"QUIT\r\n", back))
    expected = reference_lines(content)
    if expected and not expected.endswith(b"\r\n"):
        expected += b"\r\n"
    assert got == expected
    assert decoder.done
    assert decoder.rest == b"QUIT\r\n"
    assert decoder.signs <= {"nul"}


@settings(deadline=None)
@given(WIRE, PIECES)
def test_bdat_chunks_mean_nothing(raw: bytes, sizes: list[int]) -> None:
    decoder = BdatDecoder()
    content = b"".join([decoder.feed(chunk) for chunk in pieces(raw, sizes)]) + decoder.finish()
    expected = reference_lines(raw)
    if expected and not expected.endswith(b"\r\n"):
        expected += b"\r\n"
    assert content == expected
    assert decoder.size == len(content)
    assert ("nul" in decoder.signs) is (b"\0" in raw)
    lone = raw.replace(b"\r\n", b"")
    assert decoder.signs - {"nul"} == {name for name, c in (("bare_cr", b"\r"), ("bare_lf", b"\n")) if c in lone}


def test_bdat_keeps_dots_and_flags_by_policy() -> None:
    for policy, refused in (("normalize", False), ("reject", True)):
        decoder = BdatDecoder(policy)
        assert decoder.feed(b".a\r\n.\r\n..b\r") == b".a\r\n.\r\n..b"
        assert decoder.feed(b"\nc\n") == b"\r\nc\r\n"
        assert decoder.finish() == b""
        assert decoder.refused is refused
    assert not BdatDecoder("reject").refused


def test_bdat_last_line_and_last_cr() -> None:
    for raw, expected in ((b"", b""), (b"a", b"a\r\n"), (b"a\r", b"a\r\n"), (b"\r", b"\r\n"), (b"a\r\n", b"a\r\n")):
        decoder = BdatDecoder()
        assert decoder.feed(raw) + decoder.finish() == expected
        assert decoder.finish() == b""


def test_what_comes_after_the_end_is_kept_for_the_session() -> None:
    decoder = DataDecoder()
    assert decoder.feed(b"a\r\n.\r\nRS") == b"a\r\n"
    assert decoder.feed(b"ET\r\n") == b""
    assert decoder.rest == b"RSET\r\n"


@pytest.mark.parametrize("size", [1_000_000])
def test_endless_lines_go_through(size: int) -> None:
    line = b"x" * size + b"\r\n"
    encoder = DataEncoder()
    wire = encoder.feed(line * 2) + encoder.finish()
    assert wire == line * 2 + b".\r\n"
    assert decode([wire[:size], wire[size:]])[0] == line * 2


@pytest.mark.parametrize(
    ("wire", "plain"),
    [
        (b"a\r\nb.c\r\n.\r\n", True),
        (b".\r\n", True),
        (b"..a\r\n.\r\n", False),
        (b"a\r\n..\r\n.\r\n", False),
        (b"a\r\n.b\r\n.\r\n", False),
        (b"a\nb\r\n.\r\n", False),
        (b"a\n.b\r\n.\r\n", False),
        (b"a\rb\r\n.\r\n", False),
    ],
)
def test_content_that_may_go_out_as_it_stands_is_told_from_what_may_not(wire: bytes, plain: bool) -> None:
    for cut in range(len(wire)):
        decoder = DataDecoder()
        content = decoder.feed(wire[:cut]) + decoder.feed(wire[cut:])
        assert decoder.plain is plain, cut
        encoder = DataEncoder()
        assert (encoder.feed(content) + encoder.finish() == content + b".\r\n") or not plain
