"""A server whose system takes no connection more (its backlog is full): the connect itself hangs, in bounded time, and
the step is named; whoever must answer the mail has the default. For tables, policy services, milters and scanners."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.connectors import conversation, milter_health, policy
from appliance.connectors.milters import Milters
from appliance.connectors.policy import PolicyClients
from appliance.mail.ports import Unavailable
from appliance.tables import wire
from appliance.tables.proxied import Asked, open_proxied
from appliance.tables.proxied.keeper import Keeper
from tests.connectors import test_milter_faults as milter_faults
from tests.connectors import test_policy_clients as policy_clients
from tests.connectors import test_scanner_faults as scanner_faults
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.peers.good_scanners import KINDS as SCANNERS
from tests.peers.good_tables import KINDS as TABLES

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
        async with asyncio.timeout(3):
            state, why, _ = await tables.answer(spec, "joe@example.com")
        assert state == wire.FAILED and why.endswith(f"(connecting to 127.0.0.1:{port})"), why
        tables.close()


async def test_a_policy_service(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(policy.maillog, "capped", lambda _cause, text: lines.append(text))
    with full() as port:
        clients = PolicyClients()
        async with asyncio.timeout(3):
            with pytest.raises(Unavailable):
                await clients.ask(policy_clients.service(port), policy_clients.ASK, "ID1")
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
        milters, one = Milters("mx.example.com", 1 << 20), milter_faults.milter(port)
        milters.follow((one,), "mx.example.com", 1 << 20)
        link = milters.link(one)
        async with asyncio.timeout(3):
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
        async with asyncio.timeout(3):
            found = await scanner.scan(Message(MAIL), context("T7"))
        assert found.kind == "error" and str(port) in found.why and "connect" in found.why, found.why
        scanner.close()
