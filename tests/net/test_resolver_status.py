"""What status says of name servers: which fail, how many messages went without an answer, which; and when it is over."""

import asyncio
import re
from typing import Any

import pytest

from appliance.net import resolver as resolvers
from appliance.net.resolver import Resolver
from appliance.observe import metrics, trouble
from appliance.protocol import quota
from appliance.protocol.errors import Unavailable
from tests.net.nameserver import answer
from tests.net.test_resolver import resolver, rubbish, script

SILENT = lambda query, how: []  # noqa: E731
WELL = script("@ 300 IN A 192.0.2.1")


async def asked(dns: Resolver, message: str, name: str) -> bool:
    """As a check of that message asks; whether there was an answer."""
    before = quota.current.set(quota.Quota(message=message))
    try:
        await dns.query(name, "A")
    except Unavailable:
        return False
    finally:
        quota.current.reset(before)
    return True


def said(dns: Resolver) -> dict[str, Any]:
    return trouble.merged(dns.health()["degraded"])


def gauge(server: Any) -> str:
    text = f'postgate_dns_server_degraded{{server="{server.address}"}} '
    [line] = [line for line in metrics.exposition().decode().splitlines() if line.startswith(text)]
    return line.removeprefix(text)


@pytest.mark.parametrize(
    ("play", "why"),
    [
        (SILENT, "did not answer in time for"),
        (script(rcode=5), "answered REFUSED for"),
        (rubbish, "answered rubbish for"),
    ],
)
async def test_messages_without_an_answer_are_named_until_there_is_one(nameserver, play, why, capfd):
    nameserver.script = play
    dns = resolver(nameserver, timeout=0.2 if play in (SILENT, rubbish) else 10.0)
    for number, message in enumerate(("A1", "A2", "A2", "A3")):
        assert not await asked(dns, message, f"{number}.example.com")
    assert not await asked(dns, "A4", "0.example.com"), "the failure is remembered"
    [(what, one)] = said(dns).items()
    assert what == "no DNS server answers"
    assert one["why"].startswith(f"{nameserver.address} {why} ") and re.search(r", after \d\.\d s$", one["why"])
    assert (one["touched"], one["last"]) == (4, ["A1", "A2", "A3", "A4"])
    assert gauge(nameserver) == "1.0"
    nameserver.script, dns._timeout = WELL, 10.0
    assert await asked(dns, "A5", "well.example.com")
    assert said(dns) == {} and gauge(nameserver) == "0.0"
    lines = [line.partition(": ")[2] for line in capfd.readouterr().err.splitlines()]
    assert [line.partition(" why=")[0] for line in lines] == [
        f"error: name server fails: server={nameserver.address}",
        f"warning: name server well again: server={nameserver.address}",
    ]


async def test_who_gave_up_waiting_went_without_an_answer_too(nameserver):
    nameserver.script = SILENT
    dns = resolver(nameserver, timeout=0.2)
    for number in range(2):
        await asked(dns, "", f"{number}.example.com")
    waiting = asyncio.create_task(asked(dns, "A1", "x.example.com"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert said(dns)["no DNS server answers"]["last"] == ["A1"]


async def test_a_domain_that_fails_touches_nobody(nameserver):
    nameserver.script = script(rcode=2)
    dns = resolver(nameserver)
    for number in range(20):
        assert not await asked(dns, "A1", f"{number}.example.com")
    nameserver.script, dns._timeout = SILENT, 0.2
    for number in range(20, 22):
        assert not await asked(dns, "A2", f"{number}.example.com")
    assert said(dns)["no DNS server answers"]["last"] == ["A2"]


async def test_one_of_two_is_named_and_touches_nobody(nameserver, second_nameserver, monkeypatch):
    nameserver.script, second_nameserver.script = SILENT, WELL
    dns = resolver(nameserver, second_nameserver, timeout=3.0)
    assert await asked(dns, "A1", "2.example.com")
    assert said(dns) == {}, "once is no trouble; but the other one is asked from now on"
    monkeypatch.setattr(resolvers, "_LOOK", 0.0)
    async with asyncio.timeout(20):
        while not said(dns):
            await asyncio.sleep(0.05)
    [(what, one)] = said(dns).items()
    assert (what, one["touched"]) == (f"DNS server {nameserver.address} fails", 0)
    assert "did not answer in time for 2.example.com" in one["why"]
    assert (gauge(nameserver), gauge(second_nameserver)) == ("1.0", "0.0")
    nameserver.script = WELL
    async with asyncio.timeout(20):
        while said(dns):
            await asyncio.sleep(0.05)
    assert gauge(nameserver) == "0.0"


async def test_who_is_back_is_seen_though_nobody_needs_it(nameserver, monkeypatch):
    nameserver.script = SILENT
    dns = resolver(nameserver, timeout=0.2)
    for number in range(2):
        await asked(dns, "A1", f"{number}.example.com")
    before = len(nameserver.asked)
    assert "no DNS server answers" in said(dns)
    await asyncio.sleep(0.05)
    assert len(nameserver.asked) == before, "not at each look"
    monkeypatch.setattr(resolvers, "_LOOK", 0.0)
    nameserver.script = lambda query, how: [answer(query, soa="com. 60 60").to_wire()]
    async with asyncio.timeout(20):
        while said(dns):
            await asyncio.sleep(0.01)
    assert nameserver.asked[-1][0] == "1.example.com."


async def test_who_stays_away_is_in_trouble_still(nameserver, monkeypatch):
    monkeypatch.setattr(resolvers, "_LOOK", 0.0)
    nameserver.script = script(rcode=5)
    dns = resolver(nameserver)
    for number in range(3):
        await asked(dns, "A1", f"{number}.example.com")
    before = len(nameserver.asked)
    async with asyncio.timeout(20):
        while len(nameserver.asked) < before + 3:
            assert said(dns)["no DNS server answers"]["touched"] == 1
            await asyncio.sleep(0.01)
