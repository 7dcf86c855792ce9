"""The workers' end of stated, against a stated under the test's hands: what goes together, and when it is late."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.mail.ports import Unavailable
from appliance.stores import remote, wire
from appliance.stores.remote import StateClient

LINE = "s"


class Stated:
    """Greets, shows each frame it got, answers when it is told."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[tuple[int, list[Any]]] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._send((0, [wire.HELLO]))
        try:
            while True:
                length, _ = struct.unpack(">IB", await reader.readexactly(5))
                sequence, asks = wire.decode_asks(await reader.readexactly(length))
                self.frames.put_nowait((sequence, asks))
        except asyncio.IncompleteReadError:
            writer.close()

    def _send(self, value: object) -> None:
        assert self._writer is not None
        payload = msgspec.msgpack.encode(value)
        self._writer.write(struct.pack(">IB", len(payload), 0) + payload)

    async def next(self) -> tuple[int, list[str]]:
        """The next frame: its number and the keys it asks for."""
        sequence, asks = await asyncio.wait_for(self.frames.get(), 5)
        return sequence, [ask.key for ask in asks]

    def answer(self, sequence: int, count: int) -> None:
        self._send((sequence, [None] * count))


@pytest.fixture
async def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[StateClient, Stated]]:
    monkeypatch.chdir(tmp_path)  # a short path
    stated = Stated()
    server = await asyncio.start_unix_server(stated.serve, LINE)
    client = StateClient(LINE)
    client.start()
    assert await client.wait_ready(5)
    yield client, stated
    client.close()
    server.close()


def asked(client: StateClient, key: str) -> "asyncio.Task[Any]":
    return asyncio.ensure_future(client.ask(wire.ProbeGet(key)))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_asked_while_a_frame_is_under_way_goes_together_behind_its_answer(both: Any) -> None:
    client, stated = both
    first = asked(client, "a")
    number, keys = await stated.next()
    assert keys == ["a"]
    later = []
    for key in "bcd":
        later.append(asked(client, key))
        await turns()  # each in a turn of its own
    client.tell(wire.ProbeGet("e"))
    await asyncio.sleep(remote.LINGER * 2)
    assert stated.frames.empty()
    stated.answer(number, 1)
    assert await first is None
    number, keys = await stated.next()
    assert keys == ["b", "c", "d", "e"]
    stated.answer(number, 4)
    assert await asyncio.gather(*later) == [None] * 3
    alone = asked(client, "f")
    assert (await stated.next()) == (number + 1, ["f"]), "nothing is under way: it goes at once"
    stated.answer(number + 1, 1)
    await alone


async def test_what_waits_behind_a_frame_is_late_a_second_after_it_was_asked(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stated = both
    monkeypatch.setattr(remote, "DEADLINE", 2.0)
    loop = asyncio.get_running_loop()
    first = asked(client, "a")
    number, _ = await stated.next()
    began = loop.time()
    second = asked(client, "b")
    await asyncio.sleep(1.0)
    stated.answer(number, 1)
    await first
    assert (await stated.next())[1] == ["b"]
    with pytest.raises(Unavailable, match="no answer in time"):
        await second
    assert 1.99 < loop.time() - began < 2.9, "from when it was sent it would be 3"


async def test_what_waits_behind_a_frame_hears_that_the_connection_is_lost(both: Any) -> None:
    client, stated = both
    waiting = [asked(client, "a")]
    await stated.next()
    waiting.append(asked(client, "b"))
    await turns()
    stated._writer.close()
    assert all(isinstance(found, Unavailable) for found in await asyncio.gather(*waiting, return_exceptions=True))
    assert await client.wait_ready(5)
    again = asked(client, "c")
    number, keys = await stated.next()
    assert keys == ["c"]
    stated.answer(number, 1)
    assert await again is None


async def test_asks_gather_while_each_turn_brings_more_but_not_for_ever(both: Any) -> None:
    client, stated = both
    waiting = []
    for number in range(6):  # one a turn
        waiting.append(asyncio.ensure_future(client.ask(wire.ProbeGet(str(number)))))
        await asyncio.sleep(0)
    number, keys = await stated.next()
    assert keys == ["0", "1", "2", "3"]
    stated.answer(number, len(keys))
    number, keys = await stated.next()
    assert keys == ["4", "5"]
    stated.answer(number, len(keys))
    assert await asyncio.gather(*waiting) == [None] * 6
