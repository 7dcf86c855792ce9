"""AM.PDP: both ends glued, cut at every place, each limit tripped; every attribute of amavisd's README.protocol."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol import ampdp
from appliance.protocol.ampdp import HeaderEdit, Reader
from appliance.protocol.errors import ProtocolError

ANSWER = (
    b"version_server=2\r\nlog_id=123-1\r\ndelheader=1 X-Spam-Flag\r\nchgheader=1 Subject %5bSPAM%5D%20x\r\n"
    b"insheader=1 X-Virus-Scanned amavisd%20at%20mx\r\naddheader=X-Score 5.1\r\ndelrcpt=<a@example.com>\r\n"
    b"addrcpt=<a+spam@example.com>\r\nreturn_value=continue\r\nsetreply=250 2.5.0 Ok,%20continue\r\nexit_code=0\r\n\r\n"
)


def answer(*pieces: bytes) -> ampdp.Answer:
    reader = Reader()
    for piece in pieces:
        reader.feed(piece)
    return reader.end()


def test_every_attribute_cut_at_every_place() -> None:
    whole = answer(ANSWER)
    assert (whole.value, whole.reply, whole.log_id) == ("continue", ("250", "2.5.0", "Ok, continue"), "123-1")
    assert whole.edits == (
        HeaderEdit("delete", 1, "X-Spam-Flag"),
        HeaderEdit("change", 1, "Subject", "[SPAM] x"),
        HeaderEdit("insert", 1, "X-Virus-Scanned", "amavisd at mx"),
        HeaderEdit("add", 0, "X-Score", "5.1"),
    )
    assert (whole.added, whole.deleted) == (("<a+spam@example.com>",), ("<a@example.com>",))
    for at in range(len(ANSWER)):
        assert answer(ANSWER[:at], ANSWER[at:]) == whole
        with pytest.raises(ProtocolError, match="hung up"):
            answer(ANSWER[:at])
    assert answer(*(ANSWER[at : at + 1] for at in range(len(ANSWER)))) == whole
    with pytest.raises(ProtocolError, match="behind"):
        answer(ANSWER + ANSWER)


@pytest.mark.parametrize("value", ["continue", "accept", "reject", "discard", "tempfail"])
def test_every_return_value(value: str) -> None:
    assert answer(b"return_value=" + value.encode() + b"\r\n\r\n").value == value


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"return_value=\r\n\r\n",
        b"return_value=clean\r\n\r\n",
        b"return_value=continue\r\nreturn_value=continue\r\n\r\n",
        b"return_value=accept reject\r\n\r\n",
        b"exit_code=0\r\n\r\n",
        b"continue\r\n\r\n",
        b"=continue\r\n\r\n",
        b"return_value=continue\nsetreply=250 2.0.0 x\r\n\r\n",
        b"return_value=continue\r\nsetreply=250 Ok\r\n\r\n",
        b"return_value=continue\r\nsetreply=99 2.0.0 Ok\r\n\r\n",
        b"return_value=continue\r\nsetreply=250 2.0.0 a\r\nsetreply=550 5.0.0 b\r\n\r\n",
        b"return_value=continue\r\ndelheader=X\r\n\r\n",
        b"return_value=continue\r\ndelheader=-1 X\r\n\r\n",
        b"return_value=continue\r\nchgheader=1 X\r\n\r\n",
        b"return_value=continue\r\naddheader=X:%0d%0aY 1\r\n\r\n",
        b"return_value=continue\r\naddheader=%20 1\r\n\r\n",
        b"return_value=continue\r\n" + b"x=y\r\n" * 2001 + b"\r\n",
        b"x=" + b"y" * 300000,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=lambda octets: repr(octets[:40]),
)
def test_d2_what_is_no_answer(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        answer(octets)


def clean(text: str) -> str:
    """What can be octets."""
    return text.encode("utf-8", "replace").decode()


@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.lists(st.text(max_size=20), min_size=1, max_size=4))))
def test_both_ends_glued(pairs: list[tuple[str, list[str]]]) -> None:
    attributes = [(clean(name), tuple(map(clean, fields))) for name, fields in pairs]
    octets = ampdp.encode(attributes)
    reader = Reader()
    reader.feed(octets)
    assert reader.complete and reader.attributes() == attributes


def test_a_value_cannot_end_its_line() -> None:
    octets = ampdp.encode([("request", ("AM.PDP",)), ("helo_name", ("x\r\nrecipient=<evil@example.com>\r\n\r\n% ü",))])
    assert octets == b"request=AM.PDP\r\nhelo_name=x%0d%0arecipient=<evil@example.com>%0d%0a%0d%0a%25%20%c3%bc\r\n\r\n"
