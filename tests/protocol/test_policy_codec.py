"""The policy protocol, both ends: glued together, cut at every place, each limit tripped, other protocols by name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol import policy
from appliance.protocol.policy import AnswerReader, Attributes, PolicyError, RequestReader, encode_answer, encode_request
from tests.peers.policy import RCPT

#: A client with TLS, in a context of its own.
POSTFIX = RCPT | {
    "encryption_protocol": "TLSv1.3",
    "encryption_cipher": "TLS_AES_256_GCM_SHA384",
    "encryption_keysize": "256",
    "policy_context": "two words",
}


def read(*pieces: bytes, **limits: int) -> list[Attributes]:
    reader, found = RequestReader(**limits), list[Attributes]()
    for piece in pieces:
        reader.feed(piece, found)
    assert not reader.midway
    return found


def mistake(data: bytes, **limits: int) -> str:
    with pytest.raises(PolicyError) as caught:
        read(data, **limits)
    return str(caught.value)


def test_the_table_of_attributes_is_that_of_postfix() -> None:
    assert tuple(POSTFIX) == policy.ATTRIBUTES
    assert len(policy.ATTRIBUTES) == 31
    assert policy.SINCE["mail_version"] == "3.8" and policy.SINCE["policy_context"] == "3.1"


def test_both_ends_agree() -> None:
    assert read(encode_request(POSTFIX)) == [POSTFIX]
    assert read(encode_request(POSTFIX) * 3) == [POSTFIX] * 3
    assert AnswerReader().feed(encode_answer("451 4.7.1 Greylisted")) == policy.Answer("451", "4.7.1 Greylisted")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_cut_at_every_place(line_end: bytes) -> None:
    octets = (encode_request(POSTFIX) + encode_request({"sender": "", "x": "="})).replace(b"\n", line_end)
    for at in range(len(octets) + 1):
        assert read(octets[:at], octets[at:]) == [POSTFIX, {"request": policy.REQUEST, "sender": "", "x": "="}]
    assert read(*(octets[i : i + 1] for i in range(len(octets)))) == [
        POSTFIX,
        {"request": policy.REQUEST, "sender": "", "x": "="},
    ]


def test_answers_cut_at_every_place() -> None:
    for octets, odd in ((b"noise\naction=prepend X-A: b c\nx=y\n\n", ""), (b"action=PREPEND X-A: b c\r\n\r\n", "CR")):
        for at in range(1, len(octets)):
            reader = AnswerReader()
            assert reader.feed(octets[:at]) is None
            answer = reader.feed(octets[at:])
            assert answer is not None and answer[:2] == ("PREPEND", "X-A: b c") and answer.oddity.startswith(odd)
            assert not reader.surplus


@pytest.mark.parametrize("name", policy.ATTRIBUTES)
def test_any_attribute_may_be_missing_last_or_twice(name: str) -> None:
    rest = {key: value for key, value in POSTFIX.items() if key != name}
    lines = "".join(f"{key}={value}\n" for key, value in rest.items())
    assert read(f"{lines}\n".encode()) == [rest]
    assert read(f"{lines}{name}=x\n\n".encode()) == [rest | {name: "x"}]
    assert read(f"{name}=first\n{lines}{name}=second\nunheard_of=1\n\n".encode())[0][name] == "second"


def test_octets_that_are_no_utf8_survive() -> None:
    (found,) = read(b"request=smtpd_access_policy\nsender=\xff\xc3\xa9@x\n\n")
    assert found["sender"].encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9@x"
    assert encode_request(found).endswith(b"sender=\xff\xc3\xa9@x\n\n")


def test_limits_of_a_server() -> None:
    head = b"request=smtpd_access_policy\n"
    long = b"sender=" + b"x" * policy.MAX_LINE
    assert "line of more than 8192" in mistake(head + long)
    assert "line of more than 8192" in mistake(head + long + b"\n\n")
    assert "line of more than 8192" in mistake(b"x" * 8193)
    many = b"".join(b"a%d=%s\n" % (n, b"y" * 200) for n in range(400))
    assert "request of more than 65536" in mistake(head + many + b"\n")
    assert "request of more than 65536" in mistake(head + many)
    assert "512 attributes" in mistake(head + b"".join(b"a%d=\n" % n for n in range(600)) + b"\n")
    assert read(head + b"sender=" + b"x" * 8180 + b"\n\n")


@pytest.mark.parametrize(
    ("octets", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"POST /a?b=c HTTP/1.0\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
        (b"EHLO mail.example.org\r\n", "SMTP"),
        (b"RSET\r\n", "SMTP"),
        (b"data\r\n", "SMTP"),
        (b"VRFY ann\r\n", "SMTP"),
        (b"XFORWARD NAME=x\r\n", "SMTP"),
        (b"PING SPAMC/1.5\r\n\r\n", "spamd's protocol"),
        (b"SYMBOLS SPAMC/1.2\r\n", "spamd's protocol"),
        (b"PING\n", "clamd's protocol"),
        (b"MAIL FROM:<a=b@example.org>\r\n", "SMTP"),
        (b"quit\r\n", "SMTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"\x80\x2e\x01\x03\x01", "TLS"),
        (b"\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff", "milter"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY"),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11", "PROXY"),
        (b"get user@example.com\n", "tcp table"),
        (b"zPING\x00", "clamd"),
        (b"SSH-2.0-OpenSSH\r\n", "SSH"),
    ],
)
def test_other_protocols_are_called_by_their_name(octets: bytes, name: str) -> None:
    assert re.match(rf"the client speaks (?:the |Postfix's )?{name}", mistake(octets))
    if len(octets) > 20:  # also when it comes in pieces, and long before an empty line
        with pytest.raises(PolicyError, match=name):
            read(octets[:5], octets[5:])


def test_what_is_no_request() -> None:
    assert "line 2 of a request is no name=value: 'blah'" in mistake(b"request=smtpd_access_policy\nblah\n\n")
    assert "empty line" in mistake(b"\n\n")
    assert "line 1" in mistake(b"two words=x\n")
    assert "no text" in mistake(b"\xff\xfe\xfd\xfc\xfb") or "line 1" in mistake(b"\xff\xfe\xfd\xfc\xfb")
    found: list[Attributes] = []
    with pytest.raises(PolicyError):
        RequestReader().feed(encode_request(POSTFIX) + b"EHLO x\n", found)
    assert found == [POSTFIX]


def test_what_is_no_answer() -> None:
    for octets, why in (
        (b"\n", "empty answer"),
        (b"\r\n\r\n", "empty answer"),
        (b"ACTION=ok\n\n", "without action"),
        (b"action\n\n", "without action"),
        (b"220 mail ESMTP\r\n\r\n", "without action"),
        (b"action=\xff\n\n", "not UTF-8"),
        (b"x" * 9000, "more than 8192"),
        (b"action=" + b"x" * 9000 + b"\n\n", "more than 8192"),
    ):
        with pytest.raises(PolicyError, match=why):
            AnswerReader().feed(octets)
    two = AnswerReader()
    assert two.feed(b"action=dunno\n\naction=reject\n\n") == policy.Answer("DUNNO")
    assert two.surplus
    assert AnswerReader().feed(b"action=\n\n") == policy.Answer("")
    assert AnswerReader().feed(b"action=one\naction=two\n\n") == policy.Answer("ONE")


def test_an_answer_is_one_line_and_never_empty() -> None:
    assert encode_answer("550 a\r\nb\x00c") == b"action=550 a b c\n\n"
    assert encode_answer(" ") == b"action=DUNNO\n\n"
    assert encode_answer("REJECT caf\u00e9") == "action=REJECT café\n\n".encode()


def test_a_request_cannot_be_torn_by_its_values() -> None:
    assert read(encode_request({"sender": "a\n\nrequest=x\x00"})) == [
        {"request": policy.REQUEST, "sender": "a request=x "}
    ]
    with pytest.raises(ValueError, match="name"):
        encode_request({"two words": "x"})


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), st.text(max_size=40), max_size=40), st.data())
def test_whatever_is_sent_is_read(attributes: dict[str, str], data: st.DataObject) -> None:
    octets = encode_request(attributes)
    at = data.draw(st.integers(0, len(octets)))
    (found,) = read(octets[:at], octets[at:])
    assert set(found) == {"request", *attributes}
    assert all("\n" not in value for value in found.values())


@given(st.binary(max_size=400))
def test_rubbish_is_read_or_refused_never_anything_else(octets: bytes) -> None:
    try:
        read(octets + b"\n\n")
    except PolicyError:
        pass
    except AssertionError:
        assert octets.endswith((b"\n", b"\r"))  # an empty line more is left over
