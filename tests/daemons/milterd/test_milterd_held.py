"""What a connection of an MTA holds while it is there, and that it holds nothing when it is gone."""

import asyncio
import contextlib
import gc
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.daemons.milterd import connection as connections
from appliance.daemons.milterd import front
from appliance.daemons.milterd.connection import HIGH, TURN, Connection
from appliance.mail.verdict import ACCEPT, Decision
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.negotiation import offer
from appliance.protocol.milter.words import Word
from tests.daemons.milterd.stage import Stage
from tests.daemons.milterd.test_milterd_faults import OFFER, idle, raw

MESSAGE = b"".join(
    map(encode, (p.Mail(b"<a@b.example>"), p.Rcpt(b"<c@example.com>"), p.Data(), p.EndOfHeader(), p.EndOfMessage()))
)
CONNECT = encode(p.Connect(b"x", "4", 1, b"192.0.2.1"))
#: Octets that come at once.
PIECE = 256 * 1024


async def stuff(writer: asyncio.StreamWriter, connection: Any, octets: int) -> int:
    """Send messages until no more is taken; the most octets that waited here."""
    flood, most, sent = MESSAGE * 2000, 0, 0
    while sent < octets:
        writer.write(flood)
        sent += len(flood)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await writer.drain()
        most = max(most, connection.machine.unread)
        if connection._paused and writer.transport.get_write_buffer_size() > len(flood):
            break
    return most


async def test_who_reads_no_answers_is_not_read_from(tmp_path: Path) -> None:
    """What he says stays at his socket: neither questions nor answers pile up here."""
    async with Stage(tmp_path) as stage:
        _, writer = await raw(stage, OFFER, CONNECT)
        while not stage.front.connections:
            await asyncio.sleep(0)
        (connection,) = stage.front.connections
        assert await stuff(writer, connection, 64 << 20) < HIGH + 2 * PIECE
        assert connection.transport is not None and connection.transport.get_write_buffer_size() < 2 * PIECE
        writer.transport.abort()
        await idle(stage)
        assert not connection.machine.unread, "nor is it kept when he is gone"


async def test_a_flood_in_turns_is_read_no_faster_than_it_is_heard(tmp_path: Path) -> None:
    """A turn of the loop may bring more octets than it hears."""
    body = p.EndOfHeader(), p.Body(b"x" * 60_000), p.EndOfMessage()
    flood = b"".join(map(encode, (p.Mail(b"<a@b.example>"), p.Rcpt(b"<c@example.com>"), p.Data(), *body))) * 120
    async with Stage(tmp_path) as stage:
        most = 0

        def judge(_ctx: object) -> Decision:
            nonlocal most
            most = max(most, *(one.machine.unread for one in stage.front.connections))
            until = time.monotonic() + TURN
            while time.monotonic() < until:
                pass
            return ACCEPT

        stage.engine.rules["mail"] = judge
        reader, writer = await raw(stage, OFFER, CONNECT, flood, encode(p.Quit()))
        async with asyncio.timeout(60):
            while await reader.read(1 << 16):
                continue
        writer.close()
        await idle(stage)
        assert len(stage.engine.at("message")) == 120, "all of it was heard"
        assert PIECE < most < HIGH + 2 * PIECE < len(flood) / 2


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_a_connection_that_ended_waits_for_no_collector(tmp_path: Path, no_collector: None) -> None:
    """Cycles are looked for seldom: until then whatever hangs on them is held."""
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        await mta.message()
        _, writer = await raw(stage, OFFER, CONNECT, MESSAGE[:30])
        while len(stage.front.connections) < 2:
            await asyncio.sleep(0)
        gone = [weakref.ref(held) for one in stage.front.connections for held in (one, one.session, one.machine)]
        mta.close()
        writer.close()
        await idle(stage)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [held() for held in gone] == [None] * 6


async def take_nothing(stage: Stage) -> tuple[socket.socket, Connection]:
    """An MTA that says HELO until nothing more is heard, and reads no answer."""
    mta = socket.socket(socket.AF_UNIX)
    mta.connect(stage.path)
    mta.setblocking(False)
    mta.send(encode(offer(2)))
    while not stage.front.connections:
        await asyncio.sleep(0)
    (connection,) = stage.front.connections
    assert connection.transport is not None
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    flood, still = encode(p.Helo(b"a")) * 500, 0
    mta.send(CONNECT)
    while still < 10:
        try:
            mta.send(flood)
        except BlockingIOError:
            still += 1
            await asyncio.sleep(0.02)
        else:
            still = 0
            await asyncio.sleep(0)
    assert connection._choked
    return mta, connection


def soon(monkeypatch: pytest.MonkeyPatch, linger: float) -> None:
    monkeypatch.setattr(front, "LOOK", 0.02)
    monkeypatch.setattr(connections, "LINGER", linger)


async def test_who_reads_no_answers_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent for too long, he is hung up on; what he does not take then is thrown away."""
    soon(monkeypatch, 0.5)
    async with Stage(tmp_path, idle="1s") as stage:
        mta, connection = await take_nothing(stage)
        assert connection.transport is not None
        at = connection.transport.get_extra_info("socket").fileno()
        name = os.readlink(f"/proc/self/fd/{at}")
        async with asyncio.timeout(10):
            await idle(stage)
        await asyncio.sleep(0)
        held = set()
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                held.add(os.readlink(f"/proc/self/fd/{number}"))
        assert name not in held
        assert stage.front._places("milter") == stage.rules.doors["milter"].front.connections
        mta.close()


async def test_who_takes_answers_slowly_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hung up on with answers under way, an MTA hears all of them as long as it takes some; nothing more is judged."""
    soon(monkeypatch, 0.5)
    async with Stage(tmp_path, idle="1s") as stage:
        mta, connection = await take_nothing(stage)
        transport = connection.transport
        assert transport is not None
        async with asyncio.timeout(10):
            while not transport.is_closing():
                await asyncio.sleep(0.01)
        left, unread, heard, since = transport.get_write_buffer_size(), connection.machine.unread, 0, time.monotonic()
        with contextlib.suppress(ConnectionResetError):  # of what was not read
            while piece := await asyncio.get_running_loop().sock_recv(mta, left // 12):
                heard += len(piece)
                if stage.front.connections:
                    assert connection.machine.unread == unread > 0
                if time.monotonic() - since < 1.5:
                    await asyncio.sleep(0.2)
        assert time.monotonic() - since > 1.0, "longer than one LINGER"
        assert heard >= left > 0
        await idle(stage)
        mta.close()


async def test_who_reads_at_last_hears_an_answer_to_each_question(tmp_path: Path) -> None:
    """What was said while no answer was taken waits here; nothing more has to come for it to be heard."""
    async with Stage(tmp_path) as stage:
        mta, connection = await take_nothing(stage)
        waiting = connection.machine.unread // len(encode(p.Helo(b"a")))
        assert waiting > 100 and connection.transport is not None
        heard = 0
        async with asyncio.timeout(20):
            while connection.machine.unread or connection.transport.get_write_buffer_size():
                heard += len(await asyncio.get_running_loop().sock_recv(mta, 1 << 16))
        with contextlib.suppress(BlockingIOError):
            while piece := mta.recv(1 << 16):
                heard += len(piece)
        answer = len(encode(p.Reply(Word.CONTINUE)))
        assert heard > waiting * answer and heard % answer == 17 % answer, "the answer to the offer and whole ones"
        mta.close()
        await idle(stage)
