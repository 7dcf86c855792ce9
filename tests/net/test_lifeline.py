"""A channel that is dialled for ever: late peers, peers that go, what becomes of who waits."""

import asyncio
import socket
from pathlib import Path

import pytest

from appliance.net import lifeline
from appliance.net.channel import Channel
from appliance.net.lifeline import Lifeline


class Asker(Lifeline):
    """Whatever is said is a greeting, but for a mistake."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.abandoned: list[str] = []

    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        if payload == b"\xc0":
            self._lose("unreadable answer")
        else:
            self._welcome()

    def _abandon(self, why: str) -> None:
        self.abandoned.append(why)


class Peer:
    """Listens at a path; greets whoever comes with `said`."""

    def __init__(self, path: Path, said: object = "hello") -> None:
        self.path, self.said = path, said
        self.taken: list[Channel] = []
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.setblocking(False)
        self._sock.bind(str(path))
        self._sock.listen(8)
        asyncio.get_running_loop().add_reader(self._sock, self._take)

    def _take(self) -> None:
        channel = Channel(self._sock.accept()[0])
        channel.send(self.said)
        self.taken.append(channel)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self.path.unlink()
        for channel in self.taken:
            channel.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "peer"


async def until_away(asker: Asker) -> None:
    async with asyncio.timeout(5):
        while asker.ready:
            await asyncio.sleep(0.001)


async def test_a_peer_that_comes_late_goes_and_comes_back(path: Path) -> None:
    asker = Asker(str(path))
    asker.start()
    assert not await asker.wait_ready(0.01) and asker.why == f"{path}: No such file or directory"
    peer = Peer(path)
    assert await asker.wait_ready(5) and asker.why == "" and asker.abandoned == []
    peer.stop()
    await until_away(asker)
    assert asker.abandoned == ["it closed the connection"] and asker.contact.trouble
    again = Peer(path)
    assert await asker.wait_ready(5) and asker.ready
    asker.close()
    assert asker.abandoned == ["it closed the connection", "closed"] and not asker.ready
    again.stop()


async def test_pauses_grow_until_it_greets(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt waits twice as long as the one before, at most BACKOFF_MAX; who was greeted begins anew."""
    loop, pauses = asyncio.get_running_loop(), list[float]()
    monkeypatch.setattr(lifeline.random, "uniform", lambda _low, high: high)  # type: ignore[attr-defined]
    asker = Asker(str(path))
    monkeypatch.setattr(loop, "call_later", lambda pause, call: pauses.append(pause))
    asker.start()
    for _ in range(7):
        asker._dial()
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    peer = Peer(path)
    asker._dial()
    monkeypatch.undo()
    assert await asker.wait_ready(5) and asker._backoff == lifeline.BACKOFF_MIN
    asker.close()
    peer.stop()


async def test_one_that_speaks_nonsense_is_given_up_and_dialled_again(path: Path) -> None:
    peer = Peer(path, said=None)
    asker = Asker(str(path))
    asker.start()
    async with asyncio.timeout(5):
        while len(peer.taken) < 2:
            await asyncio.sleep(0.001)
    assert asker.abandoned[0] == "unreadable answer" and not asker.ready
    asker.close()
    count = len(peer.taken)
    await asyncio.sleep(0)
    assert asker._retry is None or asker._retry.cancelled()
    assert len(peer.taken) == count
    peer.stop()
