"""What a connection of a policy client holds while it is there."""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

import pytest

from appliance.daemons.policyd import connection
from appliance.mail.context import Context
from appliance.mail.verdict import ACCEPT, Decision
from appliance.protocol.policy import encode_request
from tests.daemons.policyd.stage import Stage
from tests.peers.policy import RCPT

#: Octets that come at once, or wait in a transport before it says so.
PIECE = 256 * 1024


async def test_who_reads_no_answers_is_not_read_from(tmp_path: Path) -> None:
    """What he says stays at his socket: neither requests nor answers pile up here."""
    async with Stage(tmp_path) as stage:

        def judge(_ctx: Context) -> Decision:
            return ACCEPT

        stage.engine.rules["rcpt"] = judge
        reader, writer = await asyncio.open_unix_connection(stage.path)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        number, most, still = 0, 0, 0
        while still < 10:
            writer.write(b"".join(encode_request(RCPT | {"instance": f"{number + one}"}) for one in range(500)))
            number += 500
            try:
                async with asyncio.timeout(0.2):
                    await writer.drain()
                still = 0
            except TimeoutError:
                still += 1
            for one in stage.front.connections:
                if one.transport is not None:
                    most = max(most, one.transport.get_write_buffer_size())
            assert number < 200_000, "it is read for ever"
        assert 0 < most < PIECE
        with contextlib.suppress(OSError):
            writer.transport.abort()


def descriptors() -> set[str]:
    """What this process holds open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return found


async def ask_and_take_nothing(stage: Stage) -> tuple[socket.socket, int]:
    """A client that asks until nothing more is heard; the number of its questions."""
    stage.engine.rules["rcpt"] = lambda _ctx: ACCEPT
    client = socket.socket(socket.AF_UNIX)
    client.connect(stage.path)
    client.setblocking(False)
    number = still = 0
    while still < 10:
        try:
            client.send(encode_request(RCPT | {"instance": f"{number}"}))
        except BlockingIOError:
            still += 1
            await asyncio.sleep(0.02)
        else:
            number, still = number + 1, 0
            await asyncio.sleep(0)
    return client, number


async def test_who_reads_no_answers_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent for too long, he is hung up on; what he does not take then is thrown away, and his place is free."""
    monkeypatch.setattr(connection, "LINGER", 0.5)
    async with Stage(tmp_path, idle="3s") as stage:
        client, _ = await ask_and_take_nothing(stage)
        (held,) = stage.front.connections
        assert held.transport is not None and held.transport.get_write_buffer_size()
        at = held.transport.get_extra_info("socket").fileno()
        name = os.readlink(f"/proc/self/fd/{at}")
        async with asyncio.timeout(10):
            while stage.front.connections:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0)
        assert name not in descriptors()
        assert stage.front._places("policy") == stage.rules.doors["policy"].front.connections
        client.close()


async def test_who_reads_in_time_hears_what_was_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hung up on with answers under way, a client has LINGER seconds to take them."""
    monkeypatch.setattr(connection, "LINGER", 15.0)
    async with Stage(tmp_path, idle="3s") as stage:
        client, _ = await ask_and_take_nothing(stage)
        (held,) = stage.front.connections
        assert held.transport is not None
        async with asyncio.timeout(10):
            while not held.transport.is_closing():
                await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        left, heard, since = held.transport.get_write_buffer_size(), b"", time.monotonic()
        assert left, "it is still there"
        with contextlib.suppress(ConnectionResetError):  # of what was not read
            while piece := await asyncio.get_running_loop().sock_recv(client, PIECE):
                heard += piece
        assert len(heard) >= left and heard.endswith(b"\n\n")
        assert time.monotonic() - since < 10
        assert not stage.front.connections
        client.close()
