"""Whatever a message looks like, what any mail program could see in it is among the parts (threat C1), and normal
mail is not called ambiguous.
"""

import base64
import binascii
import mmap
import quopri

import pytest

from appliance.daemons.scand import reader
from appliance.mail.inspection import Inspection
from appliance.protocol.mime import LIMITS

SIGN = b"A sign that scanners know; it is long enough for two lines of base64: 0123456789 abcdefghijklmnopqrstuvwxyz"
B64 = base64.encodebytes(SIGN).replace(b"\n", b"\r\n")
HALF = len(SIGN) // 3 * 3 // 2 // 3 * 3
UU = b"begin 644 x.bin\r\n" + b"".join(
    binascii.b2a_uu(SIGN[at : at + 45]).replace(b"\n", b"\r\n") for at in range(0, len(SIGN), 45)
)
UU += b"`\r\nend\r\n"
YENC = b"=ybegin line=128 size=%d name=x.bin\r\n%b\r\n=yend size=%d\r\n" % (
    len(SIGN),
    bytes((octet + 42) & 255 for octet in SIGN),
    len(SIGN),
)
MIXED = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
FILE = b"--x\r\nContent-Type: application/x-y; name=y.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n" + B64
END = b"--x--\r\n"
TEXT = b"--x\r\nContent-Type: text/plain\r\n\r\nhello\r\n"


def binhex(octets: bytes) -> bytes:
    head = b"\x05x.bin\0BINAXXXX\0\0" + len(octets).to_bytes(4, "big") + bytes(4) + b"\0\0"
    whole = (head + octets + b"\0\0").replace(b"\x90", b"\x90\0")
    alphabet = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = base64.b64encode(whole).rstrip(b"=").translate(bytes.maketrans(plain, alphabet))
    return b"(This file must be converted with BinHex 4.0)\r\n\r\n:" + text + b":\r\n"


def inspected(content: bytes) -> Inspection:
    kept = mmap.mmap(-1, 2 * len(content) + 65536)
    return Inspection(reader.read(content, 0, LIMITS, kept), kept)


def seen(content: bytes) -> tuple[bool, tuple[str, ...]]:
    """(whether the sign is in a decoded part, in which ways readers would differ)."""
    found = inspected(content)
    assert found.report.over == ""
    return any(SIGN in found.body(part) for part in found.report.parts), found.report.ambiguous


#: Readers agree on these.
PLAIN = {
    "a part": MIXED + TEXT + FILE + END,
    "a part that is not ended": MIXED + TEXT + FILE,
    "line feeds": (MIXED + FILE + END).replace(b"\r\n", b"\n"),
    "the message itself": FILE[5:],
    "capitals": MIXED + FILE.replace(b"base64", b"BASE64").replace(b"Content", b"CONTENT") + END,
    "quoted-printable": MIXED
    + b"--x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    + quopri.encodestring(SIGN)
    + END,
    "long lines": MIXED + FILE.replace(B64, base64.b64encode(SIGN) + b"\r\n") + END,
    "no padding": MIXED + FILE.replace(B64, B64.rstrip(b"=\r\n") + b"\r\n") + END,
    "blanks in base64": MIXED + FILE.replace(B64, B64.replace(b"Q", b"Q ").replace(b"c", b"\tc")) + END,
    "blanks behind the boundary": MIXED + FILE.replace(b"--x\r\n", b"--x \t\r\n") + END,
    "a folded field": MIXED + FILE.replace(b"Encoding: ", b"Encoding:\r\n\t") + END,
    "a boundary in pieces": MIXED.replace(b"boundary=x", b"boundary*0=x") + FILE + END,
    "a nested message": MIXED
    + b"--x\r\nContent-Type: message/rfc822\r\n\r\n"
    + MIXED.replace(b"=x", b"=y")
    + (FILE + END).replace(b"--x", b"--y")
    + END,
    "a digest": MIXED.replace(b"mixed", b"digest") + b"--x\r\n\r\n" + FILE[5:] + END,
    "uuencode": MIXED + b"--x\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\n" + UU + END,
    "uuencode in a text": b"Subject: x\r\n\r\nhello\r\n" + UU,
    "yEnc in a text": b"Subject: x\r\n\r\nhello\r\n" + YENC,
    "BinHex in a text": b"Subject: x\r\n\r\nhello\r\n" + binhex(SIGN),
    "BinHex": MIXED + b"--x\r\nContent-Transfer-Encoding: binhex\r\n\r\n" + binhex(SIGN) + END,
    "base64 in a text": b"Subject: x\r\n\r\nhello\r\nbegin-base64 644 x.bin\r\n" + B64 + b"====\r\n",
    "base64 without its name": MIXED + b"--x\r\nContent-Type: application/x-y\r\n\r\n" + B64 + END,
    "an unknown word for no encoding": MIXED + b"--x\r\nContent-Transfer-Encoding: 7-bit\r\n\r\n" + SIGN + b"\r\n" + END,
    "one boundary begins another": MIXED
    + b"--x\r\nContent-Type: multipart/mixed; boundary=xy\r\n\r\n"
    + FILE.replace(b"--x", b"--xy")
    + END,
    "mbox": b"From a@b Thu Jan  1 00:00:00 1970\r\n" + MIXED + FILE + END,
}

