"""The codecs of tables asked over a wire: both ends glued together, octets cut at every place, each limit tripped."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol import resp, socketmap, tcp_table
from appliance.protocol.errors import ProtocolError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def collected(reader: Any, octets: bytes, cut: int) -> Any:
    reader.feed(octets[:cut]) if cut else None
    assert not reader.complete
    reader.feed(octets[cut:])
    assert reader.complete
    return reader.end()


@given(texts, st.sampled_from(socketmap.STATES), texts)
def test_socketmap_both_ends(key: str, state: str, text: str) -> None:
    question, answer = socketmap.question("map", key), socketmap.answer(state, text)
    reader = socketmap.NetstringReader()
    reader.feed(question)
    assert socketmap.read_question(reader.end()) == ("map", key)
    for cut in {0, 1, 2, 3, len(answer) // 2, len(answer) - 1}:
        assert socketmap.read_answer(collected(socketmap.NetstringReader(), answer, cut)) == (state, text)


@given(texts, st.sampled_from(["200", "400", "500"]), texts)
def test_tcp_both_ends(key: str, code: str, text: str) -> None:
    if key:
        try:
            line = tcp_table.question(key)
        except ProtocolError:
            assert len(tcp_table.encode(key)) > 4000
        else:
            assert line.isascii() and line.endswith(b"\n") and tcp_table.read_question(line[:-1]) == key
    answer = tcp_table.answer(code, text)
    for cut in {0, 1, len(answer) // 2, len(answer) - 1}:
        assert tcp_table.read_answer(collected(tcp_table.LineReader(), answer, cut)) == (code, text)


@given(st.none() | st.binary(max_size=200))
def test_resp_both_ends(value: bytes | None) -> None:
    octets = resp.reply(value)
    for cut in range(len(octets)):
        assert collected(resp.ReplyReader(), octets, cut) == ("$", value)


def test_commands_are_arrays_of_words() -> None:
    assert resp.command(b"GET", b"a b\r\n") == b"*2\r\n$3\r\nGET\r\n$5\r\na b\r\n\r\n"


@pytest.mark.parametrize(
    "octets",
    [
        b"x",
        b"12",
        b"1234567",
        b"01:a,",
        b"-1:a,",
        b"3:abcd",
        b"3:abc;",
        b"3:abc,x",
        b"100001:",
        b"3:ab",
        b"",
        b":,",
        b" 3:abc,",
    ],
)
def test_what_is_no_netstring(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        reader = socketmap.NetstringReader()
        reader.feed(octets)
        reader.end()


@pytest.mark.parametrize("payload", [b"YES x", b"ok x", b"", b"OKx", b"NOTFOUNDx "])
def test_only_the_exact_words_are_answers_of_a_socketmap(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        socketmap.read_answer(payload)
    assert socketmap.read_answer(b"NOTFOUND ") == ("NOTFOUND", "")


@pytest.mark.parametrize("payload", [b"", b"nokey", b" key"])
def test_what_is_no_question_of_a_socketmap(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        socketmap.read_question(payload)


@pytest.mark.parametrize(
    "octets", [b"200 x", b"200 x\n200 y\n", b"2" * 4097, b"", b"201 x\n", b"200x\n", b"200\n", b"200 %zz\n"]
)
def test_what_is_no_answer_of_a_tcp_table(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        reader = tcp_table.LineReader()
        reader.feed(octets)
        tcp_table.read_answer(reader.end())


@pytest.mark.parametrize("line", [b"put x", b"get", b"get ", b"get %4"])
def test_what_is_no_question_of_a_tcp_table(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        tcp_table.read_question(line)
    with pytest.raises(ProtocolError):
        tcp_table.question("x" * 5000)


@pytest.mark.parametrize(
    "octets",
    [b"*1\r\n", b"hello\r\n", b"$3\r\nabcd\r\n", b"$3\r\nabc\r\n+OK\r\n", b"$-2\r\n", b"$99999999\r\n", b"$ 3\r\nabc\r\n",
     b"+OK", b"", b"+" + b"x" * 2000, b"$3\r\nab"],
)  # fmt: skip
def test_what_is_no_reply_of_redis(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        reader = resp.ReplyReader()
        if octets:
            reader.feed(octets)
        reader.end()


def test_statuses_errors_and_numbers_are_told_apart() -> None:
    for octets, kind, value in ((b"+OK\r\n", "+", b"OK"), (b"-ERR no\r\n", "-", b"ERR no"), (b":7\r\n", ":", b"7")):
        assert collected(resp.ReplyReader(), octets, 2) == (kind, value)
