"""Relay attempts of the self-test: only the refusal of the check `relay`, with its own code, shows anything."""

import asyncio
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.cli.selftest import live, plays_smtp
from appliance.cli.selftest.earlier import Decided
from appliance.cli.selftest.play import Play
from appliance.cli.selftest.relaying import ATTEMPTS, before
from appliance.cli.selftest.scene import DOMAIN
from appliance.cli.selftest.stranger import Reply
from appliance.engine.policy import compile_policies
from appliance.engine.rules import PolicySet

ONE = next(one.at(DOMAIN) for one in ATTEMPTS if one.finding == "trick")
UNKNOWN = "550 5.1.1 Recipient address rejected: no such mailbox here"


def policies(**files: dict[str, Any]) -> PolicySet:
    compiled, complaints = compile_policies({f"{name}.toml": values for name, values in files.items()})
    assert not [complaint for complaint in complaints if complaint.fatal]
    return compiled


class Stranger:
    """Who is refused each recipient by relay as shipped, one of them otherwise."""

    def __init__(self, replies: dict[str, str]) -> None:
        self._replies = replies
        self.greeting = Reply(220, "hello")

    async def __aenter__(self) -> "Stranger":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def hello(self, _tls: bool) -> None:
        return None

    async def envelope(self, *_: str) -> Reply:
        return Reply(250, "2.1.0 Ok")

    async def say(self, line: str) -> Reply:
        recipient = line.removeprefix("RCPT TO:<").removesuffix(">")
        code, _, text = self._replies[recipient].partition(" ")
        return Reply(int(code), text)


def play(compiled: PolicySet, replies: dict[str, str], deciders: dict[str, Decided]) -> Play:
    made = Play(*(cast("Any", None) for _ in range(6)))
    made.snapshot = cast("Any", SimpleNamespace(policies=compiled))

    async def decided(reply: Reply) -> Decided | None:
        return deciders.get(reply.text.rpartition("[")[2].rstrip("]"))

    async def stopped(*_: object) -> None:
        return None

    made.gateway = cast("Any", SimpleNamespace(decided=decided))
    vars(made)["stopped"], vars(made)["stranger"] = stopped, lambda: Stranger(replies)
    return made


def told(compiled: PolicySet, odd: str, decider: str) -> tuple[dict[str, str], dict[str, Decided]]:
    """Replies and who decided: relay as the policies say, `decider` with the reply `odd` to ONE."""
    replies, deciders = {}, {}
    for number, one in enumerate(ATTEMPTS):
        rulings = compiled.checks["relay"].rulings
        replies[one.at(DOMAIN)] = f"{rulings[one.finding].reply} [{number}]" if one.finding else "501 5.1.3 Syntax"
        deciders[str(number)] = Decided("relay", one.finding, "")
    check, _, outcome = decider.partition(":")
    return replies | {ONE: f"{odd} [x]"}, deciders | ({"x": Decided(check, outcome, "")} if decider else {})


@pytest.mark.parametrize(
    ("odd", "decider", "state"),
    [
        ("550 5.7.1 Relaying denied, address syntax", "relay:trick", "ok"),
        ("550 5.1.1 No such mailbox", "recipient:unknown", "miss"),
        ("554 5.7.1 Relaying denied, address syntax", "relay:trick", "miss"),
        ("454 4.7.1 Relaying denied", "relay:trick", "miss"),
        ("250 2.1.5 Ok", "", "miss"),
        ("550 5.7.1 Relaying denied", "", "miss"),  # nobody has decided that
        ("550 5.7.1 Listed", "access:reject", "miss"),  # it stands behind relay
    ],
)
async def test_only_relay_refuses_to_relay(odd: str, decider: str, state: str) -> None:
    compiled = policies()
    result = await plays_smtp.relay(play(compiled, *told(compiled, odd, decider)))
    assert result.state == state, result
    assert (ONE in result.got) is (state == "miss")


@pytest.mark.parametrize("wrong", [one.at(DOMAIN) for one in ATTEMPTS])
async def test_each_attempt_counts(wrong: str) -> None:
    compiled = policies()
    replies, deciders = told(compiled, "550 5.7.1 Relaying denied, address syntax", "relay:trick")
    result = await plays_smtp.relay(play(compiled, replies | {wrong: "250 2.1.5 Ok"}, deciders))
    assert (result.state, result.got.count(wrong)) == ("miss", 1)


async def test_who_stands_before_relay_may_refuse_first() -> None:
    compiled = policies(stages={"inbound": {"rcpt": ["access", "relay", "recipient"]}})
    assert before(compiled) == {"access"} and not before(policies())
    for check, state in (("access", "ok"), ("recipient", "miss")):
        result = await plays_smtp.relay(play(compiled, *told(compiled, "554 5.7.1 Listed", f"{check}:reject")))
        assert result.state == state


@pytest.mark.parametrize(("odd", "state"), [("454 4.7.1 Relaying denied", "ok"), ("250 2.1.5 Ok", "miss")])
async def test_relaying_may_be_put_off_where_the_operator_says_so(odd: str, state: str) -> None:
    words = {"on": {"trick": "defer"}, "reply": {"trick": "454 4.7.1 Relaying denied"}}
    compiled = policies(relay=words)
    result = await plays_smtp.relay(play(compiled, *told(compiled, odd, "relay:trick")))
    assert (result.state, "put off" in result.expected) == (state, True), result


async def test_relaying_that_is_let_pass_is_a_miss_whatever_the_policy_says() -> None:
    compiled = policies(relay={"on": {"not_ours": "dunno"}})
    replies, deciders = told(policies(), "550 5.7.1 Relaying denied, address syntax", "relay:trick")
    passing = {one.at(DOMAIN): "250 2.1.5 Ok" for one in ATTEMPTS if one.finding == "not_ours"}
    result = await plays_smtp.relay(play(compiled, replies | passing, deciders))
    assert result.state == "miss" and all(recipient in result.got for recipient in passing)


@pytest.mark.parametrize(
    ("answer", "soft", "state"),
    [
        ("550 5.7.1 Relaying denied, address syntax [1]", False, "ok"),
        (UNKNOWN, False, "miss"),
        ("250 2.1.5 Ok", False, "miss"),
        ("450 4.7.1 Relaying denied, address syntax [1]", True, "ok"),
        ("450 4.7.1 Relaying denied, address syntax [1]", False, "miss"),
        (UNKNOWN.replace("5", "4", 1).replace("5.1.1", "4.1.1"), True, "miss"),
    ],
)
async def test_live_a_mailbox_that_is_unknown_shows_nothing_about_relaying(answer: str, soft: bool, state: str) -> None:
    made = live.Live.__new__(live.Live)
    made.recipient = f"someone@{DOMAIN}"
    gateway = SimpleNamespace(soft_bounce=soft)
    made.snapshot = cast("Any", SimpleNamespace(policies=policies(), wiring=SimpleNamespace(gateway=gateway)))

    async def asked(recipient: str) -> Reply:
        await asyncio.sleep(0)
        shipped = "550 5.7.1 Relaying denied" if not re.search(r"[%!\"]", recipient) else answer
        code, _, text = shipped.partition(" ")
        return Reply(int(code) - 100 * (soft and code[0] == "5"), f"{4 if soft else text[0]}{text[1:]}")

    vars(made)["_recipient"] = asked
    assert (await made.relay()).state == state
