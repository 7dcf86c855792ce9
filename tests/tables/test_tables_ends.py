"""A look-up, or its table, that ends while something is under way: what becomes of its connection."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.mail.ports import Unavailable
from appliance.protocol import resp
from appliance.tables import wire
from appliance.tables.proxied import cf, keeper, mysql, open_proxied, redis, servers
from appliance.tables.proxied.base import Step
from appliance.tables.proxied.keeper import Keeper
from tests.peers.good_tables import KINDS
from tests.peers.hostile import Good, Hostile, Question, answers, reset

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
KEY = "joe@example.com"


async def test_no_descriptor_is_closed_while_the_loop_watches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whatever is connected next has its number, and is watched no more when the look-up lets go of it."""
    kind, asked, gone = KINDS["pgsql"], asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    remove, still_open = loop.remove_reader, list[bool]()

    async def act(good: Question, reader: Reader, writer: Writer) -> None:
        await good.read(reader, writer)
        asked.set()
        await reader.read()
        gone.set()

    def removed(fd: int) -> bool:
        still_open.append(os.path.exists(f"/proc/self/fd/{fd}"))
        return remove(fd)

    async with Hostile(kind.good, act) as server:
        table = open_proxied(kind.spec(server.port, tmp_path))
        asking = asyncio.ensure_future(table.get(KEY, Step()))
        await asyncio.wait_for(asked.wait(), 10)
        with monkeypatch.context() as patched:
            patched.setattr(loop, "remove_reader", removed)
            asking.cancel()
            with pytest.raises((asyncio.CancelledError, Unavailable)):
                await asking
            await asyncio.wait_for(gone.wait(), 10)
            async with asyncio.timeout(10):
                while not still_open:
                    await asyncio.sleep(0)
        table.close()
    assert still_open == [True]


class WhenTold:
    """Answers when it may go on, and hears the end of the connection."""

    def __init__(self) -> None:
        self.asked, self.go_on, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, good: Question, reader: Reader, writer: Writer) -> None:
        await good.read(reader, writer)
        self.asked.set()
        await self.go_on.wait()
        writer.write(good.answer)
        await reader.read()
        self.gone.set()


def kept(table: Any) -> list[Any]:
    """Its connections that nobody uses."""
    if isinstance(table, servers.ServerTable):
        return table._kept
    return [connection for found in table._pool._kept.values() for _, connection in found]


@pytest.mark.parametrize("name", ["redis", "mysql"])
async def test_a_kept_connection_that_was_reset_puts_nobody_off(name: str, tmp_path: Path) -> None:
    """A server that was killed, a firewall that has forgotten it: the next look-up has a new one."""
    kind, die = KINDS[name], asyncio.Event()

    async def act(good: Question, reader: Reader, writer: Writer) -> None:
        await answers(good, reader, writer)
        await die.wait()
        reset(writer)

    async with Hostile(kind.good, act) as server:
        table = open_proxied(kind.spec(server.port, tmp_path))
        assert await table.get(KEY, Step()) == "inside"
        (connection,) = kept(table)
        reader = connection.reader if isinstance(connection, redis.Connection) else connection._reader
        die.set()
        async with asyncio.timeout(10):
            while reader.exception() is None:
                await asyncio.sleep(0)
        assert await table.get(KEY, Step()) == "inside"
        table.close()


@pytest.mark.parametrize("name", KINDS)
async def test_a_table_that_is_closed_keeps_no_connection_of_a_look_up_that_ends_later(name: str, tmp_path: Path) -> None:
    kind, act = KINDS[name], WhenTold()

    async with Hostile(kind.good, act) as server:
        table = open_proxied(kind.spec(server.port, tmp_path))
        asking = asyncio.ensure_future(table.get(KEY, Step()))
        await asyncio.wait_for(act.asked.wait(), 10)
        table.close()
        act.go_on.set()
        assert await asyncio.wait_for(asking, 10) == "inside"
        assert kept(table) == []
        await asyncio.wait_for(act.gone.wait(), 10)


@pytest.mark.parametrize("name", ["tcp", "redis", "mysql"])
async def test_who_is_cancelled_while_a_kept_connection_is_tried_closes_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, trying, gone = KINDS[name], asyncio.Event(), asyncio.Event()

    async def act(good: Question, reader: Reader, writer: Writer) -> None:
        await answers(good, reader, writer)
        await reader.read()
        gone.set()

    async def tries(_reader: Reader) -> bool:
        trying.set()
        await asyncio.Event().wait()
        return True

    for module in (servers, redis, mysql):
        monkeypatch.setattr(module, "quiet", tries)
    async with Hostile(kind.good, act) as server:
        table = open_proxied(kind.spec(server.port, tmp_path))
        assert await table.get(KEY, Step()) == "inside"
        asking = asyncio.ensure_future(table.get(KEY, Step()))
        await asyncio.wait_for(trying.wait(), 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(gone.wait(), 2)
        table.close()


async def test_what_a_table_says_behind_the_change_of_its_file_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, act = KINDS["redis"], WhenTold()
    monkeypatch.setattr(keeper, "LOOK", 0.0)
    monkeypatch.setattr(cf, "STILL", 0.0)

    async with Hostile(kind.good, act) as server, Hostile(Good(kind.good.read, resp.reply(b"new"))) as other:
        spec = kind.spec(server.port, tmp_path)
        tables = Keeper(open_proxied)
        assert tables.also([spec]) == []
        late = asyncio.ensure_future(tables.answer(spec, KEY))
        await asyncio.wait_for(act.asked.wait(), 10)
        kind.spec(other.port, tmp_path)
        assert await tables.answer(spec, "another@example.com") == (wire.FOUND, "new", spec)
        act.go_on.set()
        assert await late == (wire.FOUND, "inside", spec)
        assert await tables.answer(spec, KEY) == (wire.FOUND, "new", spec)
        tables.close()
