"""Milters of others behind our own milter server: a real Postfix asks milterd, milterd asks them, and what they want done
is done by Postfix."""

import smtplib
from collections.abc import Callable
from typing import Any

import pytest

from tests.interop.test_milterd_postfix import Chain, fields, in_chain, mail
from tests.interop.test_milters_gateway import entry, policies
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.milter_server import MilterServer, header
from tests.peers.played import Played
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer
GO_ON = [(b"c", b"")]
EDITS = {
    b"top": [(b"i", b"\0\0\0\1X-One\0gr\xfc\xdf\0"), header(b"h", "X-End", "e"), header(b"m", "X-Mine", "", 1)],
    b"sender": [(b"e", b"<changed@example.org>\0")],
    b"body": [(b"b", b"new \xe9 body\r\n")],
    b"add": [(b"+", b"<more@example.com>\0")],
    b"with": [(b"2", b"<more@example.com>\0NOTIFY=NEVER\0")],
    b"delete": [(b"-", b"<gone@example.com>\0")],
    b"hold": [(b"q", b"by the played one\0")],
}
REFUSALS = {
    b"no": [(b"y", b"554-5.7.1 one\r\n554 5.7.1 100%% sure\0")],
    b"later": [(b"t", b"")],
    b"drop": [(b"d", b"")],
}


class Judge:
    """Says what the Subject asks for."""

    def __init__(self) -> None:
        self.subject = b""

    def header(self, data: bytes) -> Any:
        name, value, _ = data.split(b"\0")
        if name.lower() == b"subject":
            self.subject = value.strip()
        return GO_ON

    def end(self, data: bytes) -> Any:
        return REFUSALS.get(self.subject) or [*EDITS.get(self.subject, []), *GO_ON]


@pytest.fixture
def chain(gateway: Callable[..., Gateway], make_postfix: Callable[..., Postfix], inner: Inner) -> Callable[..., Chain]:
    def start(server: MilterServer, more: str = "", front: str = "", **files: str) -> Chain:
        asked = policies(entry("one", server, more), **files)
        return in_chain(gateway, make_postfix, inner, asked, f"workers = 1\n{front}")

    return start


def test_what_a_milter_behind_milterd_wants_postfix_does(
    chain: Callable[..., Chain], played: Played, inner: Inner
) -> None:
    judge = Judge()
    one = played.milter({b"L": judge.header, b"E": judge.end})
    made = chain(one)
    for subject in ("plain", *(word.decode() for word in EDITS)):
        assert made.send(mail(subject, more="X-Mine: 1\r\n"), "user@example.com", "gone@example.com")[0] == 250, subject
    kept = {
        next(field for field in fields_of(one.content) if field.startswith(b"Subject: "))[9:]: one
        for one in inner.wait(len(EDITS), 30)
    }
    assert set(kept) == {b"plain", *EDITS} - {b"hold"}
    both = ["gone@example.com", "user@example.com"]
    for subject, one_kept in kept.items():
        more, less = ["more@example.com"] * (subject in (b"add", b"with")), subject == b"delete"
        expected = sorted([*both[less:], *more])
        assert sorted(one_kept.recipients) == expected, subject
        assert one_kept.sender == ("changed@example.org" if subject == b"sender" else "a@example.org"), subject
        body = b"new \xe9 body\r\n" if subject == b"body" else b"body\r\n"
        assert one_kept.content.endswith(b"\r\n\r\n" + body), subject
        assert (b"X-Mine: 1" in fields_of(one_kept.content)) == (subject != b"top"), subject
    listed = fields_of(kept[b"top"].content)
    at = listed.index(b"X-One: gr\xfc\xdf")
    assert listed[at + 1] == b"From: a@example.org" and listed[-1] == b"X-End: e"
    wait_for(made.postfix.at_rest, 20, "Postfix to forget what it handed over")
    (held,) = made.postfix.queue_ids()
    assert '"queue_name": "hold"' in held
    made.gateway.wait_log("by the played one")
    wait_for(lambda: not one.open, 10, "it to be told the end")
    assert {words[1][:5] for words in one.texts(b"M")} == {b"SIZE="}
    assert one.letters() == b"OCHMRRTLLLLLLNBEQ" and len(one.heard) == len(EDITS) + 1  # a client, a connection


def fields_of(content: bytes) -> list[bytes]:
    """The header's lines."""
    return content.partition(b"\r\n\r\n")[0].split(b"\r\n")


def test_its_refusals_are_those_of_milterd_and_one_that_is_away_puts_off(
    chain: Callable[..., Chain], played: Played, inner: Inner
) -> None:
    judge = Judge()
    one = played.milter({b"L": judge.header, b"E": judge.end, b"R": refuses_gone})
    made = chain(one)
    code, text = made.send(mail("no"))
    assert code == 554 and "one" in text and "100% sure" in text
    assert made.send(mail("later"))[0] == 451
    assert made.send(mail("drop"))[0] == 250
    assert made.send(mail("plain"), "user@example.com", "gone@example.com") == (250, "gone@example.com 550")
    (kept,) = inner.wait(1, 20)
    assert kept.recipients == ["user@example.com"] and "Subject: plain" in fields(kept.content)
    played.stop(one)
    assert made.send(mail("plain"))[0] == 451
    made.gateway.wait_log("milter failed: milter=one")
    played.start(one)
    wait_for(lambda: made.send(mail("plain"))[0] == 250, 20, "the milter is asked again")
    assert "internal error" not in made.gateway.log()


def refuses_gone(data: bytes) -> Any:
    return [(b"y", b"550 5.7.1 not here\0")] if data.startswith(b"<gone@") else GO_ON


def test_one_for_our_own_side_hears_of_that_alone(chain: Callable[..., Chain], played: Played, inner: Inner) -> None:
    one = played.milter({b"E": [header(b"i", "X-Signed", "yes", 1), *GO_ON]})
    made = chain(one, 'roles = "outbound"', 'outbound = ["127.0.0.9"]\n', own_domain='mode = "off"\n')
    assert made.send(mail("from outside"))[0] == 250
    with smtplib.SMTP("127.0.0.1", made.postfix.port, source_address=("127.0.0.9", 0)) as client:
        client.sendmail("a@example.com", ["user@example.com"], mail("from inside"))
    signed = {b"X-Signed: yes" in fields_of(kept.content): kept.content for kept in inner.wait(2, 20)}
    assert b"Subject: from inside" in signed[True] and b"Subject: from outside" in signed[False]
    assert len(one.heard) == 1 and one.letters().startswith(b"OCHMR")
