"""The greet delay: `220-` at once, `220 ` later; who talks in between did not wait (threats B5, B6)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from appliance.checks import early_talker
from appliance.engine.exceptions import Exemption, compile_test
from appliance.engine.rules import CheckPolicy
from appliance.mail.context import Client as Peer
from appliance.mail.context import Context
from appliance.mail.ports import Unavailable
from appliance.mail.verdict import Decision
from appliance.net.client_name import ClientName
from tests.daemons.smtpd.stage import Client, Stage

LONG, SHORT = 50.0, 0.2


class Memory:
    """stated's part (greeting.Senders)."""

    def __init__(self, known: bool = False, away: bool = False) -> None:
        self.known, self.away = known, away
        self.asked = 0
        self.kept: list[tuple[str, float]] = []

    def accepted(self, keys: Sequence[str]) -> None:
        raise AssertionError("no mail is accepted here")

    async def has_waited(self, address: str) -> bool:
        self.asked += 1
        if self.away:
            raise Unavailable("stated is away")
        return self.known

    def waited(self, address: str, keep: float) -> None:
        self.kept.append((address, keep))


def policy(wait: float, mode: Any = "enforce", **more: Any) -> CheckPolicy:
    knobs = early_talker.Policy(wait=wait, again_after=3600.0)
    return CheckPolicy(name="early_talker", mode=mode, knobs=knobs, rulings={}, **more)


def staged(wait: float, memory: Memory | None = None, manners: CheckPolicy | None = None, **sections: Any) -> Stage:
    stage = Stage(**sections)
    stage.engine_.manners = manners or policy(wait)
    stage.senders = memory or Memory()
    return stage


async def greeted(stage: Stage) -> tuple[Client, str]:
    """A client and the first line of its greeting."""
    client = await stage.connect(banner=False)
    return client, await client.line()


@pytest.mark.parametrize("delay_reject", [True, False])
async def test_b5_who_talks_during_the_greet_delay_is_marked_at_once(delay_reject: bool) -> None:
    async with staged(LONG, gateway={"delay_reject": delay_reject}) as stage:
        client, first = await greeted(stage)
        assert first.startswith("220-mx.example.com ESMTP")
        client.send(b"EHLO hasty.example.net\r\n")
        assert (await client.line()).startswith("220 mx.example.com ESMTP"), "nobody waits for one who talked"
        assert (await client.reply()).startswith("250-mx")
        await client.say("MAIL FROM:<a@example.net>")
        assert "early_talk" in stage.engine_.at("mail")[0].signs
        assert not memory_of(stage).kept, "it must wait again"


async def test_b5_who_waits_passes_and_need_not_wait_again() -> None:
    async with staged(SHORT) as stage:
        client, first = await greeted(stage)
        assert first.startswith("220-")
        assert (await client.reply()).startswith("220 mx.example.com")
        await client.say("EHLO patient.example.net")
        await client.say("MAIL FROM:<a@example.net>")
        assert not stage.engine_.at("mail")[0].signs
        assert memory_of(stage).kept == [("127.0.0.1", 3600.0)]
        stage.engine_.manners = policy(LONG)
        stage.front.follow(stage.rules())
        _, again = await greeted(stage)
        assert again.startswith("220 ")
        assert memory_of(stage).asked == 1, "this worker knew"


async def test_the_greeting_waits_and_nobody_else_does() -> None:
    """Thirty clients are kept waiting; a known one is served meanwhile."""
    async with staged(LONG) as stage:
        waiting = await asyncio.gather(*(greeted(stage) for _ in range(30)))
        assert {first[:4] for _, first in waiting} == {"220-"}
        memory_of(stage).known = True
        client = await stage.hello()
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")


@pytest.mark.parametrize(
    ("sections", "memory"),
    [
        ({"gateway": {"trusted_relays": ["127.0.0.1"]}}, Memory()),
        ({"listen": {"xclient": ["127.0.0.1"]}}, Memory()),
        ({"listen": {"role": "outbound"}}, Memory()),
        ({}, Memory(known=True)),
    ],
    ids=["trusted relay", "xclient", "outbound", "known-good or waited"],
)
async def test_who_is_known_never_waits(sections: dict[str, Any], memory: Memory) -> None:
    async with staged(LONG, memory, **sections) as stage:
        client = await stage.hello()
        assert (await client.say("NOOP")).startswith("250")


