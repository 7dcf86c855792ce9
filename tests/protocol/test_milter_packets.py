"""Packets of the milter protocol, both directions: octets and back, cut anywhere, and everything that is none."""

import struct

import pytest
from hypothesis import given

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import decoding
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.framing import PacketReader
from appliance.protocol.milter.words import MAX_PACKET, Event, Word
from tests.protocol.milter_samples import ANSWERS, EVENTS, answers, events


def read(data: bytes) -> list[tuple[bytes, bytes]]:
    reader, found = PacketReader(), []
    reader.push(data)
    while (one := reader.next()) is not None:
        found.append(one)
    assert not reader.pending
    return found


def both(values: list[p.FromMta] | list[p.FromFilter]) -> bytes:
    return b"".join(map(encode, values))


def test_each_letter_has_a_sample() -> None:
    assert {encode(event)[4:5] for event in EVENTS} == {letter.encode() for letter in Event}
    assert {encode(answer)[4:5] for answer in ANSWERS} == {bytes((letter,)) for letter in b"Ocartdy4fsphimb+2-eq"}


def test_events_come_back_as_they_went() -> None:
    assert [decoding.event(*one) for one in read(both(EVENTS))] == EVENTS


def test_answers_come_back_as_they_went() -> None:
    assert [decoding.answer(*one) for one in read(both(ANSWERS))] == ANSWERS


@given(events)
def test_any_event(event: p.FromMta) -> None:
    assert [decoding.event(*one) for one in read(encode(event))] == [event]


@given(answers)
def test_any_answer(answer: p.FromFilter) -> None:
    assert [decoding.answer(*one) for one in read(encode(answer))] == [answer]


def test_octets_cut_at_every_place() -> None:
    data = both(EVENTS)
    whole = read(data)
    for cut in range(len(data) + 1):
        reader, found = PacketReader(), []
        for piece in (data[:cut], data[cut:]):
            reader.push(piece)
            while (one := reader.next()) is not None:
                found.append(one)
        assert found == whole


def test_one_octet_at_a_time() -> None:
    reader, found = PacketReader(), []
    for octet in both(EVENTS):
        reader.push(bytes((octet,)))
        while (one := reader.next()) is not None:
            found.append(one)
    assert [decoding.event(*one) for one in found] == EVENTS


@pytest.mark.parametrize("length", [0, MAX_PACKET + 1, 0x48454C4F, 0xFFFFFFFF])  # the third is "HELO"
def test_a_length_that_cannot_be_is_refused_at_once(length: int) -> None:
    reader = PacketReader()
    reader.push(struct.pack(">I", length))
    with pytest.raises(ProtocolError, match="octets"):
        reader.next()


def test_the_largest_packet_is_taken() -> None:
    data = encode(p.Body(b"x" * (MAX_PACKET - 1)))
    assert len(read(data)[0][1]) == MAX_PACKET - 1


NO_EVENTS = [
    (b"Z", b""),
    (b"c", b""),
    (b"O", b"\0" * 11),
    (b"D", b""),
    (b"D", b"Ci\0"),
    (b"D", b"Ci\0value"),
    (b"D", b"C" + b"a\0b\0" * 1001),
    (b"C", b"host"),
    (b"C", b"host\0"),
    (b"C", b"host\0X\0\x19a\0"),
    (b"C", b"host\x004"),
    (b"C", b"host\x004\0\x19192.0.2.1"),
    (b"C", b"host\x004\0\x19192.0.2.1\0more\0"),
    (b"H", b"name"),
    (b"H", b""),
    (b"H", b"name\0more\0"),
    (b"M", b""),
    (b"M", b"<a@b>"),
    (b"M", b"<a@b>\0SIZE=1"),
    (b"R", b"<a@b>"),
    (b"T", b"x"),
    (b"L", b"name\0"),
    (b"L", b"name\0value"),
    (b"L", b"name\0value\0more\0"),
    (b"N", b"x"),
    (b"A", b"x"),
    (b"Q", b"x"),
    (b"K", b"x"),
]
NO_ANSWERS = [
    (b"Z", b""),
    (b"C", b""),
    (b"l", b""),
    (b"O", b"\0" * 11),
    (b"O", b"\0" * 12 + b"\0\0\0"),
    (b"O", b"\0" * 12 + b"\0\0\0\0i"),
    (b"O", b"\0" * 12 + b"\0\0\0\0" + b"i " * 1001 + b"\0"),
    *((word.encode(), b"x") for word in Word if word != Word.REPLY_CODE),
    (b"p", b"x"),
    (b"y", b"550 5.7.1 a\0b\0"),
    (b"h", b"name\0"),
    (b"h", b"name\0value"),
    (b"i", b"\0\0\0"),
    (b"i", b"\0\0\0\1name\0value\0more\0"),
    (b"m", b"\0\0\0\1name\0"),
    (b"+", b"<a@b>"),
    (b"+", b"<a@b>\0args\0"),
    (b"2", b"<a@b>\0args\0more\0"),
    (b"-", b""),
    (b"e", b""),
    (b"e", b"<a@b>\0args"),
    (b"q", b"why"),
]


@pytest.mark.parametrize(("letter", "data"), NO_EVENTS)
def test_no_events(letter: bytes, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoding.event(letter, data)


@pytest.mark.parametrize(("letter", "data"), NO_ANSWERS)
def test_no_answers(letter: bytes, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoding.answer(letter, data)


def test_what_peers_write_differently() -> None:
    """Braces or none, blanks or commas, a NUL or none: Sendmail, Postfix and libmilter differ here."""
    assert decoding.event(b"D", b"M{mail_addr}\0a@b\0i\0ID\0{i}\0ID2\0") == p.Macros(
        "M", {"mail_addr": "a@b", "i": "ID2"}
    )
    lists = decoding.answer(b"O", struct.pack(">IIII", 6, 0, 0, 2) + b"i, {auth_type},_\0")
    assert lists == p.Negotiate(6, 0, 0, {2: ("i", "auth_type", "_")})
    assert decoding.event(b"U", b"XYZZY") == decoding.event(b"U", b"XYZZY\0") == p.Unknown(b"XYZZY")
    assert decoding.answer(b"y", b"451 4.7.1 x") == decoding.answer(b"y", b"451 4.7.1 x\0")
    assert decoding.event(b"O", struct.pack(">III", 6, 1, 2) + b"more") == p.Negotiate(6, 1, 2)


def test_a_nul_never_ends_a_text_early() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode(p.Header(b"Subject", b"a\0b"))
    with pytest.raises(ValueError, match="NUL"):
        encode(p.Macros("C", {"j": "a\0b"}))
