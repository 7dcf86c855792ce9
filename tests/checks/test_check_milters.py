"""milters: order, conditions, default actions, what an answer means for a recipient and for a message."""

from collections.abc import Sequence
from typing import Any

import pytest

from appliance.checks import milters
from appliance.checks.milters import Policy
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.milter import Milter, Said
from appliance.mail.verdict import Verdict
from tests.engine.scripted import PORTS, context

ONE = {"name": "one", "address": "inet:127.0.0.1:1"}
TWO = {"name": "two", "address": "unix:/two"}


class Link:
    def __init__(self, said: Said) -> None:
        self.said = said
        self.heard: list[tuple[str, tuple[Edit, ...]]] = []
        self.resets = self.closed = 0

    async def ask(self, ctx: Context, edits: Sequence[Edit]) -> Said:
        self.heard.append((ctx.stage, tuple(edits)))
        return self.said

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.closed += 1


class Played:
    def __init__(self, **said: Said) -> None:
        self.links = {name: Link(what) for name, what in said.items()}
        self.opened: list[str] = []

    def link(self, milter: Milter) -> Link:
        self.opened.append(milter.name)
        return self.links[milter.name]


def talk(played: Played, *entries: dict[str, Any]) -> Any:
    ports = type(PORTS)(site=PORTS.site, milters=played)
    made = milters.open(Policy(milters=entries), ports)
    assert made is not None
    return made


async def ask(conversation: Any, stage: str = "rcpt", edits: tuple[Edit, ...] = (), **more: Any) -> Verdict:
    answer = conversation.ask(context(stage, **more), edits)
    found = answer if isinstance(answer, Verdict) else await answer
    assert isinstance(found, Verdict)
    return found


async def test_each_sees_the_edits_of_those_before() -> None:
    a, b = Edit("append", "A", "1"), Edit("append", "B", "2")
    played = Played(one=Said(edits=(a,)), two=Said(edits=(b,), quarantine="odd"))
    before = Edit("delete", "X")
    verdict = await ask(talk(played, ONE, TWO), "message", (before,))
    assert verdict.outcome == "quarantine" and verdict.reason == "two: odd" and verdict.edits == (a, b)
    assert played.links["two"].heard == [("message", (before, a))]


@pytest.mark.parametrize("word", ["reject", "tempfail", "discard", "shutdown"])
async def test_the_first_that_refuses_decides(word: Any) -> None:
    played = Played(one=Said(word=word, reply="554 5.7.1 no"), two=Said())
    verdict = await ask(talk(played, ONE, TWO))
    assert (verdict.outcome, verdict.reply, verdict.shared) == (word, "554 5.7.1 no", word == "discard")
    assert not played.links["two"].heard


FAILED = Said(word="failed", why="no answer in time at RCPT")


@pytest.mark.parametrize(
    ("default", "early", "late"),
    [
        ("accept", "none", "unfiltered"),
        ("quarantine", "none", "quarantine"),
        ("tempfail", "tempfail", "tempfail"),
        ("reject", "reject", "reject"),
        ("shutdown", "shutdown", "shutdown"),
    ],
)
async def test_each_default_of_one_that_failed(default: str, early: str, late: str) -> None:
    played = Played(one=FAILED, two=Said())
    conversation = talk(played, ONE | {"default": default}, TWO)
    assert (await ask(conversation, "connect")).outcome == "none"  # it holds for mail, not for who is there
    assert (await ask(conversation, "rcpt")).outcome == early
    verdict = await ask(conversation, "message")
    assert verdict.outcome == late and "no answer in time at RCPT" in verdict.reason
    assert bool(played.links["two"].heard) and (len(played.links["two"].heard) == 3) == (early == "none")
    if verdict.reply:
        assert verdict.reply[0] == ("5" if default == "reject" else "4")


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, True),
        ({"roles": "outbound"}, False),
        ({"roles": ["inbound", "outbound"]}, True),
        ({"listeners": "public"}, False),
        ({"clients": "192.0.2.0/24"}, True),
        ({"clients": ["198.51.100.0/24", "2001:db8::/32"]}, False),
        ({"not_clients": "192.0.2.1"}, False),
        ({"clients": "192.0.2.0/24", "not_clients": "192.0.2.128/25"}, True),
    ],
)
async def test_conditions(more: dict[str, Any], wanted: bool) -> None:
    played = Played(one=Said(word="reject"))
    verdict = await ask(talk(played, ONE | more))
    assert (verdict.outcome == "reject") is wanted and bool(played.opened) is wanted


async def test_reset_and_close_reach_everybody_once() -> None:
    played = Played(one=Said(), two=Said())
    conversation = talk(played, ONE, TWO)
    await ask(conversation)
    await ask(conversation, "message")
    conversation.reset()
    conversation.close()
    conversation.close()
    assert played.opened == ["one", "two"]
    assert {(link.resets, link.closed) for link in played.links.values()} == {(1, 1)}


@pytest.mark.parametrize(
    "wrong",
    [
        [ONE, ONE],
        [ONE | {"address": "127.0.0.1:1"}],
        [ONE | {"default": "maybe"}],
        [ONE | {"protocol": 7}],
        [ONE | {"command_timeout": "0s"}],
        [ONE | {"clients": "example.com"}],
        [ONE | {"name": "a b"}],
    ],
)
def test_mistakes_of_the_file(wrong: Any) -> None:
    with pytest.raises(ValueError):
        Policy(milters=wrong)


def test_nobody_to_talk_with() -> None:
    assert milters.open(Policy(), PORTS) is None
    assert milters.idle(Policy(), "inbound", "rcpt")
    outbound = Policy(milters=[ONE | {"roles": "outbound"}])  # type: ignore[list-item]
    assert milters.idle(outbound, "inbound", "rcpt") and not milters.idle(outbound, "outbound", "message")
