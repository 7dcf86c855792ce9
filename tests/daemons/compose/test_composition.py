"""Composition: settings in, an engine that judges with real adapters out; nothing waits for who is away."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.config import blob
from appliance.config.snapshot import Snapshot, build
from appliance.daemons import compose
from appliance.daemons.compose import Composition
from appliance.daemons.skeleton import Birth
from appliance.mail.context import Client, Context
from appliance.mail.verdict import Decision
from appliance.net.channel import Channel
from appliance.observe import oplog
from appliance.stores import wire
from tests.engine.scripted import address, recipient

WIRING = """
[gateway]
hostname = "mx.example.com"
state_dir = "state"
policies = "policies"
soft_bounce = {soft}
[relay]
domains = ["example.com"]
next_hop = "{hop}"
[dns]
nameservers = ["127.0.0.1:9"]
timeout = "1s"
zone = "zone"
"""
ZONE = b"1.2.0.192.in-addr.arpa. 60 IN PTR mail.example.net.\nmail.example.net. 60 IN A 192.0.2.1\n"
NO_STATE = {"ratelimit": 'mode = "off"\n', "greylist": 'mode = "off"\n'}
Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """An inner server that knows `known@` only; gives its next hop."""
    servers: list[asyncio.Server] = []

    async def start(*offers: str) -> str:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 inner ESMTP\r\n")
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    writer.write("\r\n".join(["250-inner", *[f"250-{o}" for o in offers], "250 HELP", ""]).encode())
                elif verb == b"RCPT":
                    writer.write(b"250 2.1.5 Ok\r\n" if b"<known@" in line else b"550 5.1.1 No such user\r\n")
                elif verb == b"QUIT":
                    break
                else:
                    writer.write(b"250 2.0.0 Ok\r\n")
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        servers.append(server)
        return f"smtp:[127.0.0.1]:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()


def snapshot(folder: Path, hop: str, soft: str = "false", more: str = "", **policies: str) -> Snapshot:
    (folder / "policies").mkdir(exist_ok=True)
    for name, text in (NO_STATE | policies).items():
        (folder / "policies" / f"{name}.toml").write_text(text)
    (folder / "zone").write_bytes(ZONE)
    (folder / "postgate.toml").write_text(WIRING.format(hop=hop, soft=soft) + more)
    return build(blob.read(str(folder / "postgate.toml")))


def composition(folder: Path, found: Snapshot) -> Composition:
    rendezvous = {name: str(folder / f"{name}.sock") for name in ("stated", "scand")}
    return Composition(
        Birth(
            service="smtpd",
            index=0,
            snapshot=found,
            listening={},
            rendezvous=rendezvous,
            state_dir=folder,
            certificates={},
        )
    )


async def decide(made: Composition, found: Snapshot, to: str) -> Decision:
    """What a client of the zone is answered at RCPT."""
    name = await made.client_name("192.0.2.1")
    client = Client(address="192.0.2.1", name=name.name, reverse_name=name.reverse, proof=name.proof)
    engine, trail = made.engine(found), ()
    decision: Any = None
    for stage in ("connect", "helo", "mail", "rcpt"):
        ctx = Context(
            stage=stage,  # type: ignore[arg-type]
            transaction="ID1",
            client=client,
            helo="mail.example.net",
            sender=address("s@example.net"),
            recipient=recipient(to) if stage == "rcpt" else None,
            now=1_700_000_000.0,
            trail=trail,
        )
        decision = engine.ask(ctx)
        decision = decision if isinstance(decision, Decision) else await decision
        trail += decision.verdicts
    return decision


async def test_the_engine_judges_with_what_was_composed(tmp_path: Path, serve: Serve) -> None:
    found = snapshot(tmp_path, await serve("SMTPUTF8", "8BITMIME"))
    made = composition(tmp_path, found)
    await made.open()
    try:
        assert (await made.client_name("192.0.2.1")).proof == "pass"
        assert (await decide(made, found, "known@example.com")).verb == "accept"
        unknown = await decide(made, found, "nobody@example.com")
        assert unknown.reply == "550 5.1.1 Recipient address rejected: no such mailbox here [ID1]"
        assert (await decide(made, found, "u@elsewhere.example")).reply == "550 5.7.1 Relaying denied [ID1]"
        assert made.takes_utf8(found)
    finally:
        await made.close()


async def test_smtputf8_is_not_offered_where_the_next_hop_does_not(tmp_path: Path, serve: Serve) -> None:
    found = snapshot(tmp_path, await serve("8BITMIME"))
    made = composition(tmp_path, found)
    await made.open()
    assert not made.takes_utf8(found)
    await made.close()


async def test_a_reload_is_followed(tmp_path: Path, serve: Serve) -> None:
    before = snapshot(tmp_path, await serve())
    made = composition(tmp_path, before)
    await made.open()
    old, resolver = made.engine(before), made.resolver
    after = snapshot(tmp_path, await serve(), soft="true", relay='mode = "monitor"\n')
    new = made.engine(after)
    made.adopt(after)
    assert made.resolver is resolver  # its settings are the same
    assert new.policies is after.policies and new.soft_bounce and not old.soft_bounce
    (tmp_path / "zone").write_bytes(ZONE.replace(b"mail.", b"other."))
    latest = build(blob.read(str(tmp_path / "postgate.toml")))
    used = made.engine(latest).ports.resolver
    made.adopt(latest)
    assert made.resolver is used is not resolver
    await made.close()


async def test_what_is_only_prepared_changes_nothing(tmp_path: Path, serve: Serve) -> None:
    """Another process may refuse the reload: then nobody must use anything of it."""
    before = snapshot(tmp_path, await serve(), more=SCANNERS)
    made = composition(tmp_path, before)
    await made.open()
    old, resolver, hops = made.engine(before), made.resolver, list(made.doors.all_hops())
    facts = made.scanners.facts().keys()
    snapshot(tmp_path, await serve(), more=SCANNERS.replace("clamav", "other"))
    (tmp_path / "zone").write_bytes(ZONE.replace(b"mail.", b"other."))
    after = build(blob.read(str(tmp_path / "postgate.toml")))
    new = made.engine(after)
    assert new.ports.resolver is not resolver and "other" in new.ports.scanners
    assert (made.resolver, list(made.doors.all_hops()), made.scanners.facts().keys()) == (resolver, hops, facts)
    assert made.engine(before).ports.scanners["clamav"] is old.ports.scanners["clamav"]
    assert (await decide(made, before, "known@example.com")).verb == "accept"
    made.adopt(after)
    assert made.resolver is new.ports.resolver and list(made.doors.all_hops()) != hops
    assert made.scanners.facts().keys() == {"scanner other (clamd)"}
    await made.close()


SCANNERS = """
[scanners.clamav]
kind = "clamd"
address = ["unix:/nowhere/clamd.ctl", "127.0.0.1:9"]
"""


async def test_configured_scanners_reach_the_checks(tmp_path: Path) -> None:
    found = snapshot(tmp_path, "smtp:[127.0.0.1]:9", more=SCANNERS)
    made = composition(tmp_path, found)
    await made.open()
    try:
        scanner = made.engine(found).ports.scanners["clamav"]
        assert scanner.kind == "clamd"
        assert made.engine(found).ports.scanners["clamav"] is scanner  # it outlives a reload
        assert "scanner clamav (clamd)" in made.health()
    finally:
        await made.close()


async def test_a_start_waits_a_moment_for_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects first must not be the one who is not greylisted."""
    monkeypatch.setattr(compose, "PATIENCE", 10.0)
    found = snapshot(tmp_path, "smtp:[127.0.0.1]:9")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "stated.sock"))
        listening.listen()
        made = composition(tmp_path, found)
        opening = asyncio.create_task(made.open())
        await asyncio.sleep(0.2)
        assert not opening.done() and not made.state.ready
        stated = Channel(listening.accept()[0])
        stated.send((0, [wire.HELLO]))
        await asyncio.wait_for(opening, 8)
        assert made.state.ready
        await made.close()
        stated.close()