#: Readers differ: (message, one of the words for it).
ODD = {
    "doubled type": (
        MIXED.replace(b"Content-Type", b"Content-Type: text/plain\r\nContent-Type") + FILE + END,
        "types_differ",
    ),
    "doubled type, the other way": (
        MIXED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain\r\n\r\n") + FILE + END,
        "types_differ",
    ),
    "doubled boundary": (MIXED.replace(b"boundary=x", b"boundary=y; boundary=x") + FILE + END, "boundary_odd"),
    "doubled boundary, the other way": (
        MIXED.replace(b"boundary=x", b"boundary=x; boundary=y") + FILE + END,
        "boundary_odd",
    ),
    "doubled field": (
        MIXED.replace(b"Content-Type", b"Content-Type: multipart/mixed; boundary=y\r\nContent-Type") + FILE + END,
        "type_doubled",
    ),
    "doubled encoding": (
        MIXED + FILE.replace(b"Content-Transfer", b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer") + END,
        "encoding_doubled",
    ),
    "doubled encoding, the other way": (
        MIXED + FILE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n") + END,
        "encoding_doubled",
    ),
    "a boundary of blanks": (
        MIXED.replace(b"boundary=x", b'boundary="x y"; boundary=x') + FILE.replace(b"--x", b"--x y") + END,
        "boundary_odd",
    ),
    "a boundary with a comment": (
        MIXED.replace(b"boundary=x", b"boundary=x(y)") + FILE.replace(b"--x", b"--x(y)") + END,
        "boundary_odd",
    ),
    "a boundary and a comment": (
        MIXED.replace(b"boundary=x", b"boundary=x (y)") + b"--x (y)\r\n\r\na\r\n" + FILE + END,
        "boundary_odd",
    ),
    "a boundary in single quotes": (MIXED.replace(b"boundary=x", b"boundary='x'") + FILE + END, "boundary_odd"),
    "a boundary with a quote in it": (
        MIXED.replace(b"boundary=x", b'boundary=x"y"') + FILE.replace(b"--x", b"--xy") + END,
        "boundary_odd",
    ),
    "text behind a quoted boundary": (
        MIXED.replace(b"boundary=x", b'boundary="x"y') + FILE.replace(b"--x", b"--xy") + END,
        "boundary_odd",
    ),
    "a boundary as an encoded word": (
        MIXED.replace(b"boundary=x", b"boundary==?us-ascii?q?x?=") + FILE + END,
        "boundary_odd",
    ),
    "a boundary by percent codes": (
        MIXED.replace(b"boundary=x", b"boundary=y; boundary*=us-ascii''%78") + FILE + END,
        "boundary_odd",
    ),
    "pieces of a boundary in disorder": (
        MIXED.replace(b"boundary=x", b"boundary*1=x; boundary*0=y") + FILE.replace(b"--x", b"--xy") + END,
        "boundary_odd",
    ),
    "an empty boundary": (MIXED.replace(b"boundary=x", b'boundary=""') + FILE + END, "boundary_missing"),
    "no boundary": (MIXED.replace(b"; boundary=x", b"") + FILE + END, "boundary_missing"),
    "a backslash in a boundary": (
        MIXED.replace(b"boundary=x", b'boundary="\\x"') + FILE.replace(b"--x", b"--\\x") + END,
        "boundary_odd",
    ),
    "a line that begins with the boundary": (MIXED + TEXT + FILE.replace(b"--x", b"--xyz") + END, "boundary_prefix"),
    "the same boundary inside": (MIXED + b"--x\r\n" + MIXED + FILE + END + END, "boundary_twice"),
    "behind the end": (MIXED + TEXT + END + FILE + END, "outside_parts"),
    "before the first": (MIXED + FILE[5:] + TEXT + END, "outside_parts"),
    "no empty line": (MIXED + FILE.replace(b"\r\n\r\n", b"\r\n") + END, "header_end"),
    "a line of blanks for the empty line": (MIXED + FILE.replace(b"\r\n\r\n", b"\r\n \r\n") + END, "header_end"),
    "a field without a colon": (
        MIXED + FILE.replace(b"Content-Transfer", b"rubbish\r\nContent-Transfer") + END,
        "header_end",
    ),
    "a blank before the colon": (MIXED + FILE.replace(b"Encoding:", b"Encoding :") + END, "field_name"),
    "a bare CR": (MIXED + FILE.replace(b"Content-Transfer", b"X: y\rContent-Transfer") + END, "bare_cr"),
    "a NUL in the header": (MIXED + FILE.replace(b"base64", b"base\x0064") + END, "nul"),
    "an encoded multipart": (
        MIXED.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + base64.encodebytes(FILE + END),
        "encoded_composite",
    ),
    "an encoded message": (
        MIXED
        + b"--x\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(FILE[5:])
        + END,
        "encoded_composite",
    ),
    "encoded twice": (
        MIXED
        + b"--x\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(
            b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
            + quopri.encodestring(FILE[5:])
        )
        + END,
        "encoded_composite",
    ),
    "an encoding in quotes": (MIXED + FILE.replace(b"base64", b'"base64"') + END, "encoding_odd"),
    "an encoding with a comment": (MIXED + FILE.replace(b"base64", b"base64 (yes)") + END, "encoding_odd"),
    "an encoding in two words": (MIXED + FILE.replace(b"base64", b"base 64") + END, "encoding_odd"),
    "junk in base64": (MIXED + FILE.replace(B64, B64.replace(b"a", b"a*!")) + END, "base64_junk"),
    "padding in the middle": (MIXED + FILE.replace(B64, B64[:10] + b"==" + B64[10:]) + END, "base64_junk"),
    "base64 behind base64": (MIXED + FILE.replace(B64, base64.b64encode(b"ab") + b"\r\n" + B64) + END, "base64_junk"),
    "text behind base64": (MIXED + FILE.replace(B64, B64 + b"____\r\nA footer\r\n") + END, "base64_junk"),
    "lines of junk": (
        MIXED + FILE.replace(B64, b"--- part one ---\r\n" + B64[:78] + b"--- part two ---\r\n" + B64[78:]) + END,
        "base64_junk",
    ),
    "two types in one": (MIXED.replace(b"multipart/mixed", b"text/plain, multipart/mixed") + FILE + END, "type_odd"),
    "a type with blanks": (MIXED.replace(b"multipart/mixed", b"multipart / mixed") + FILE + END, ""),
    "a type with a comment": (MIXED.replace(b"multipart/mixed", b"(x) multipart/(y)mixed") + FILE + END, ""),
    "names that differ": (MIXED + FILE.replace(b"name=y.bin", b"name=y.txt; filename=y.scr") + END, "names_differ"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_c1_what_readers_agree_on_is_found_and_not_ambiguous(name: str) -> None:
    assert seen(PLAIN[name]) == (True, ())


@pytest.mark.parametrize("name", ODD)
def test_c1_what_readers_differ_about_is_found_and_named(name: str) -> None:
    content, word = ODD[name]
    found, ambiguous = seen(content)
    assert found
    assert word in ambiguous if word else not ambiguous


@pytest.mark.parametrize("name", ODD)
def test_c1_nothing_is_lost_one_level_deeper(name: str) -> None:
    content = (
        MIXED.replace(b"=x", b"=outer")
        + b"--outer\r\nContent-Type: message/rfc822\r\n\r\n"
        + ODD[name][0]
        + b"\r\n--outer--\r\n"
    )
    assert seen(content)[0]


def names_of(content: bytes) -> set[str]:
    return {name for part in inspected(content).report.parts for name in part.names}


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b'filename="a b.exe"', "a b.exe"),
        (b"filename=a b.exe", "a b.exe"),
        (b"filename=a(x).exe", "a(x).exe"),
        (b'filename="a.exe', "a.exe"),
        (b"filename='a.exe'", "a.exe"),
        (b'filename="a\\.exe"', "a\\.exe"),
        (b'filename="a;b.exe"', "a;b.exe"),
        (b"filename=a.txt; filename=a.exe", "a.exe"),
        (b"filename=a.exe; filename=a.txt", "a.exe"),
        (b"filename*=utf-8''a%2Eexe", "a.exe"),
        (b"filename*=UTF-8'en'%C3%A9.exe; filename=x.txt", "\u00e9.exe"),
        (b"filename*=utf-16be''%00a%00.%00e%00x%00e", "a.exe"),
        (b"filename*0=a.; filename*1=e; filename*2=xe", "a.exe"),
        (b"filename*2=xe; filename*0=a.; filename*1=e", "a.exe"),
        (b"filename*0*=utf-8''a%2E; filename*1=exe", "a.exe"),
        (b"filename*0=a.; filename*2=exe", "a.exe"),
        (b"filename*0=a.txt; filename*0=a.exe", "a.exe"),
        (b"filename==?utf-8?b?YS5leGU=?=", "a.exe"),
        (b'filename="=?utf-8?q?a=2Eexe?="', "a.exe"),
        (b'filename="=?utf-8?b?YS4=?=\r\n =?utf-8?b?ZXhl?="', "a.exe"),
        (b'FileName = "a.exe"', "a.exe"),
        (b"file\0name=a.exe", "a.exe"),
        (b"filename=\xe9.exe", "\u00e9.exe"),
        (b'filename="$(id)`id`;|&.exe"', "$(id)`id`;|&.exe"),
        (b'filename="' + b"a" * 5000 + b'.exe"', "a" * 191 + "a" * 60 + ".exe"),
    ],
)
def test_c1_names_in_every_form(parameters: bytes, name: str) -> None:
    for field in (b"Content-Disposition: attachment; ", b"Content-Type: application/x-y; "):
        content = (
            MIXED + b"--x\r\n" + field + parameters.replace(b"filename", b"name" if b"Type" in field else b"filename")
        )
        if b"Name" in parameters and b"Type" in field:
            continue
        assert name in names_of(content + b"\r\n\r\n\r\n" + END)


