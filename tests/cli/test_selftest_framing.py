"""Rows of the self-test about where a message ends: what goes on the wire, and what may come of it."""

import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.cli.selftest import plays_framing
from appliance.cli.selftest.fate import Became
from appliance.cli.selftest.play import Mail, Play
from appliance.cli.selftest.result import Result
from appliance.cli.selftest.stranger import Reply

OK, BYE = Reply(250, "Ok"), Reply(221, "Bye")


def play() -> Play:
    return Play(*(cast("Any", None) for _ in range(6)))


async def test_chunks_are_cut_at_and_within_lone_dots_and_are_the_mail() -> None:
    mail, sent = play().mail(plays_framing.DOTTED), []

    async def raw(octets: bytes) -> None:
        sent.append(octets.partition(b"\r\n"))

    async def reply() -> Reply:
        return OK

    await plays_framing._in_chunks(cast("Any", SimpleNamespace(raw=raw, reply=reply)), mail.octets)
    chunks = [chunk for _, _, chunk in sent]
    assert b"".join(chunks) == mail.octets
    assert [head for head, _, _ in sent] == [
        f"BDAT {len(chunk)}{' LAST' * (number == len(chunks))}".encode() for number, chunk in enumerate(chunks, 1)
    ]
    ends = itertools.pairwise(chunks)
    assert [(before[-5:], after[:3]) for before, after in ends] == [
        (b"one\r\n", b".\r\n"),
        (b"wo\r\n.", b"\r\nt"),
        (b"e\r\n.\r", b"\nfo"),
        (b"\r\n.\r\n", b"fiv"),
    ]


@pytest.mark.parametrize("cut", [b"", b"one\r\n", b"one\r\n.\r\ntwo"])
async def test_a_body_with_other_octets_is_a_miss(cut: bytes) -> None:
    made, fine = play(), Result("ok", "delivered", "delivered")
    mail = made.mail(plays_framing.DOTTED)
    head, between, body = mail.octets.partition(b"\r\n\r\n")
    arrived = [b"Received: x\r\n" + head + between + (cut or body)]

    async def has(_token: bytes, _seconds: float) -> bytes:
        return arrived[0]

    made.inner = cast("Any", SimpleNamespace(has=has))
    assert (await plays_framing._unchanged(made, mail, fine)).state == ("miss" if cut else "ok")


@pytest.mark.parametrize(
    ("answer", "behind", "second"),
    [
        (OK, BYE, ""),
        (OK, OK, "250 Ok"),
        (OK, Reply(0, "the gateway hung up"), "the gateway hung up"),
        (Reply(550, "No"), BYE, ""),
        (Reply(550, "No"), OK, "250 Ok"),
        (Reply(550, "No"), Reply(421, "Too many errors"), ""),
        (Reply(421, "Bye"), Reply(0, "the gateway hung up"), ""),
    ],
)
async def test_one_end_of_data_gets_one_reply(answer: Reply, behind: Reply, second: str) -> None:
    content = plays_framing._Counted()
    assert await content(cast("Any", Spoken([Reply(354, "Go on"), behind], [answer])), b"") == answer
    assert (content.sent, content.second) == (True, second)


class Spoken:
    """A stranger who keeps what is sent as it stands, with replies to commands and to that."""

    def __init__(self, replies: list[Reply], answers: list[Reply]) -> None:
        self._replies, self._answers = replies, answers
        self.greeting, self.sent = Reply(220, "hello"), list[bytes]()

    async def say(self, _line: str) -> Reply:
        return self._replies.pop(0)

    async def raw(self, octets: bytes) -> None:
        self.sent.append(octets)

    async def reply(self) -> Reply:
        return self._answers.pop(0)


async def test_each_pseudo_end_stands_on_the_wire_as_it_is() -> None:
    made, wire = play(), list[bytes]()

    async def send(mail: Mail, stranger: Any, way: Any) -> Reply:
        one = Spoken([Reply(354, "Go on"), BYE], [Reply(550, "No")])
        reply: Reply = await way.content(one, mail.octets)
        wire.append(b"".join(one.sent))
        return reply

    vars(made)["send"], vars(made)["stranger"] = send, lambda: None
    made.inner = cast("Any", SimpleNamespace(mails=[]))
    assert (await plays_framing.smuggling(made)).state == "ok"
    assert len(set(plays_framing.PSEUDO)) == len(wire) == 7
    for pseudo in plays_framing.PSEUDO:
        (one,) = [octets for octets in wire if b"before" + pseudo + b"MAIL FROM:<" in octets]
        assert one.count(b"\r\n.\r\n") == 1 and one.endswith(b"\r\n.\r\n"), "and one end, the last of it"


@pytest.mark.parametrize(("arrives", "found"), [("whole", 0), ("first", 1), ("both", 2), ("aside", 0), ("twice", 1)])
async def test_text_behind_a_pseudo_end_stays_in_the_one_mail(arrives: str, found: int) -> None:
    made = play()
    mail, inside = made.mail(), made.mail()
    whole = mail.octets + b"before\r\n.\r\nMAIL FROM:<>\r\n" + inside.octets
    came = {
        "whole": [whole],
        "first": [mail.octets],
        "both": [mail.octets, inside.octets],
        "aside": [],
        "twice": [whole, whole],
    }[arrives]

    async def of(*_args: object) -> Became:
        return Became("delivered", came[0]) if came else Became("250, then kept in quarantine")

    async def has_again(_token: bytes) -> bool:
        return arrives == "twice"

    made.fate = cast("Any", SimpleNamespace(of=of))
    made.inner = cast("Any", SimpleNamespace(mails=came, has_again=has_again))
    assert len(await plays_framing._of_two(made, mail, inside, OK, "")) == found