async def test_everything_away_starts_all_the_same_and_says_so(tmp_path: Path) -> None:
    found = snapshot(tmp_path, "smtp:[127.0.0.1]:9", greylist='when = "always"\n')
    made = composition(tmp_path, found)
    await made.open()
    try:
        assert any(text.startswith("stated is away") for text in made.health()["degraded"])
        decision = await decide(made, found, "known@example.com")
        assert decision.verb == "defer" and decision.reply.startswith("451 4.1.1 ")
        assert not made.takes_utf8(found)
    finally:
        await made.close()


async def test_dns_lists_are_watched_asked_and_followed_over_reloads(tmp_path: Path, serve: Serve) -> None:
    lists = 'client = ["bl.example=127.0.0.[2..9]*2", "dead.example*9"]\nthreshold = 2\n[on]\nlisted = "reject"\n'
    found = snapshot(tmp_path, await serve("SMTPUTF8"), dnsbl=lists)
    (tmp_path / "zone").write_bytes(
        ZONE
        + b"bl.example. 60 IN SOA ns. host. 1 2 3 4 5\n2.0.0.127.bl.example. 60 IN A 127.0.0.2\n"
        + b'1.2.0.192.bl.example. 60 IN A 127.0.0.4\n1.2.0.192.bl.example. 60 IN TXT "spam source"\n'
        + b"dead.example. 60 IN SOA ns. host. 1 2 3 4 5\n*.dead.example. 60 IN A 203.0.113.1\n"
    )
    found = build(blob.read(str(tmp_path / "postgate.toml")))
    made = composition(tmp_path, found)
    await made.open()
    try:
        async with asyncio.timeout(5):
            while not made.dns_lists.trouble("dead.example", "address"):
                await asyncio.sleep(0)
        health = made.health()
        assert health["dns lists"]["bl.example (address)"] == "well"
        assert "DNS list dead.example is not asked: 203.0.113.1 is no answer of a DNS list" in health["degraded"]
        decision = await decide(made, found, "known@example.com")
        assert decision.verb == "reject" and decision.deciding is not None
        assert decision.reply == "554 5.7.1 Service unavailable: your host, name or message is on a block list [ID1]"
        assert "spam source" in decision.deciding.reason and "dead.example: 203" in decision.deciding.evidence["dead"][0]
        (tmp_path / "policies" / "dnsbl.toml").write_text("")
        after = build(blob.read(str(tmp_path / "postgate.toml")))
        made.adopt(after)
        assert made.health()["dns lists"] == {}
        assert (await decide(made, after, "known@example.com")).verb == "accept"
    finally:
        await made.close()


async def test_a_reload_to_a_public_resolver_is_said_and_shown(
    tmp_path: Path, serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path, await serve())
    made = composition(tmp_path, before)
    await made.open()
    try:
        assert "public" not in made.health()["dns"]
        wiring = tmp_path / "postgate.toml"
        wiring.write_text(wiring.read_text().replace('"127.0.0.1:9"', '"9.9.9.9", "[2001:4860:4860::8888]:53"'))
        capfd.readouterr()
        made.adopt(build(blob.read(str(wiring))))
        oplog.flush()
        said = [line for line in capfd.readouterr().err.splitlines() if "public resolver" in line]
        assert len(said) == 1 and "servers=2001:4860:4860::8888 (Google), 9.9.9.9 (Quad9)" in said[0]
        assert made.health()["dns"]["public"] == ["2001:4860:4860::8888 (Google)", "9.9.9.9 (Quad9)"]
    finally:
        await made.close()