#: What mail programs and services really send.
REAL = {
    "alternative": MIXED.replace(b"mixed", b"alternative") + TEXT + TEXT.replace(b"plain", b"html; charset=utf-8") + END,
    "Outlook": b"Received: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n"
    b'\tboundary="----=_NextPart_000_0001_01D9.ABC"\r\n'
    b"X-Mailer: Microsoft Outlook 16.0\r\nThread-Index: AdX==\r\nContent-Language: en-us\r\n\r\n"
    b"This is a multipart message in MIME format.\r\n\r\n"
    b"------=_NextPart_000_0001_01D9.ABC\r\nContent-Type: multipart/alternative;\r\n"
    b'\tboundary="----=_NextPart_001_0002_01D9.ABC"\r\n\r\n\r\n'
    b'------=_NextPart_001_0002_01D9.ABC\r\nContent-Type: text/plain;\r\n\tcharset="us-ascii"\r\n'
    b"Content-Transfer-Encoding: 7bit\r\n\r\nHi -- there\r\n\r\n"
    b"------=_NextPart_001_0002_01D9.ABC--\r\n\r\n------=_NextPart_000_0001_01D9.ABC\r\n"
    b'Content-Type: application/pdf;\r\n\tname="a b.pdf"\r\n'
    b'Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment;\r\n\tfilename="a b.pdf"\r\n\r\n'
    + B64
    + b"\r\n------=_NextPart_000_0001_01D9.ABC--\r\n",
    "Apple": MIXED.replace(b"boundary=x", b'boundary="Apple-Mail=_4D2F"')
    + b"\r\n\r\n--Apple-Mail=_4D2F\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    b"Content-Type: text/plain;\r\n\tcharset=utf-8\r\n\r\nFran=C3=A7ois a=b\r\n\r\n"
    b"--Apple-Mail=_4D2F\r\nContent-Disposition: inline;\r\n\tfilename*=utf-8''f%C3%BCr.pdf\r\n"
    b'Content-Type: application/pdf;\r\n\tx-unix-mode=0644;\r\n\tname="=?utf-8?Q?f=C3=BCr=2Epdf?="\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\n" + B64 + b"\r\n--Apple-Mail=_4D2F--\r\n",
    "a name without quotes": MIXED + FILE.replace(b"name=y.bin", b"name=my long file.bin") + END,
    "a bounce": MIXED.replace(b"mixed", b"report; report-type=delivery-status")
    + TEXT
    + b"--x\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; a\r\n\r\n"
    b"Final-Recipient: rfc822; b\r\n\r\n--x\r\nContent-Type: text/rfc822-headers\r\n\r\n"
    + MIXED.replace(b"=x", b"=y")
    + END,
    "a bounce with the message": MIXED
    + TEXT
    + b"--x\r\nContent-Type: message/rfc822\r\n\r\n"
    + MIXED.replace(b"=x", b"=y")
    + b"--y\r\n\r\ncut off\r\n"
    + END,
    "a quoted message": b"Subject: x\r\n\r\n> --x\r\n> Content-Type: text/plain\r\n-- \r\nSignature\r\n",
    "a mailing list footer": MIXED
    + TEXT
    + b"--x\r\nContent-Type: text/plain\r\n\r\n_____\r\nlist mailing list\r\n"
    + END,
    "a footer behind the end": MIXED + TEXT + FILE + END + b"\r\n--\r\nScanned for viruses\r\n",
    "two forwarded copies": MIXED
    + (
        b"--x\r\nContent-Type: message/rfc822\r\n\r\n"
        + MIXED.replace(b"=x", b"=y")
        + TEXT.replace(b"--x", b"--y")
        + b"--y--\r\n\r\n"
    )
    * 2
    + END,
    "no MIME-Version": (MIXED + TEXT + FILE + END).replace(b"MIME-Version: 1.0\r\n", b""),
    "a spare semicolon": MIXED.replace(b"boundary=x", b"boundary=x;")
    + TEXT.replace(b"plain", b"plain; charset=utf-8; ")
    + END,
    "utf-8 as an encoding": MIXED
    + b"--x\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: utf-8\r\n\r\nhello\r\n"
    + END,
    "empty fields": MIXED
    + b"--x\r\nContent-Type: text/plain\r\nContent-ID:\r\nContent-Description: \r\n\r\nhello\r\n"
    + END,
    "a folded empty line in a field": b"Subject: x\r\nReferences: <a@b>\r\n\t<c@d>\r\n" + MIXED + TEXT + END,
    "the same type twice": MIXED.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n")
    + TEXT
    + FILE
    + END,
    "an empty message": b"Subject: x\r\n\r\n",
    "a text with =xx": b"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"<a href=x?a=zz>=\r\n",
}


