"""spamd's answers and what they mean: numbers are read strictly, all else is no score."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol import spamd
from appliance.protocol.errors import ProtocolError
from appliance.protocol.spamd import Answer, ReplyReader


def reply(spam: str = "False ; 1.5 / 5.0", body: bytes = b"A,B_2", length: str | None = None, more: str = "") -> bytes:
    count = str(len(body)) if length is None else length
    return f"SPAMD/1.1 0 EX_OK\r\nContent-length: {count}\r\nSpam: {spam}\r\n{more}\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (reply(), Answer(False, 1.5, 5.0, ("A", "B_2"))),
        (reply("True ; 1004.2 / 5.0", b"GTUBE"), Answer(True, 1004.2, 5.0, ("GTUBE",))),
        (reply("False ; -2.3 / 5.0", b""), Answer(False, -2.3, 5.0, ())),
        (reply("True ; 5 / 5", b"X\r\n"), Answer(True, 5.0, 5.0, ("X",))),
        (reply("Yes ; 7.0 / 5.0"), Answer(True, 7.0, 5.0, ("A", "B_2"))),
        (reply("False ; 0.0 / -1.0"), Answer(False, 0.0, -1.0, ("A", "B_2"))),
        (reply(more="DidSet: local\r\n"), Answer(False, 1.5, 5.0, ("A", "B_2"))),
    ],
)
def test_every_answer_that_spamd_has(answer: bytes, meaning: Answer) -> None:
    assert spamd.parse(answer) == meaning


@pytest.mark.parametrize(
    "number",
    [
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "1e5",
        "1_0",
        "0x10",
        "",
        "-",
        "1.",
        ".5",
        "\u0661",
        "+1",
        "1,5",
        "9" * 400,
        "--1",
        "1 1",
    ],
)
def test_c9_a_score_that_is_no_plain_number_is_none(number: str) -> None:
    for spam in (f"True ; {number} / 5.0", f"False ; 1.0 / {number}"):
        with pytest.raises(ProtocolError):
            spamd.parse(reply(spam))


@pytest.mark.parametrize(
    "spam",
    [
        "",
        "True",
        "True; 1.0 / 5.0",
        "true ; 1.0 / 5.0",
        "Maybe ; 1.0 / 5.0",
        "True ; 1.0 / 5.0 ",
        "True ; 1.0",
        "True ; 1.0 / 5.0 / 7",
    ],
)
def test_c9_a_score_line_of_another_form_is_none(spam: str) -> None:
    answer = reply(spam)
    if spam.endswith(" "):  # blanks at the end of a header mean nothing
        assert spamd.parse(answer).score == 1.0
        return
    with pytest.raises(ProtocolError, match="score"):
        spamd.parse(answer)


@pytest.mark.parametrize("code", [1, 64, 65, 67, 69, 74, 75, 76, 78, 79, 99])
def test_every_code_but_0_is_an_error(code: int) -> None:
    with pytest.raises(ProtocolError, match=f"answered {code}"):
        spamd.parse(f"SPAMD/1.0 {code} Sorry\r\n".encode())
    with pytest.raises(ProtocolError, match=f"answered {code}"):
        spamd.parse(reply().replace(b" 0 ", b" %d " % code))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"SPAMD/1.1 0 EX_OK\r\n",
        b"SPAMD/1.1 0 EX_OK\r\n\r\n",
        b"SPAMD/1.1 EX_OK\r\n\r\n",
        reply(length="4"),
        reply(length="6"),
        reply(length="-1"),
        reply(length="x"),
        reply(length="5 " + "5"),
        reply()[:-1],
        reply() + b"x",
        reply() + reply(),
        reply(more="Spam: True ; 9.0 / 5.0\r\n"),
        reply(more="Content-length: 5\r\n"),
        reply(more="no colon\r\n"),
        reply(body=b"A,,B"),
        reply(body=b"A B"),
        reply(body=b"<script>"),
        reply(body=b"\xff"),
        reply(body=b","),
        reply().replace(b"Content-length: 5\r\n", b""),
        reply().replace(b"Spam: ", b"X-Spam: "),
        reply().replace(b"\r\n", b"\n"),
    ],
)
def test_d2_anything_else_is_no_score(answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        spamd.parse(answer)


@given(st.binary(max_size=200))
def test_d2_rubbish_never_raises_anything_else(rubbish: bytes) -> None:
    for answer in (rubbish, b"SPAMD/1.1 0 EX_OK\r\n" + rubbish, reply(body=rubbish)):
        try:
            found = spamd.parse(answer)
        except ProtocolError:
            continue
        assert math.isfinite(found.score) and math.isfinite(found.threshold)


def test_d1_an_endless_answer_is_cut_off() -> None:
    reader = ReplyReader()
    with pytest.raises(ProtocolError, match="longer than"):
        for _ in range(100):
            reader.feed(b"SPAMD/1.1 0 EX_OK\r\n" * 100)


def test_d1_each_limit_holds_at_its_value() -> None:
    rules = tuple(f"R{number}" for number in range(2000))
    assert spamd.parse(reply(body=",".join(rules).encode())).rules == rules
    with pytest.raises(ProtocolError, match="the rules 'R0,R1,"):
        spamd.parse(reply(body=",".join((*rules, "R2000")).encode()))
    reader = ReplyReader()
    reader.feed(b"x" * 65535)
    reader.feed(b"x")
    with pytest.raises(ProtocolError, match="longer than 65536 octets"):
        reader.feed(b"x")


def test_d1_one_octet_at_a_time() -> None:
    reader = ReplyReader()
    for octet in reply():
        reader.feed(bytes((octet,)))
    assert reader.end().score == 1.5


def test_the_request_has_the_exact_case() -> None:
    assert spamd.request(1234) == b"SYMBOLS SPAMC/1.5\r\nContent-length: 1234\r\n\r\n"
    assert spamd.request(1, "nobody") == b"SYMBOLS SPAMC/1.5\r\nContent-length: 1\r\nUser: nobody\r\n\r\n"