async def test_no_wait_is_configured_or_the_check_is_off() -> None:
    for manners in (policy(0.0), policy(LONG, "off")):
        async with staged(0.0, manners=manners) as stage:
            _, first = await greeted(stage)
            assert first.startswith("220 ") and not memory_of(stage).asked


async def test_an_exception_by_the_clients_name_lets_it_in_at_once() -> None:
    tests = (compile_test("client_name", ".example.org"),)
    exempt = Exemption(index=0, tests=tests, facts=frozenset({"client_name"}), sets={"wait": "0s"})
    manners = policy(LONG, exceptions=(exempt,), derive=lambda _: policy(0.0))
    stage = staged(LONG, manners=manners)
    stage.name = ClientName("mx.example.org", "mx.example.org", "pass")
    async with stage:
        _, first = await greeted(stage)
        assert first.startswith("220 ")


async def test_without_stated_the_worker_decides_alone() -> None:
    async with staged(SHORT, Memory(away=True)) as stage:
        client, first = await greeted(stage)
        assert first.startswith("220-") and (await client.reply()).startswith("220 ")
        _, again = await greeted(stage)
        assert again.startswith("220 ")


async def test_who_hangs_up_while_it_waits_has_not_waited() -> None:
    async with staged(LONG) as stage:
        client, _ = await greeted(stage)
        client.writer.write_eof()
        await client.ended()
        other, _ = await greeted(stage)
        other.reset()
        while stage.front.sessions:
            await asyncio.sleep(0.005)
        assert not memory_of(stage).kept and not stage.front.waited.has("127.0.0.1", 0.0)


async def test_a_client_that_is_refused_at_connect_gets_no_teaser() -> None:
    stage = staged(LONG, gateway={"delay_reject": False})
    stage.engine_.rules["connect"] = lambda ctx: Decision(verb="reject", reply="554 5.7.1 No")
    async with stage:
        client = await stage.connect(banner=False)
        assert (await client.line()).startswith("554 5.7.1")


async def test_the_wait_is_shorter_when_connections_run_out() -> None:
    """A third of 3 s: measured against the whole."""
    async with staged(3.0, limits={"connections": 4, "connections_reserve": 0}) as stage:
        crowd = await asyncio.gather(*(greeted(stage) for _ in range(3)))
        began = asyncio.get_running_loop().time()
        client, _ = await greeted(stage)
        assert stage.front.connections.stressed
        await client.reply()
        assert 0.98 <= asyncio.get_running_loop().time() - began < 2.9
        assert crowd


async def test_behind_a_proxy_the_client_itself_waits() -> None:
    async with staged(LONG, listen={"proxy": ["127.0.0.0/8"]}) as stage:
        client = await stage.connect(banner=False)
        client.send(b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\n")
        assert (await client.line()).startswith("220-")
        client.send(b"EHLO hasty\r\n")
        assert (await client.line()).startswith("220 ")
        await client.reply()
        await client.say("MAIL FROM:<a@example.net>")
        [ctx] = stage.engine_.at("mail")
        assert ctx.client.address == "192.0.2.5" and "early_talk" in ctx.signs


def memory_of(stage: Stage) -> Memory:
    assert isinstance(stage.senders, Memory)
    return stage.senders


# ---------------------------------------------------------------------- the check


@pytest.mark.parametrize(
    ("stage", "signs", "outcome"),
    [
        ("helo", {"early_talk", "pipelining"}, "talked"),
        ("helo", {"pipelining"}, "pipelined"),
        ("rcpt", {"bare_lf"}, "waited"),
        ("message", {"bare_lf", "early_talk"}, "bare_lf"),
        ("message", {"early_talk", "pipelining"}, "waited"),
        ("mail", {"lenient_syntax"}, "waited"),
        ("mail", set(), "waited"),
    ],
)
def test_what_the_server_saw_as_outcomes(stage: Any, signs: set[str], outcome: str) -> None:
    ctx = Context(stage=stage, client=Peer(address="192.0.2.1"), signs=frozenset(signs))
    assert early_talker.check(ctx, early_talker.Policy(), None).outcome == outcome  # type: ignore[arg-type]
