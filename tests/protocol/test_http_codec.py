"""HTTP's client codec: both ends glued, cut at every place, each limit tripped."""

import email
import io
from http import server as http_server

import pytest

from appliance.protocol import http
from appliance.protocol.errors import ProtocolError
from appliance.protocol.http import AnswerReader

BODY = b'{"score": 1}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n" + BODY[:5] + b"\r\n007\r\n" + BODY[5:]
CHUNKED += b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
EARLY = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


def answer(*pieces: bytes, limit: int = 1000) -> http.Answer:
    reader = AnswerReader(limit)
    for piece in pieces:
        assert not reader.complete
        reader.feed(piece)
    return reader.end()


@pytest.mark.parametrize("octets", [PLAIN, CHUNKED, EARLY])
def test_cut_at_every_place(octets: bytes) -> None:
    for at in range(1, len(octets)):
        found = answer(octets[:at], octets[at:])
        assert (found.code, found.body, found.reusable) == (200, BODY, True)
    assert answer(*(octets[at : at + 1] for at in range(len(octets)))).body == BODY


@pytest.mark.parametrize("octets", [PLAIN, CHUNKED])
def test_half_an_answer_is_none(octets: bytes) -> None:
    for at in range(len(octets)):
        with pytest.raises(ProtocolError, match="hung up"):
            answer(octets[:at])


@pytest.mark.parametrize("octets", [PLAIN, CHUNKED])
def test_two_answers_are_none(octets: bytes) -> None:
    with pytest.raises(ProtocolError, match="behind"):
        answer(octets + PLAIN)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"SSH-2.0-x\r\n\r\n", "SSH"),
        (b"ICAP/1.0 200 OK\r\n\r\n", "ICAP"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "HTTP/2.0"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "2000"),
        (b"HTTP/1.1 200 OK\r\nbad field\r\n\r\n", "bad field"),
        (b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", "folded"),
        (b"HTTP/1.1 200 OK\r\nA: x\x00y\r\n\r\n", "field"),
        (b"HTTP/1.1 200 OK\r\nA: x\ny\r\n\r\n", "field"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 201 + b"\r\n", "200 fields"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000, "longer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "different"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "announced"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", "longer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "coding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "coding"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, "longer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n", "longer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\n", "chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXY", "chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 300, "chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 201, "trailer"),
    ],
)
def test_what_is_no_answer(octets: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        answer(octets)
    with pytest.raises(ProtocolError, match=why):
        answer(*(octets[at : at + 1] for at in range(len(octets))))


@pytest.mark.parametrize(
    ("start", "more", "reusable"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Connection: close\r\n", False),
        (b"HTTP/1.1", b"Connection: x, Close\r\n", False),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_which_connections_are_kept(start: bytes, more: bytes, reusable: bool) -> None:
    assert answer(start + b" 200 OK\r\n" + more + b"Content-Length: 1\r\n\r\nx").reusable is reusable


def test_an_answer_without_length_ends_with_the_stream() -> None:
    found = answer(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert (found.body, found.reusable) == (b"abc", False)
    assert answer(b"HTTP/1.1 204 None\r\n\r\n").reusable


def test_a_field_cannot_end_the_head() -> None:
    octets = http.request("POST", "/checkv2", [("Helo", "a\r\nPassword: x\r\n\r\n"), ("From", "ü@example.com")], 3)
    assert octets.count(b"\r\n\r\n") == 1 and octets.endswith(b"\r\n\r\n")
    assert b"\r\nHelo: a%0D%0APassword: x%0D%0A%0D%0A\r\n" in octets


def test_glued_to_the_standard_librarys_server() -> None:
    """What is asked is read by another's parser, what another writes is read by ours."""

    class Handler(http_server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, octets: bytes) -> None:
            self.rfile, self.wfile = io.BytesIO(octets), io.BytesIO()
            self.client_address, self.seen = ("x", 1), b""
            self.handle_one_request()

        def do_POST(self) -> None:
            self.seen = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.seen)))
            self.end_headers()
            self.wfile.write(self.seen[::-1])

        def log_message(self, *_: object) -> None:
            pass

    handler = Handler(http.request("POST", "/checkv2", [("Rcpt", "a@b"), ("Rcpt", "c@d")], 3) + b"abc")
    assert handler.path == "/checkv2" and handler.headers.get_all("Rcpt") == ["a@b", "c@d"]
    assert isinstance(handler.headers, email.message.Message)
    found = answer(handler.wfile.getvalue())
    assert found.body == b"cba" and found.reusable and found.head.get("server")
