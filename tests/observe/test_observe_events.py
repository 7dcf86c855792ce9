"""Events reach the journal whole and in order, or are counted; nothing waits for them."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from appliance.observe import events


@pytest.fixture(autouse=True)
def off_again() -> Iterator[None]:
    yield
    events.configure("")


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(8)
    sock.settimeout(10)
    return sock


async def take(sock: socket.socket, count: int) -> list[dict[str, object]]:
    """Accept a sender and read `count` events from it."""

    def read() -> list[dict[str, object]]:
        peer, _ = sock.accept()
        peer.settimeout(10)
        with peer, peer.makefile("rb") as file:
            return [json.loads(file.readline()) for _ in range(count)]

    return await asyncio.to_thread(read)


async def test_events_arrive_in_order(tmp_path: Path) -> None:
    with listening(tmp_path / "j") as sock:
        events.configure(str(tmp_path / "j"))
        for number in range(1000):
            events.emit({"n": number, "text": "a\nb"})
        assert [event["n"] for event in await take(sock, 1000)] == list(range(1000))
    assert events.waiting() == 0


async def test_a_journal_that_comes_late_or_back_misses_nothing_that_waited(tmp_path: Path) -> None:
    events.configure(str(tmp_path / "j"))
    events.emit({"n": 1})
    await asyncio.sleep(0)
    assert events.waiting() == 1
    with listening(tmp_path / "j") as sock:
        assert await take(sock, 1) == [{"n": 1}]
    (tmp_path / "j").unlink()
    for number in range(2, 6):
        events.emit({"n": number})
        await asyncio.sleep(0.01)
    with listening(tmp_path / "j") as sock:
        assert await take(sock, 4) == [{"n": 2}, {"n": 3}, {"n": 4}, {"n": 5}]


async def test_a_line_that_was_sent_half_is_sent_again_whole(tmp_path: Path) -> None:
    with listening(tmp_path / "j") as sock:
        events.configure(str(tmp_path / "j"))
        events.emit({"n": 0, "big": "x" * 3_000_000})  # more than a socket holds: it stands half sent
        events.emit({"n": 1})
        peer, _ = await asyncio.to_thread(sock.accept)
        assert await asyncio.to_thread(peer.recv, 1000)
        peer.close()
        first, second = await take(sock, 2)
    assert (first["n"], len(str(first["big"])), second["n"]) == (0, 3_000_000, 1)


LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_what_the_journal_does_not_take_goes_on_as_soon_as_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    later, pauses = events._Sender._later, list[float]()
    monkeypatch.setattr(events._Sender, "_later", lambda self, delay: pauses.append(delay) or later(self, delay))

    async def play() -> None:
        with listening(tmp_path / "j") as sock:
            events.configure(str(tmp_path / "j"))
            for number in range(3000):  # many times what a socket holds
                events.emit({"n": number, "text": "x" * 2000})
            events.flush()
            assert events._sender._watching is asyncio.get_running_loop()
            events.emit({"n": 3000})
            assert [event["n"] for event in await take(sock, 3001)] == list(range(3001))
            assert events.waiting() == 0 and events._sender._watching is None
            assert pauses == [events.LINGER], "it waits for the journal, not for a clock"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(play())


@LOOPS
def test_what_waited_in_a_loop_that_ended_goes_on_in_the_next(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def fill() -> None:
        events.configure(str(tmp_path / "j"))
        for number in range(1000):
            events.emit({"n": number, "text": "x" * 2000})
        events.flush()

    async def go_on() -> None:
        events.flush()
        assert [event["n"] for event in await take(sock, 1000)] == list(range(1000))

    with listening(tmp_path / "j") as sock:
        for play in (fill, go_on):
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(play())


async def test_beyond_the_bound_events_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BACKLOG", 10_000)
    events.configure("/nonexistent/journal.sock")
    before = events._dropped._value.get()
    for _ in range(1000):
        events.emit({"text": "x" * 100})
    assert events._dropped._value.get() - before > 800
    assert events.waiting() < 200


async def test_several_at_once_arrive_and_are_counted(tmp_path: Path) -> None:
    before = events._emitted[()]
    with listening(tmp_path / "j") as sock:
        events.configure(str(tmp_path / "j"))
        events.emit_lines([b'{"n":1}\n', b'{"n":2}\n'])
        assert events._sender.octets == 16
        assert await take(sock, 2) == [{"n": 1}, {"n": 2}]
    assert events._emitted[()] - before == 2


async def test_several_at_once_beyond_the_bound_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BACKLOG", 100)
    events.configure("/nonexistent/journal.sock")
    before = events._dropped._value.get()
    for _ in range(10):
        events.emit_lines([b"x" * 50 + b"\n"] * 3)
    assert events._dropped._value.get() - before == 27 and events.waiting() == 3


async def test_what_cannot_be_encoded_is_counted_and_does_not_raise() -> None:
    events.configure("/nonexistent/journal.sock")
    before = events._dropped._value.get()
    events.emit({"odd": object()})
    events.emit({"surrogate": "\udc80"})
    assert events._dropped._value.get() - before == 2
