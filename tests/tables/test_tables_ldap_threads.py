"""An ldap connection that is given up while a thread is in it: the thread is woken, and closes it itself."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.mail.ports import Unavailable
from appliance.tables.ldap_answers import Answers
from appliance.tables.proxied import open_proxied
from appliance.tables.proxied.base import Step
from tests.peers.good_tables import KINDS
from tests.peers.hostile import Hostile, Question


async def test_a_descriptor_is_never_closed_under_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is another table's by the time the thread reads again, or says goodbye."""
    kind, received, hangs = KINDS["ldap"], Answers._received, asyncio.Event()
    woken, go_on, still_open, socks = threading.Event(), threading.Event(), list[bool](), list[Any]()

    async def act(good: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await good.read(reader, writer)
        hangs.set()
        await asyncio.Event().wait()

    def watched(answers: Answers) -> bytes:
        socks.append(answers._connection.socket)
        try:
            return received(answers)
        finally:
            woken.set()
            go_on.wait(10)
            still_open.append(socks[-1].fileno() >= 0)

    monkeypatch.setattr(Answers, "_received", watched)
    async with Hostile(kind.good, act) as server:
        table = open_proxied(kind.spec(server.port, tmp_path))
        asking = asyncio.ensure_future(table.get("joe@example.com", Step()))
        await asyncio.wait_for(hangs.wait(), 10)
        asking.cancel()
        with pytest.raises((asyncio.CancelledError, Unavailable)):
            await asking
        assert await asyncio.to_thread(woken.wait, 5)
        go_on.set()
        async with asyncio.timeout(10):
            while not still_open or socks[-1].fileno() >= 0:
                await asyncio.sleep(0.01)
        table.close()
    assert still_open == [True]
