"""An ldap connection that is given up while a thread is in it: the thread is woken, and closes it itself."""

import asyncio
import gc
import socket
import ssl
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.mail.ports import Unavailable
from appliance.tables.ldap_answers import Answers
from appliance.tables.proxied import open_proxied
from appliance.tables.proxied.base import Step
from appliance.tables.proxied.ldap_lines import Lines, close
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


async def test_a_connection_that_is_made_when_nobody_waits_for_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread had begun, and had nothing yet that could be closed."""
    kind, begun, go_on, gone = KINDS["ldap"], threading.Event(), threading.Event(), asyncio.Event()
    opened = Lines.open

    def late(lines: Lines, *args: Any, **more: Any) -> Any:
        begun.set()
        go_on.wait(10)
        return opened(lines, *args, **more)

    async def act(good: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        gone.set()

    monkeypatch.setattr(Lines, "open", late)
    async with Hostile(kind.good, act) as server:
        table = open_proxied(kind.spec(server.port, tmp_path))
        asking = asyncio.ensure_future(table.get("joe@example.com", Step()))
        assert await asyncio.to_thread(begun.wait, 5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        go_on.set()
        gc.disable()
        try:
            await asyncio.wait_for(gone.wait(), 3)
        finally:
            gc.enable()
        table.close()


def test_what_a_thread_still_says_is_not_said_without_tls() -> None:
    """A connection that is given up is ended below its TLS: the password of the bind may be about to go."""
    ours, theirs = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    line = context.wrap_socket(ours, server_hostname="ldap.example.com", do_handshake_on_connect=False)
    connection: Any = SimpleNamespace(socket=line, turn=threading.Lock(), over=False)
    with connection.turn:
        close(connection)
    assert line._sslobj is not None  # type: ignore[attr-defined]
    assert theirs.recv(1) == b""
    line.close()
    theirs.close()
