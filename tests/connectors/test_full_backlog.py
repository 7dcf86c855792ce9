"""A server whose system takes no connection more (its backlog is full): the connect itself hangs, in bounded time, and
the step is named; whoever must answer the mail has the default. For every kind of peer that is reached by a connect."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.connectors import conversation, milter_health, policy, probing, proxy_filter
from appliance.connectors.milters import Milters
from appliance.connectors.policy import PolicyClients
from appliance.connectors.proxy_filter import ProxyFilters
from appliance.mail.ports import Unavailable
from appliance.protocol.smtp.address import Address
from appliance.tables import wire
from appliance.tables.known import launch
from appliance.tables.proxied import Asked, open_proxied
from appliance.tables.proxied.keeper import Keeper
from tests.connectors import test_milter_faults as milter_faults
from tests.connectors import test_policy_clients as policy_clients
from tests.connectors import test_proxy_filter as proxy_filters
from tests.connectors import test_scanner_faults as scanner_faults
from tests.connectors import test_smtp_faults as smtp_faults
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.connectors.test_scanner_amavis import Amavis
from tests.peers.good_scanners import KINDS as SCANNERS
from tests.peers.good_tables import KINDS as TABLES
from tests.peers.hostile import Hostile
from tests.tables import test_known_faults as sources

pytestmark = pytest.mark.asyncio


@contextlib.contextmanager
def full() -> Iterator[int]:
    """A port of 127.0.0.1 where a connect neither succeeds nor fails."""
    with contextlib.ExitStack() as held:
        listening = held.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):
            filler = held.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(listening.getsockname())
            except TimeoutError:
                break
        else:
            pytest.fail("this system takes every connection")
        yield listening.getsockname()[1]


@pytest.mark.parametrize("name", TABLES)
async def test_a_table(name: str, tmp_path: Path) -> None:
    def opened(spec: str) -> Asked:
        table = open_proxied(spec)
        table.deadline = 0.7
        return table

    with full() as port:
        spec, tables = TABLES[name].spec(port, tmp_path), Keeper(opened)
        assert tables.also([spec]) == []
        async with asyncio.timeout(8):
            state, why, _ = await tables.answer(spec, "joe@example.com")
        assert state == wire.FAILED and why.endswith(f"(connecting to 127.0.0.1:{port})"), why
        tables.close()


async def test_a_policy_service(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(policy.maillog, "capped", lambda _cause, text: lines.append(text))
    with full() as port:
        clients = PolicyClients()
        async with asyncio.timeout(8):
            with pytest.raises(Unavailable):
                await clients.ask(policy_clients.service(port, timeout=1.0), policy_clients.ASK, "ID1")
        (line,) = lines
        assert f"127.0.0.1:{port}" in line and "connect" in line, line
        clients.close()


async def test_a_milter(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []

    class Log:
        def error(self, text: str, **more: Any) -> None:
            lines.append({"text": text} | more)

        warning = error

    monkeypatch.setattr(milter_health, "log", Log())
    with full() as port:
        milters, one = Milters("mx.example.com", 1 << 20), milter_faults.milter(port, **milter_faults.QUICK)
        milters.follow((one,), "mx.example.com", 1 << 20)
        link = milters.link(one)
        async with asyncio.timeout(8):
            assert (await milter_faults.played(link))[-1] == "failed"
        (line,) = lines
        assert line["step"] == "connecting", line
        link.close()
        milters.close()


@pytest.mark.parametrize("kind", SCANNERS)
async def test_a_scanner(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "GRACE", 0.1)
    with full() as port:
        scanner = scanner_faults.scanner_of(kind, port, rest=0.0)
        async with asyncio.timeout(8):
            found = await scanner.scan(Message(MAIL), context("T7"))
        assert found.kind == "error" and str(port) in found.why and "connect" in found.why, found.why
        scanner.close()


def at(port: int) -> Hostile:
    """What a helper that is made for a hostile server takes: only where to connect."""
    return cast("Hostile", SimpleNamespace(port=port))


async def test_an_amavisd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the file that was lent to it is gone."""
    monkeypatch.setattr(conversation, "GRACE", 0.1)
    with full() as port:
        async with Amavis(tmp_path, at(port), 0.5) as amavis, asyncio.timeout(8):
            found = await amavis.scanner.scan(Message(MAIL), context("T7"))
            assert found.kind == "error" and str(port) in found.why and "connect" in found.why, found.why
            assert "1 (last: T7)" in amavis.scanner.condition.facts()["not scanned"]
            while list(amavis.shared.iterdir()):
                await asyncio.sleep(0.01)


async def test_a_filter_before_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    said = SimpleNamespace(error=lambda text, **more: lines.append({"text": text} | more))
    monkeypatch.setattr(proxy_filter, "log", said)
    with full() as port:
        filters, asked = ProxyFilters(1), proxy_filters.settings(port, timeout=0.4)
        filters.follow([asked])
        async with asyncio.timeout(8):
            with pytest.raises(Unavailable):
                await proxy_filters.handed(filters.of(asked))
        (line,) = lines
        assert "connect" in line["step"] and str(port) in line["address"] and line["transaction"] == "4F00", line
        (wrong,) = filters.health()["degraded"]
        assert wrong["touched"] == 1 and wrong["last"] == ["4F00"]
        filters.close()


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
async def test_a_next_hop_and_a_filter_behind_the_queue(protocol: str) -> None:
    with full() as port:
        async with asyncio.timeout(8):
            result = await smtp_faults.delivered(port, protocol, smtp_faults.QUICK)
        assert result.kind == "deferred" and "connect" in result.text and "127.0.0.1" in result.text, result


async def test_a_server_that_is_asked_for_recipients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "REST", 0.0)
    with full() as port:
        async with smtp_faults.asking(at(port)) as ahead, asyncio.timeout(8):
            probe = await ahead.probe(Address("bob", "example.com", "bob@example.com"))
        assert probe.state == "unverifiable" and probe.reply, probe


@pytest.mark.parametrize("kind", sources.KINDS)
async def test_a_source_of_recipients(kind: str, tmp_path: Path) -> None:
    asking = sources.Asking(tmp_path)
    with full() as port:
        async with asyncio.timeout(20):
            outcome = await launch.run(asking.order(sources.origin(kind, port), timeout=1.5))
        assert f"127.0.0.1:{port}" in outcome.problem and "connect" in outcome.problem, outcome.problem
        assert asking.unchanged() and outcome.count == len(sources.OLD)
