"""Command lines: what each verb takes, which reply a mistake gets, what lenient means, and other protocols."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp import command as command_module
from appliance.protocol.smtp import xtext
from appliance.protocol.smtp.attributes import format_xforward
from appliance.protocol.smtp.command import (
    VERBS,
    Command,
    MailParameters,
    RcptParameters,
    bdat_chunk,
    mail_parameters,
    parse,
    parse_attributes,
    rcpt_parameters,
    wrong_protocol,
)
from appliance.protocol.smtp.reply import from_text


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# line, verb, argument, leniencies
PLAIN = [
    (b"EHLO mail.example.com", "EHLO", "mail.example.com", ""),
    (b"ehlo [192.0.2.1]\r\n", "EHLO", "[192.0.2.1]", ""),
    (b"HeLo x", "HELO", "x", ""),
    (b"LHLO x", "LHLO", "x", ""),
    (b"EHLO two words", "EHLO", "two words", "helo_words"),
    (b"EHLO b\xfcro", "EHLO", "b\\xfcro", ""),
    (b"DATA", "DATA", "", ""),
    (b"DATA ", "DATA", "", "trailing_space"),
    (b" DATA", "DATA", "", "leading_space"),
    (b"RSET", "RSET", "", ""),
    (b"STARTTLS", "STARTTLS", "", ""),
    (b"QUIT", "QUIT", "", ""),
    (b"QUIT now", "QUIT", "now", "extra_argument"),
    (b"NOOP", "NOOP", "", ""),
    (b"NOOP anything  at all", "NOOP", "anything  at all", ""),
    (b"HELP MAIL", "HELP", "MAIL", ""),
    (b"VRFY user", "VRFY", "user", ""),
    (b"EXPN list", "EXPN", "list", ""),
    (b"ETRN example.com", "ETRN", "example.com", ""),
    (b"AUTH PLAIN AGEAYg==", "AUTH", "PLAIN AGEAYg==", ""),
    (b"AUTH\tPLAIN", "AUTH", "PLAIN", "tab"),
    (b"BDAT 100", "BDAT", "100", ""),
    (b"BDAT 0 last", "BDAT", "0 last", ""),
    (b"XCLIENT ADDR=192.0.2.1", "XCLIENT", "ADDR=192.0.2.1", ""),
    (b"FROBNICATE a b", "FROBNICATE", "a b", ""),
    (b"X-FOO", "X-FOO", "", ""),
]


@pytest.mark.parametrize(("line", "verb", "argument", "lenient"), PLAIN)
def test_plain_commands(line: bytes, verb: str, argument: str, lenient: str) -> None:
    assert parse(line) == Command(verb, argument, None, (), words(lenient))
    if lenient:
        with pytest.raises(ProtocolError):
            parse(line, strict=True)
    else:
        assert parse(line, strict=True).verb == verb


# line, address, parameters, leniencies
ENVELOPES = [
    (b"MAIL FROM:<>", "", {}, ""),
    (b"MAIL FROM:<a@b.c>", "a@b.c", {}, ""),
    (b"mail from:<a@b.c> size=10 body=8bitmime", "a@b.c", {"SIZE": "10", "BODY": "8bitmime"}, ""),
    (b"MAIL FROM:<a@b.c> ENVID=MixedCase+2B", "a@b.c", {"ENVID": "MixedCase+2B"}, ""),
    (b"MAIL FROM: <a@b.c>", "a@b.c", {}, "space_after_colon"),
    (b"MAIL  FROM:<a@b.c>", "a@b.c", {}, ""),
    (b"MAIL FROM:a@b.c", "a@b.c", {}, "no_brackets"),
    (b"MAIL FROM:<a@b.c> ", "a@b.c", {}, "trailing_space"),
    (b"MAIL FROM:<a@b.c>  SIZE=1", "a@b.c", {"SIZE": "1"}, "extra_space"),
    (b"MAIL FROM:<a@b.c>\tSIZE=1", "a@b.c", {"SIZE": "1"}, "tab"),
    (b"MAIL FROM:<a@b.c> ENVID=a=b", "a@b.c", {"ENVID": "a=b"}, "equals_in_value"),
    (b"MAIL FROM:<@x.example:a@b.c>", "a@b.c", {}, "source_route"),
    (b'MAIL FROM:<"a> SIZE=9"@b.c> SIZE=1', '"a> SIZE=9"@b.c', {"SIZE": "1"}, ""),
    (b"RCPT TO:<a@b.c>", "a@b.c", {}, ""),
    (b"RCPT TO:<Postmaster>", "Postmaster", {}, ""),
    (b"rcpt to:<a@b.c> NOTIFY=NEVER ORCPT=rfc822;A+2Bb@c", "a@b.c", {"NOTIFY": "NEVER", "ORCPT": "rfc822;A+2Bb@c"}, ""),
]


@pytest.mark.parametrize(("line", "address", "parameters", "lenient"), ENVELOPES)
def test_mail_and_rcpt(line: bytes, address: str, parameters: dict[str, str], lenient: str) -> None:
    command = parse(line)
    assert command.address is not None
    assert (command.address.text, dict(command.parameters)) == (address, parameters)
    assert command.lenient == words(lenient)
    if command.lenient - {"source_route"}:
        with pytest.raises(ProtocolError):
            parse(line, strict=True)
    else:
        assert parse(line, strict=True) == command


REFUSED = [
    (b"", "500 5.5.2"),
    (b"   ", "500 5.5.2"),
    (b"\xff\xfe", "500 5.5.2"),
    (b"Subject: hello", "500 5.5.2"),
    (b"123", "500 5.5.2"),
    (b"<xml>", "500 5.5.2"),
    (b"EHLO", "501 5.5.4 Syntax: EHLO hostname"),
    (b"HELO ", "501 5.5.4 Syntax: HELO hostname"),
    (b"MAIL", "501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"MAIL <a@b.c>", "501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"MAIL FROM <a@b.c>", "501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"MAIL TO:<a@b.c>", "501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"RCPT FROM:<a@b.c>", "501 5.5.4 Syntax: RCPT TO:<address>"),
    (b"MAIL FROM:", "501 5.1.7 Bad sender"),
    (b"MAIL FROM:<a@b.c>SIZE=1", "501 5.1.7 Bad sender"),
    (b"MAIL FROM:<a@b@c>", "501 5.1.7 Bad sender"),
    (b"MAIL FROM:<root>", "501 5.1.7 Bad sender"),
    (b"MAIL FROM:<postmaster>", "501 5.1.7 Bad sender"),
    (b"RCPT TO:<>", "501 5.1.3 Bad recipient"),
    (b"RCPT TO:<user>", "501 5.1.3 Bad recipient"),
    (b"RCPT TO:<a@b@c>", "501 5.1.3 Bad recipient"),
    (b"RCPT TO:<a@b.c", "501 5.1.3 Bad recipient"),
    ("RCPT TO:<ü@b.c>".encode(), "553 5.6.7"),
    ("MAIL FROM:<ü@b.c>".encode(), "553 5.6.7"),
    (b"MAIL FROM:<a@b.c> SMTPUTF8", "555 5.5.4 Unsupported option: SMTPUTF8"),
    (b"MAIL FROM:<a@b.c> FOO=1", "555 5.5.4 Unsupported option: FOO"),
    (b"MAIL FROM:<a@b.c> NOTIFY=NEVER", "555 5.5.4 Unsupported option: NOTIFY"),
    (b"RCPT TO:<a@b.c> SIZE=1", "555 5.5.4 Unsupported option: SIZE"),
    (b"MAIL FROM:<a@b.c> SIZE=1 size=2", "501 5.5.4 Error: SIZE is given twice"),
    (b"MAIL FROM:<a@b.c> =1", "501 5.5.4 Syntax: MAIL"),
    (b"MAIL FROM:<a@b.c> SIZE=", "501 5.5.4 Syntax: MAIL"),
    (b"MAIL FROM:<a@b.c> -X=1", "501 5.5.4 Syntax: MAIL"),
    (b"MAIL FROM:<a@b.c> <d@e.f>", "501 5.5.4 Syntax: MAIL"),
    (b"MAIL FROM:<a@b.c> ENVID=\xff", "501 5.5.4 Syntax: MAIL"),
    (b"DATA now", "501 5.5.4 Syntax: DATA"),
    (b"RSET x", "501 5.5.4 Syntax: RSET"),
    (b"STARTTLS x", "501 5.5.4 Syntax: STARTTLS"),
    (b"VRFY", "501 5.5.4 Syntax: VRFY"),
    (b"AUTH", "501 5.5.4 Syntax: AUTH"),
    (b"XCLIENT", "501 5.5.4 Syntax: XCLIENT"),
    (b"BDAT", "521 5.5.4"),
    (b"BDAT x", "521 5.5.4"),
    (b"BDAT -1", "521 5.5.4"),
    (b"BDAT 1 FIRST", "521 5.5.4"),
    (b"BDAT 1LAST", "521 5.5.4"),
    (b"BDAT 1 LAST x", "521 5.5.4"),
    (b"BDAT " + b"9" * 21, "521 5.5.4"),
    ("BDAT ٣".encode(), "521 5.5.4"),
    (b"BDAT 5\0", "521 5.5.4"),
    # One line is one command: a second one in it is refused whole (threats B4).
    (b"NOOP\rQUIT", "500 5.5.2"),
    (b"NOOP\nMAIL FROM:<a@b.c>", "500 5.5.2"),
    (b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>", "500 5.5.2"),
    (b"NOOP\r\r\n", "500 5.5.2"),
    (b"NOOP\n", "500 5.5.2"),
    (b"EHLO a\0b", "500 5.5.2"),
    (b"EHLO a\x1b[2J", "500 5.5.2"),
    (b"EHLO a\x7f", "500 5.5.2"),
]


@pytest.mark.parametrize(("line", "reply"), REFUSED)
def test_refused(line: bytes, reply: str) -> None:
    for strict in (False, True):
        with pytest.raises(ProtocolError) as caught:
            parse(line, strict=strict)
        assert caught.value.reply.startswith(reply)
        assert from_text(caught.value.reply).encode().count(b"\r\n") == 1


def test_strict_answers_with_the_syntax_of_the_verb() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(b"RCPT TO: <a@b.c>", strict=True)
    assert caught.value.reply == "501 5.5.4 Syntax: RCPT TO:<address>"
    with pytest.raises(ProtocolError) as caught:
        parse(b"DATA ", strict=True)
    assert caught.value.reply == "501 5.5.4 Syntax: DATA"


def test_smtputf8() -> None:
    line = "MAIL FROM:<ü@bücher.example> SMTPUTF8".encode()
    command = parse(line, utf8=True)
    assert command.address is not None
    assert command.address.text == "ü@xn--bcher-kva.example"
    assert mail_parameters(command).smtputf8
    with pytest.raises(ProtocolError) as caught:
        parse(line)
    assert caught.value.reply.startswith("553 5.6.7")
    # The extension is there, but this MAIL does not ask for it.
    with pytest.raises(ProtocolError) as caught:
        parse("MAIL FROM:<ü@b.c>".encode(), utf8=True)
    assert caught.value.reply.startswith("553 5.6.7")
    recipient = parse("RCPT TO:<ü@b.c> ORCPT=utf-8;ü@b.c".encode(), utf8=True)
    assert rcpt_parameters(recipient).orcpt == "utf-8;ü@b.c"
    with pytest.raises(ProtocolError) as caught:
        mail_parameters(parse(b"MAIL FROM:<a@b.c> SMTPUTF8=yes", utf8=True))
    assert caught.value.reply.startswith("501 5.5.4")


def test_bdat() -> None:
    assert bdat_chunk(parse(b"BDAT 100")) == (100, False)
    assert bdat_chunk(parse(b"BDAT 0  LAST")) == (0, True)
    assert bdat_chunk(parse(b"bdat 18446744073709551615 last")) == (2**64 - 1, True)


def test_mail_parameters() -> None:
    line = b"MAIL FROM:<a@b.c> SIZE=12345 BODY=8bitmime RET=hdrs ENVID=QQ+2B AUTH=<>"
    assert mail_parameters(parse(line)) == MailParameters(12345, "8BITMIME", False, "HDRS", "QQ+2B", "<>")
    assert mail_parameters(parse(b"MAIL FROM:<>")) == MailParameters()
    most = b"MAIL FROM:<a@b.c> SIZE=" + b"9" * 20 + b" ENVID=" + b"x" * 100
    assert mail_parameters(parse(most)).size == 10**20 - 1


@pytest.mark.parametrize(
    "parameter",
    [
        "SIZE",
        "SIZE=x",
        "SIZE=-1",
        "SIZE=1e3",
        "RET=ALL",
        "RET",
        "ENVID",
        "AUTH",
        "ENVID=a+zz",
        "ENVID=a+2",
        "AUTH=+",
        "BODY=BINARYMIME",
        "BODY",
        "SIZE=" + "9" * 21,
        "ENVID=" + "x" * 101,
    ],
)
def test_mail_parameters_refused(parameter: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        mail_parameters(parse(f"MAIL FROM:<a@b.c> {parameter}".encode()))
    assert caught.value.reply.startswith("555 5.5.4" if parameter.startswith("BODY") else "501 5.5.4")


@pytest.mark.parametrize(
    ("notify", "orcpt"),
    [
        ("NEVER", "rfc822;user@example.com"),
        ("never", "rfc822;user+2Bx@example.com"),
        ("SUCCESS", "x400;/c=de/"),
        ("FAILURE,DELAY,SUCCESS", "utf-8;user@example.com"),
        ("success,Delay", "rfc822;" + "x" * 493),
    ],
)
def test_rcpt_parameters(notify: str, orcpt: str) -> None:
    command = parse(f"RCPT TO:<a@b.c> NOTIFY={notify} ORCPT={orcpt}".encode())
    assert rcpt_parameters(command) == RcptParameters(notify.upper(), orcpt)
    assert rcpt_parameters(parse(b"RCPT TO:<a@b.c>")) == RcptParameters()


@pytest.mark.parametrize(
    "parameter",
    [
        *["NOTIFY", "NOTIFY=NEVER,SUCCESS", "NOTIFY=ALWAYS", "NOTIFY=SUCCESS,", "NOTIFY=DELAY,DELAY", "NOTIFY=,"],
        *[
            "ORCPT",
            "ORCPT=user@example.com",
            "ORCPT=;x",
            "ORCPT=rfc822;",
            "ORCPT=rfc822;a+b",
            "ORCPT=r_c;a",
            "ORCPT=utf-8;a+b",
        ],
        "ORCPT=rfc822;" + "x" * 494,
    ],
)
def test_rcpt_parameters_refused(parameter: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        rcpt_parameters(parse(f"RCPT TO:<a@b.c> {parameter}".encode()))
    assert caught.value.reply.startswith("501 5.5.4")


LINES = st.one_of(
    st.binary(max_size=80),
    st.tuples(
        st.sampled_from([*sorted(VERBS), "MAIL FROM:", "RCPT TO:", "MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>"]),
        st.text(st.sampled_from(list(' \t<>@"\\=ab1.:;,+ü')), max_size=30),
    ).map(lambda pair: "".join(pair).encode()),
)


@settings(deadline=None)
@given(LINES, st.booleans(), st.booleans())
def test_total(line: bytes, utf8: bool, strict: bool) -> None:
    """Any octets give a Command, or a reply that can be sent; nothing in a Command can end a line or hide in a log."""
    try:
        command = parse(line, utf8=utf8, strict=strict)
    except ProtocolError as error:
        assert from_text(error.reply).code in (500, 501, 521, 553, 555)
        return
    assert command.verb == command.verb.upper()
    assert command.argument.isascii()
    assert command.argument.replace("\t", " ").isprintable()
    assert not strict or not command.lenient - {"source_route"}
    assert (command.address is None) is (command.verb not in ("MAIL", "RCPT"))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"GET / HTTP/1.1", "http"),
        (b"POST /x HTTP/1.0", "http"),
        (b"get / http/1.1", "http"),
        (b"CONNECT mx.example.com:25 HTTP/1.1", "http"),
        (b"PRI * HTTP/2.0", "http"),
        (b"OPTIONS sip:x SIP/2.0", "sip"),
        (b"INVITE sip:user@example.com SIP/2.0", "sip"),
        (b"SSH-2.0-OpenSSH_9.2", "ssh"),
        (b"\x16\x03\x01\x02\x00\x01", "tls"),
        (b"\x80\x2e\x01\x03\x01", "tls"),
        (b"\x03\x00\x00\x13", "binary"),
        (b"\0\0\0\x85", "binary"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25", "proxy"),
        (b"\r\n\r\n\0\r\nQUIT\n", "proxy"),
        (b"Subject: hello", "header"),
        (b"Host:", "header"),
        (b"X-Foo-1:\tx", "header"),
        (b"EHLO example.com", ""),
        (b"MAIL FROM: <a@b.c>", ""),
        (b"GETX", ""),
        (b"HELP", ""),
        (b"", ""),
        (b"\r\n", ""),
        (b" EHLO x", ""),
    ],
)
def test_wrong_protocol(line: bytes, name: str) -> None:
    assert wrong_protocol(line) == name


def test_no_verb_of_ours_is_another_protocol() -> None:
    for verb in VERBS:
        assert wrong_protocol(verb.encode() + b" argument") == ""


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_xtext_round_trip(data: bytes) -> None:
    text = xtext.encode(data)
    assert text.isascii()
    assert not set(text) & set(" =\r\n\t")
    assert xtext.decode(text) == data


def test_xtext_vectors() -> None:
    assert xtext.encode(b"a+b=c d\xff") == "a+2Bb+3Dc+20d+FF"
    assert xtext.decode("a+2bb=c") == b"a+b=c"
    for wrong in ("+", "+2", "+GG", "a b", "ü", "a\n"):
        with pytest.raises(ProtocolError):
            xtext.decode(wrong)


def test_xclient_attributes() -> None:
    argument = "name=mail.example.com Addr=IPV6:2001:DB8::1 PORT=0025 PROTO=esmtp HELO=a+20b LOGIN=u+40x"
    argument += " REVERSE_NAME=[TEMPUNAVAIL]"
    assert parse_attributes("XCLIENT", argument) == {
        "NAME": "mail.example.com",
        "ADDR": "2001:db8::1",
        "PORT": "25",
        "PROTO": "ESMTP",
        "HELO": "a b",
        "LOGIN": "u@x",
        "REVERSE_NAME": "[TEMPUNAVAIL]",
    }
    assert parse_attributes("XFORWARD", "IDENT=4ABC SOURCE=local ADDR=[unavailable]") == {
        "IDENT": "4ABC",
        "SOURCE": "LOCAL",
        "ADDR": "[UNAVAILABLE]",
    }


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("XCLIENT", ""),
        ("XCLIENT", "IDENT=x"),
        ("XCLIENT", "FOO=x"),
        ("XCLIENT", "ADDR"),
        ("XCLIENT", "ADDR="),
        ("XCLIENT", "ADDR=mail.example.com"),
        ("XCLIENT", "ADDR=192.0.2.1 ADDR=192.0.2.2"),
        ("XCLIENT", "ADDR=IPV6:fe80::1%eth0"),
        ("XCLIENT", "ADDR=[TEMPUNAVAIL]"),
        ("XCLIENT", "PORT=65536"),
        ("XCLIENT", "PORT=-1"),
        ("XCLIENT", "PROTO=LMTP"),
        ("XCLIENT", "NAME=a+0D+0Ab"),
        ("XCLIENT", "NAME=a+00"),
        ("XCLIENT", "NAME=a+C2+85"),
        ("XCLIENT", "NAME=a+"),
        ("XCLIENT", "NAME=" + "x" * 256),
        ("XCLIENT", "NAME=" + "x" * 250 + " HELO=" + "y" * 254),
        ("XFORWARD", "LOGIN=x"),
        ("XFORWARD", "SOURCE=there"),
    ],
)
def test_attributes_refused(verb: str, argument: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_attributes(verb, argument)
    assert caught.value.reply.startswith(f"501 5.5.4 Error: bad {verb}")


def test_xforward_round_trip() -> None:
    attributes = {
        "NAME": "mail x",
        "ADDR": "2001:db8::1",
        "PORT": "25",
        "PROTO": "ESMTP",
        "HELO": "h" * 250,
        "IDENT": "i" * 240,
    }
    lines = format_xforward(attributes, "NAME ADDR PORT PROTO HELO IDENT")
    assert len(lines) == 2
    assert all(len(line) <= 512 and line.endswith(b"\r\n") for line in lines)
    back: dict[str, str] = {}
    for line in lines:
        back |= parse_attributes("XFORWARD", parse(line).argument)
    assert back == attributes
    for size in range(200, 256):
        lines = format_xforward({"NAME": "n" * 240, "HELO": "h" * size}, "NAME HELO")
        assert all(len(line) <= 512 for line in lines)
        assert b"h" * size in lines[-1]
    assert format_xforward(attributes, "addr") == [b"XFORWARD ADDR=IPV6:2001:db8::1\r\n"]
    assert format_xforward(attributes, "SOURCE") == []


PATHS = st.one_of(
    st.from_regex(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@<> \"\\-]{0,70}", fullmatch=True),
    st.builds(lambda local, domain: local + b"@" + domain, *[st.from_regex(rb"[a-z0-9.-]{1,70}", fullmatch=True)] * 2),
)


@given(verb=st.sampled_from([b"MAIL FROM:", b"RCPT TO:", b"MAIL TO:", b"rcpt to:"]), path=PATHS, utf8=st.booleans())
@settings(max_examples=1500, deadline=None)
def test_the_short_way_says_what_the_long_way_says(verb: bytes, path: bytes, utf8: bool) -> None:
    line = verb + b"<" + path + b">\r\n"

    def read() -> object:
        try:
            return command_module.parse(line, utf8=utf8)
        except ProtocolError as error:
            return str(error)

    short = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_module, "parse_usual", lambda line: None)
        assert read() == short


def test_the_short_way_is_taken() -> None:
    assert command_module.parse_usual(b"MAIL FROM:<Joe.Doe+x@Example.COM>") is not None
    assert command_module.parse_usual(b"RCPT TO:<a@192.0.2.1>") is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"MAIL FROM:<root>", "root@mx.example.com"),
        (b"MAIL FROM:root SIZE=5", "root@mx.example.com"),
        (b"MAIL FROM:<postmaster>", "postmaster@mx.example.com"),
        (b"RCPT TO:<joe.smith+x> NOTIFY=NEVER", "joe.smith+x@mx.example.com"),
        (b'RCPT TO:<"joe smith">', '"joe smith"@mx.example.com'),
        (b"RCPT TO:<@relay.example:joe>", "joe@mx.example.com"),
        (b"RCPT TO:<postmaster>", "postmaster"),
        (b"RCPT TO:<joe@example.com>", "joe@example.com"),
        (b"MAIL FROM:<>", ""),
    ],
)
def test_names_without_a_domain_are_ours_where_that_is_said(line: bytes, text: str) -> None:
    command = parse(line, origin="mx.example.com")
    assert command.address is not None
    assert command.address.text == text
    assert command.address.domain == text.partition("@")[2]
    assert ("no_domain" in command.lenient) is (text.endswith("mx.example.com"))
    if "no_domain" in command.lenient:
        with pytest.raises(ProtocolError):
            parse(line, origin="mx.example.com", strict=True)
        with pytest.raises(ProtocolError):
            parse(line)


@pytest.mark.parametrize("name", ["host!user", "user%host", '"user@host"', '"a!b"', "joe@", "", '""', "a b"])
def test_what_could_be_a_route_is_no_name(name: str) -> None:
    with pytest.raises(ProtocolError, match=r"."):
        parse(f"RCPT TO:<{name}>".encode(), origin="mx.example.com")
