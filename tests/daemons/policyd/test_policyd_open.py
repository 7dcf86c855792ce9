"""Connections that stay open: a reload reaches them, who asks on is not read from, a late answer names its mail."""

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest

from appliance.daemons.policyd import record
from appliance.daemons.policyd.rules import Door
from appliance.mail.verdict import ACCEPT, Decision, Verdict
from tests.daemons.policyd.stage import PlayedRules, Stage, request
from tests.daemons.policyd.whole import PLAIN, Server, build
from tests.daemons.policyd.whole import request as asking

pytestmark = pytest.mark.asyncio


def late(gate: asyncio.Event) -> object:
    async def answer() -> Decision:
        await gate.wait()
        return ACCEPT

    return lambda _ctx: answer()


async def test_a_reload_reaches_open_connections(tmp_path: Path) -> None:
    """Whose mail it is, and what is said by default, is what the new files say."""
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        await client.ask(client_address="198.51.100.9")
        assert (stage.engine.asked[-1].role, stage.engine.asked[-1].client.trusted_relay) == ("inbound", False)
        rules = PlayedRules(outbound=["198.51.100.0/24"], default="dunno")
        rules.doors = {"policy": Door(rules.doors["policy"].front, (ip_network("203.0.113.0/24"),))}
        stage.front.follow(rules)
        await client.ask(client_address="198.51.100.9", instance="2")
        assert rules.played.asked[-1].role == "outbound"
        await client.ask(client_address="203.0.113.9", instance="3")
        assert rules.played.asked[-1].client.trusted_relay and rules.played.asked[-1].role == "inbound"
        rules.played.rules["rcpt"] = lambda ctx: 1 / 0
        assert await client.ask(instance="4") == "DUNNO"


async def test_who_asks_on_while_an_answer_is_sought_is_not_read_from(tmp_path: Path) -> None:
    """A Postfix never does; what waits here has a bound."""
    async with Stage(tmp_path) as stage:
        gate = asyncio.Event()
        stage.engine.rules["rcpt"] = late(gate)  # type: ignore[assignment]
        client = await stage.client()
        still = 0
        while still < 5:
            client.writer.write(b"".join(request(instance=f"{still}.{number}") for number in range(200)))
            try:
                async with asyncio.timeout(0.1):
                    await client.writer.drain()
            except TimeoutError:
                still += 1
            assert sum(len(one._backlog) for one in stage.front.connections) < 2000, "it is read for ever"
        stage.engine.rules.clear()
        gate.set()
        assert await client.answer() == "DUNNO"
        client.close()


async def test_a_late_answer_about_what_is_alike_names_its_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(record.maillog, "capped", lambda cause, text: said.append(text))

    server = Server([build(tmp_path / "a", **PLAIN)], True)
    for number in range(2):
        await server.ask(0, asking(instance=f"a{number}", recipient=f"a{number}@example.com"))
    for number, name in enumerate(("never1", "never2")):  # one is alike those before it, one is behind a late one
        connection, wire = server.connections[0]
        assert not await server.ask(0, asking(instance=f"late{number}", recipient=f"{name}@example.com"))
        assert isinstance(connection._waiting, tuple)
        connection.look(server.front.loop.time() + 21)
        server.front.outbox.flush()
        assert wire.out.startswith(b"action=DEFER_IF_PERMIT 4.3.0")
        message = server.front.messages.find(f"late{number}", "192.0.2.7", server.wall)
        assert message is not None and f"; {message.id} from " in said[-1]
        assert said[-1].endswith(f" to=<{name}@example.com>") and "no answer within 20 s" in said[-1]
    (told,) = server.front.degraded()
    assert not isinstance(told, str) and told["touched"] == 2 and told["last"][-1] == message.id
    assert (await server.ask(0, asking(instance="m9", recipient="u9@example.com"))).startswith("action=DEFER")
    server.front._timer.cancel()


async def test_mail_of_our_own_side_gets_no_fields_for_those_inside(tmp_path: Path) -> None:
    marked = Decision(
        verb="accept",
        marks=("rdns:none",),
        verdicts=(Verdict(check="spf", outcome="none", authres=("spf=none smtp.mailfrom=example.org",)),),
    )
    async with Stage(tmp_path, outbound=["198.51.100.0/24"]) as stage:
        stage.engine.rules["rcpt"] = lambda ctx: marked
        client = await stage.client()
        assert (await client.ask(instance="1")).startswith("PREPEND ")
        assert await client.ask(instance="2", client_address="198.51.100.9") == "DUNNO"
