"""Taking apart takes linear time, never breaks, and holds to its limits, whatever the content is (threats C2, C3)."""

import base64
import mmap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.daemons.scand import reader
from appliance.mail.inspection import decode_report, encode
from appliance.protocol.mime import LIMITS, hosts, transfer

MIXED = b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n'
reader.warm()

FRAGMENTS = st.sampled_from(
    [
        b"--x",
        b"--x--",
        b"--xy",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\xff",
        b";",
        b"=",
        b"*",
        b"'",
        b"(",
        b")",
        b'"',
        b"\\",
        b"?=",
        b"=?utf-8?b?",
        b"=?utf-8?q?",
        b"%41",
        MIXED,
        b"Content-Type:",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Transfer-Encoding: x-uuencode\r\n",
        b"Content-Disposition: attachment",
        b" multipart/mixed",
        b" message/rfc822",
        b" text/html; charset=utf-7",
        b";boundary=x",
        b";boundary*0*=''x",
        b";name=a.exe",
        b";filename*1=b",
        b"begin 644 a\r\n",
        b"end\r\n",
        b"=ybegin line=128 size=9 name=a\r\n",
        b"=yend \r\n",
        b"M" * 61,
        b"QUJD" * 15,
        b"(This file must be converted with BinHex 4.0)\r\n:",
        b"PK\x03\x04",
        b"7z\xbc\xaf\x27\x1c",
        b"Rar!\x1a\x07\0",
        b"\x1f\x8b\x08\0",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        b"{\\rtf1",
        b"MSCF\0\0\0\0",
        b"\x78\x9f\x3e\x22",
        b"http://",
        b"www.",
        b"&#46;",
        b"a" * 80,
    ]
)


@given(st.lists(FRAGMENTS | st.binary(max_size=6), max_size=50).map(b"".join))
@settings(max_examples=400, deadline=None)
def test_c3_nothing_makes_it_raise(content: bytes) -> None:
    report = reader.read(content, 0, LIMITS, None)
    assert report.count >= 1 and report.depth <= LIMITS.depth
    assert decode_report(encode(report)) == report


@given(st.binary(max_size=300), st.sampled_from(["base64", "qp", "uu", "yenc", "binhex", ""]))
@settings(max_examples=200, deadline=None)
def test_c3_no_decoder_raises(octets: bytes, encoding: str) -> None:
    assert transfer.decode(octets, encoding)[0]


@given(st.binary(min_size=1, max_size=400))
@settings(max_examples=100, deadline=None)
def test_what_was_encoded_is_decoded(octets: bytes) -> None:
    assert transfer.decode(base64.encodebytes(octets), "base64") == ([octets], "")


def cost(content: bytes) -> float:
    """The best of three, seconds of CPU."""
    best = 60.0
    for _ in range(3):
        start = time.process_time()
        reader.read(content, 0, LIMITS, None)
        best = min(best, time.process_time() - start)
    return best


PART = b"--x\r\nContent-Type: a/b; name=c\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "unit"),
    [
        (MIXED, b"--\n"),
        (MIXED, b"--xy\n"),
        (MIXED, b"--x--\n"),
        (MIXED + b"--x--\n", b"--x\n"),
        (MIXED, b"--q\n"),
        (MIXED, b"a: b\n"),
        (MIXED, b"\n"),
        (MIXED, b"\r"),
        (MIXED + PART, b"Content-Type: a/b\n\n"),
        (MIXED + PART, b"http://a.example/ "),
        (MIXED + PART, b"www."),
        (MIXED + PART, b"&lt;"),
        (MIXED + PART, b"begin 644 a\n"),
        (MIXED + PART, b"=ybegin name=a\n"),
        (MIXED + PART, b"M" * 60 + b"\n"),
        (MIXED + PART.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"), b"QUJD=*\n"),
        (MIXED + PART.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"), b"=\n"),
        (MIXED + PART.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"), b" "),
        (MIXED + PART.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"), b"=zz"),
        (b"Content-Type: text/rtf\r\n\r\n{\\rtf1", b"\\obj"),
        (b"Content-Type: multipart/mixed; x=", b"("),
        (b"Content-Type: multipart/mixed; x=", b"a(b)"),
        (b"Content-Type: multipart/mixed; x=", b'"a'),
        (b"Content-Type: multipart/mixed; x=", b"\\"),
        (b"Content-Type: a/b; name=", b"=?utf-8?q?a?= "),
        (b"Content-Type: a/b; name=", b"%41"),
        (b"Content-Type: a/b; name*=utf-8''", b"%41"),
        (b"Content-Type: a/b; name=", b"\r\n "),
        (b"Content-Type:", b" "),
        (b"Subject: ", b"\r\n \r\n "),
    ],
)
def test_c3_time_is_linear(head: bytes, unit: bytes) -> None:
    """Eight times the content takes about eight times the time (a quadratic reader: sixty-four times)."""
    count = 50000 // len(unit)
    tail = b"!" if b"base64" in head else b""  # nothing that begins as base64 is base64 to its end
    small, large = cost(head + unit * count + tail), cost(head + unit * count * 8 + tail)
    assert large < 30 * max(small, 0.001)


@pytest.mark.parametrize("kind", ["message", "base64", "multipart"])
def test_c2_ninety_levels(kind: str) -> None:
    content = b"\r\nhello\r\n"
    for level in range(90):
        if kind == "message":
            content = b"Content-Type: message/rfc822\r\n\r\n" + content
        elif kind == "base64" and level < 60:
            content = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + content
        elif kind == "multipart":
            content = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) + content
    start = time.process_time()
    report = reader.read(content, 0, LIMITS, None)
    assert report.over in ("depth", "octets", "parts") and report.depth <= LIMITS.depth
    assert time.process_time() - start < 5


def test_c2_what_does_not_fit_is_over() -> None:
    kept = mmap.mmap(-1, 4096)
    report = reader.read(MIXED + PART + b"a" * 5000, 0, LIMITS, kept)
    assert report.over == "octets" and "cut" in report.parts[1].flags and report.used == 4096


def test_c3_hosts_are_capped() -> None:
    text = " ".join(f"http://h{number}.example/" for number in range(5000))
    assert len(hosts.hosts(text, False)) == hosts.MAX_HOSTS
