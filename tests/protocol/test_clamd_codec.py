"""clamd's answers and what they mean (users-ask T15): only exact words count."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol import clamd
from appliance.protocol.clamd import Answer, ReplyReader
from appliance.protocol.errors import ProtocolError

LONG = b"Win.Test." + b"A" * 300


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"stream: OK", Answer("clean")),
        (b"stream: Eicar-Test-Signature FOUND", Answer("found", "Eicar-Test-Signature")),
        (b"stream: Eicar-Test-Signature.UNOFFICIAL FOUND", Answer("found", "Eicar-Test-Signature.UNOFFICIAL")),
        (
            b"stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND",
            Answer("found", "Heuristics.Limits.Exceeded.MaxFileSize"),
        ),
        (b"stream: (null) FOUND", Answer("found", "(null)")),
        (b"stream: " + LONG + b" FOUND", Answer("found", LONG.decode())),
        (b"stream: OK FOUND", Answer("found", "OK")),
        (b"INSTREAM size limit exceeded. ERROR", Answer("limit", "INSTREAM size limit exceeded. ERROR")),
        (b"stream: Can't allocate memory ERROR", Answer("error", "Can't allocate memory")),
        (b"stream: Time limit reached. ERROR", Answer("error", "Time limit reached.")),
        (b"Error processing command. ERROR", Answer("error", "Error processing command.")),
    ],
)
def test_every_answer_that_clamd_has(line: bytes, answer: Answer) -> None:
    assert clamd.parse(line) == answer


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"OK",
        b"stream: ok",
        b"stream:OK",
        b"stream: OK ",
        b" stream: OK",
        b"stream: OKAY",
        b"stream: OK\n",
        b"stream: OK\r",
        b"STREAM: OK",
        b"1: stream: OK",
        b"fd[10]: OK",
        b"stream: FOUND",
        b"stream:  FOUND",
        b"stream: X FOUND\n",
        b"stream: X found",
        b"stream: a\nb FOUND",
        b"stream: \x1b[31m FOUND",
        b"PONG",
        b"UNKNOWN COMMAND",
        b"COMMAND UNAVAILABLE",
        b"RELOADING",
        b"ClamAV 1.4.2/27000/Wed Jan 1",
        b"HTTP/1.1 200 OK",
        b"stream: OK stream: OK",
        b"\xff\xfe",
        b"ERROR",
        b"stream: \xc3\xa9 FOUND",
    ],
)
def test_d2_an_unknown_answer_is_never_clean(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        clamd.parse(line)


@given(st.binary(max_size=60))
def test_d2_nothing_but_the_exact_words_is_clean(line: bytes) -> None:
    try:
        answer = clamd.parse(line)
    except ProtocolError:
        return
    assert (answer.kind == "clean") == (line == b"stream: OK")


def read(*pieces: bytes) -> Answer:
    reader = ReplyReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.end()


@given(st.integers(min_value=1, max_value=7))
def test_d1_an_answer_in_pieces_is_an_answer(size: int) -> None:
    reply = b"stream: X FOUND\0"
    assert read(*(reply[at : at + size] for at in range(0, len(reply), size))) == Answer("found", "X")


@pytest.mark.parametrize("reply", [b"", b"stream: OK", b"stream: X FOUND", b"stream: O"])
def test_d1_half_an_answer_is_none(reply: bytes) -> None:
    with pytest.raises(ProtocolError, match="hung up"):
        read(reply)


@pytest.mark.parametrize("reply", [b"stream: OK\0stream: X FOUND\0", b"stream: X FOUND\0stream: OK\0", b"stream: OK\0\n"])
def test_d1_two_answers_are_none(reply: bytes) -> None:
    with pytest.raises(ProtocolError, match="wrote on"):
        read(reply)


def test_behind_the_size_limit_clamd_says_more() -> None:
    reply = b"INSTREAM size limit exceeded. ERROR\0Error processing command. ERROR\0"
    assert read(reply).kind == "limit"


def test_d1_an_endless_answer_is_cut_off() -> None:
    reader = ReplyReader()
    with pytest.raises(ProtocolError, match="longer than"):
        for _ in range(10):
            reader.feed(b"x" * 1000)


@given(st.lists(st.binary(max_size=50)))
def test_the_stream_can_be_read_back(chunks: list[bytes]) -> None:
    sent = b"".join(clamd.stream(iter(chunks)))
    assert sent.startswith(b"zINSTREAM\0")
    rest, found = sent[10:], []
    while True:
        (length,) = struct.unpack_from(">I", rest)
        if length == 0:
            break
        found.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    assert rest == b"\0\0\0\0"
    assert found == [chunk for chunk in chunks if chunk]


def test_an_empty_chunk_would_end_the_stream() -> None:
    with pytest.raises(ValueError, match="end the stream"):
        clamd.frame(b"")
