"""Texts of reply codes as they go over the milter protocol, and as an MTA reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import replycode
from appliance.protocol.smtp.reply import Reply


@pytest.mark.parametrize(
    ("reply", "octets"),
    [
        ("550 5.7.1 Refused [4F00]", b"550 5.7.1 Refused [4F00]"),
        ("451 4.7.1 100% full", b"451 4.7.1 100%% full"),
        ("550 no status", b"550 no status"),
        ("550 5.7.1 one\ntwo", b"550-5.7.1 one\r\n550 5.7.1 two"),
        ("421 4.7.0 a\x07b\u00e4", b"421 4.7.0 a?b?"),
        ("550", b"550"),
    ],
)
def test_written(reply: str, octets: bytes) -> None:
    assert replycode.text(reply) == octets


@pytest.mark.parametrize("reply", ["250 2.0.0 Ok", "354 go on", "hello", "", "99 x"])
def test_only_refusals_are_written(reply: str) -> None:
    with pytest.raises(ValueError, match=r"code|refuses"):
        replycode.text(reply)


@given(st.text(max_size=3000))
def test_what_is_written_is_read_again(words: str) -> None:
    octets = replycode.text("550 5.7.1 " + words)
    lines = octets.split(b"\r\n")
    assert len(lines) <= replycode.MAX_LINES and max(map(len, lines)) <= replycode.MAX_LINE
    assert replycode.parse(octets).code == 550 and replycode.parse(octets).enhanced == "5.7.1"
    assert octets.replace(b"%%", b"").count(b"%") == 0


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"550 5.7.1 Refused", Reply(550, "5.7.1", ("Refused",))),
        (b"550 5.7.1 Refused\r\n", Reply(550, "5.7.1", ("Refused",))),
        (b"451 4.7.1 100%% full", Reply(451, "4.7.1", ("100% full",))),
        (b"451 4.7.1 100% full", Reply(451, "4.7.1", ("100% full",))),
        (b"554 words", Reply(554, "", ("words",))),
        (b"554", Reply(554, "", ("",))),
        (b"550 5.7.1", Reply(550, "5.7.1", ("",))),
        (b"550-5.7.1 a\r\n550 5.7.1 b", Reply(550, "5.7.1", ("a", "b"))),
        (b"550 5.7.1 \x1b[31m", Reply(550, "5.7.1", ("?[31m",))),
    ],
)
def test_read(octets: bytes, reply: Reply) -> None:
    assert replycode.parse(octets) == reply


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"250 2.0.0 Ok",
        b"55 x",
        b"5500 x",
        b"550x",
        b"550 4.7.1 the classes differ",
        b"450 5.7.1 the classes differ",
        b"550-5.7.1 a\r\n551 5.7.1 b",
        b"550 5.7.1 a\r\n550 5.7.1 b",
        b"550-5.7.1 a",
        b"550-a\r\n" * 40 + b"550 b",
        b"550 " + b"x" * 100_000,
    ],
)
def test_not_read(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        replycode.parse(octets)
