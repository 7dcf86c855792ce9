"""ICAP's codec: both ends glued (tests/peers/icap.py has the other one), cut at every place, each limit tripped."""

import asyncio
import re

import pytest

from appliance.protocol import icap, icap_found
from appliance.protocol.errors import ProtocolError
from appliance.protocol.icap import AnswerReader, Envelope, Question
from tests.peers import icap as other

PAGE = other.blocked()
CLEAN = b'ICAP/1.0 204 No Content\r\nISTag: "x"\r\n\r\n'
CONTINUED = b"ICAP/1.0 100 Continue\r\n\r\n" + PAGE
WHERE = Envelope("scan.example.com:1344", "avscan", "mail.eml", "message/rfc822")


def answer(*pieces: bytes, limit: int = 1000) -> icap.Answer:
    reader = AnswerReader(limit)
    for piece in pieces:
        assert not reader.complete
        reader.feed(piece)
    return reader.end()


@pytest.mark.parametrize(("octets", "kind"), [(CLEAN, "clean"), (PAGE, "virus"), (CONTINUED, "virus")])
def test_cut_at_every_place(octets: bytes, kind: str) -> None:
    for at in range(1, len(octets)):
        assert icap_found.found(answer(octets[:at], octets[at:])).kind == kind
        with pytest.raises(ProtocolError, match="hung up"):
            answer(octets[:at])
    assert icap_found.found(answer(*(octets[at : at + 1] for at in range(len(octets))))).kind == kind
    with pytest.raises(ProtocolError, match="behind"):
        answer(octets + CLEAN)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"ICAP/1.0 200 OK\r\nA: " + b"b" * 70000, "longer"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=70000\r\n\r\n", "70000"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-body=0\r\n\r\n3e9\r\n", "longer"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-body=0, res-hdr=9\r\n\r\n", "sections"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0\r\n\r\n", "sections"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=5, null-body=9\r\n\r\n", "sections"),
        (b"ICAP/1.0 100 Continue\r\n\r\nICAP/1.0 100 Continue\r\n\r\n", "100"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, null-body=20\r\n\r\nSMTP/1.1 200 OK\r\n\r\n\n", "SMTP"),
    ],
)
def test_what_is_no_answer(octets: bytes, why: str) -> None:
    for pieces in ((octets,), tuple(octets[at : at + 1] for at in range(len(octets)))):
        with pytest.raises(ProtocolError, match=why):
            answer(*pieces)


@pytest.mark.parametrize("method", [icap.RESPMOD, icap.REQMOD])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 5000])
@pytest.mark.parametrize("preview", [None, 0, 1, 10, 20, 6000])
async def test_glued_to_a_service(method: str, size: int, preview: int | None) -> None:
    """What is sent is read by code that knows nothing of ours, piece by piece."""
    content = bytes(range(256)) * 20
    content = content[:size]
    pieces = [content[at : at + 7] for at in range(0, size, 7)]
    question = Question(icap.head(method, WHERE, size, preview), pieces, size, preview)
    sent = b"".join(question.first())
    waits = preview is not None and size > preview
    assert question.waits is waits
    if waits:
        assert not question.whole and sent.endswith(b"0\r\n\r\n")
        sent += b"".join(question.rest())
    assert question.whole
    reader = asyncio.StreamReader()
    reader.feed_data(sent)
    reader.feed_eof()
    head = await reader.readuntil(b"\r\n\r\n")
    sections = re.search(rb"Encapsulated: (.*)=(\d+)\r\n", head)
    assert sections
    inner = await reader.readexactly(int(sections[2]))
    assert inner.count(b"\r\n\r\n") == (2 if method == icap.RESPMOD else 1) and inner.endswith(b"\r\n\r\n")
    got, ieof = await other.chunks(reader)
    assert ieof is (preview is not None and size <= preview)
    if waits:
        assert len(got) == preview
        got += (await other.chunks(reader))[0]
    assert got == content and await reader.read() == b""
    back = AnswerReader(10000)
    back.feed(other.same(inner, content))
    assert icap_found.found(back.end(question.digest())).kind == "clean"
    back = AnswerReader(10000)
    back.feed(other.same(inner, content + b"!"))
    assert icap_found.found(back.end(question.digest())).kind == "changed"


@pytest.mark.parametrize(
    ("fields", "preview", "ttl"),
    [
        (b"Preview: 1024\r\nOptions-TTL: 60\r\n", 1024, 60),
        (b"Preview: 0\r\n", 0, 3600),
        (b"", None, 3600),
        (b"Preview: 99999999\r\nOptions-TTL: 999999999\r\n", 65536, 3600),
        (b"Preview: 10\r\nTransfer-Complete: *\r\n", None, 3600),
        (b"Preview: 10\r\nTransfer-Complete: jpg, eml\r\n", None, 3600),
        (b"Preview: 10\r\nTransfer-Complete: jpg\r\n", 10, 3600),
    ],
)
def test_what_options_say(fields: bytes, preview: int | None, ttl: int) -> None:
    head = b'ICAP/1.0 200 OK\r\nMethods: REQMOD,respmod\r\nISTag: "a b"\r\n' + fields
    found = icap.parse_options(answer(head + b"Encapsulated: null-body=0\r\n\r\n"))
    assert found == (frozenset({"REQMOD", "RESPMOD"}), preview, "a b", ttl)


@pytest.mark.parametrize("fields", [b"Preview: -1\r\n", b"Options-TTL: x\r\n", b"Preview: 1\r\nPreview: 2\r\n"])
def test_options_that_make_no_sense(fields: bytes) -> None:
    with pytest.raises(ProtocolError):
        icap.parse_options(answer(b"ICAP/1.0 200 OK\r\nMethods: REQMOD\r\n" + fields + b"\r\n"))


def test_names_are_printable() -> None:
    found = icap_found.found(answer(other.blocked(b"X-Virus-ID: \xc3\xa4" + b"x" * 500 + b"\r\n")))
    assert found.names == ("??" + "x" * 198,)