@pytest.mark.parametrize("name", REAL)
def test_c1_normal_mail_is_not_ambiguous(name: str) -> None:
    assert inspected(REAL[name]).report.ambiguous == ()


def test_paths_and_spans() -> None:
    nested = MIXED.replace(b"=x", b"=y") + TEXT.replace(b"--x", b"--y") + FILE.replace(b"--x", b"--y") + b"--y--\r\n"
    found = inspected(MIXED + TEXT + b"--x\r\nContent-Type: message/rfc822\r\n\r\n" + nested + FILE + END)
    by_path = {(part.path, part.types): part for part in found.report.parts}
    assert {path for path, _ in by_path} == {"", "1", "2", "2.1", "2.2", "3"}
    assert found.body(by_path["1", ("text/plain",)]) == b"hello"
    assert (
        found.body(by_path["2.2", ("application/x-y",)])
        == SIGN
        == b"".join(found.chunks(by_path["3", ("application/x-y",)], 7))
    )
    assert found.header(by_path["2", ("multipart/mixed",)]).startswith(b"Subject: x\r\n")
    assert "message" in by_path["2", ("message/rfc822",)].flags and found.report.depth == 3
    assert found.names == ("y.bin",)


def test_c8_partial_and_external_are_flagged() -> None:
    for kind, flag in (
        (b"message/partial; id=a; number=1", "partial"),
        (b"message/external-body; access-type=url", "external"),
    ):
        report = inspected(b"Content-Type: " + kind + b"\r\n\r\nContent-Type: image/png\r\n\r\nx").report
        assert flag in report.parts[0].flags
        report = inspected(
            MIXED + TEXT + b"--x\r\nContent-Type: text/plain\r\nContent-Type: " + kind + b"\r\n\r\nx\r\n" + END
        ).report
        assert any(flag in part.flags for part in report.parts)


@pytest.mark.parametrize(
    ("body", "hosts"),
    [
        (
            b"see http://Example.COM/x and https://b.example:8443/?q ftp://u:p@c.example",
            ("example.com", "b.example", "c.example"),
        ),
        (
            b"www.d.example. HTTP://192.0.2.1/ http://[2001:db8::1]/ http://3221225985/",
            ("www.d.example", "192.0.2.1", "[2001:db8::1]", "3221225985"),
        ),
        (b'<a href="//e.example/x"><img src=&quot;https://f&#46;example/&quot;>', ("e.example", "f.example")),
        (b"https://good.example@evil.example/ http:\\\\g%2Eexample\\", ("evil.example", "g.example")),
        (
            "http://h\u00ad.exa\u200bmple http://\u00fc.example http://i\u3002example".encode(),
            ("h.example", "\u00fc.example", "i.example"),
        ),
        (b"http:// http://x http://-- mailto:a@b.example a.b", ()),
    ],
)
def test_hosts_of_urls(body: bytes, hosts: tuple[str, ...]) -> None:
    head = b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert inspected(head + base64.encodebytes(body)).report.hosts == hosts


@pytest.mark.parametrize("charset", ["utf-7", "utf-16", "utf-16le", "shift_jis", "koi8-r"])
def test_hosts_in_odd_charsets(charset: str) -> None:
    text = "see http://host.example/".encode(charset)
    head = b"Content-Type: text/plain; charset=" + charset.encode() + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert inspected(head + base64.encodebytes(text)).report.hosts == ("host.example",)
