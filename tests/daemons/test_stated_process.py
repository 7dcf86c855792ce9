"""stated as a real process: killed, hung, replaced; its clients in this process."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.mail.ports import Probe, RateAsk, Unavailable
from appliance.net.channel import Channel
from appliance.stores import remote, wire
from appliance.stores.remote import StateClient
from tests.peers.process import stand_still

MAIN = Path(__file__).with_name("stated_main.py")
LIMITS = SimpleNamespace(
    connections=10, connections_reserve=4, connections_per_client=3, connection_rate=0, rate_period=60.0
)


def ask(n: int = 0, **more: object) -> GreylistAsk:
    given = {
        "keys": ("net:192.0.2.0/24",), "sender": f"s{n}@example.org", "recipient": "r@example.com",
        "client": "192.0.2.1", "now": 0.0, "delay": 90.0, "window": 172800.0, "remember": 3110400.0, "auto_accept": 5,
    }  # fmt: skip
    return GreylistAsk(**{**given, **more})  # type: ignore[arg-type]


class Process:
    """A stated on a listening socket that outlives it, as the master's do."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, str(root / "s")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen(16)
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> "Process":
        fd = self.listening.fileno()
        self.running = subprocess.Popen([sys.executable, str(MAIN), str(fd), str(self.root)], pass_fds=[fd])
        return self

    def signal(self, number: int) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def hang(self) -> None:
        assert self.running is not None
        stand_still(self.running.pid)

    def end(self, number: int) -> None:
        if self.running is not None:
            self.signal(number)
            self.signal(signal.SIGCONT)
            self.running.wait()
            self.running = None


@pytest.fixture
def process() -> Iterator[Process]:
    with tempfile.TemporaryDirectory() as folder:  # short: the path of a unix socket has 107 octets
        made = Process(Path(folder)).start()
        yield made
        made.end(signal.SIGKILL)
        made.listening.close()


@pytest.fixture
async def client(process: Process) -> AsyncIterator[Callable[[], Any]]:
    made: list[StateClient] = []

    async def connect() -> StateClient:
        one = StateClient(process.path)
        made.append(one)
        one.start()
        assert await one.wait_ready(20)
        return one

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds for an answer, so many that what comes at once is told from what comes then, on any machine."""
    monkeypatch.setattr(remote, "DEADLINE", 4.0)
    return remote.DEADLINE


async def step(state: StateClient, asked: GreylistAsk) -> GreylistAnswer:
    """One step; a stranger's answer needs no waiting."""
    answer = state.step(asked)
    return answer if isinstance(answer, GreylistAnswer) else await answer


async def met(state: StateClient, *asks: GreylistAsk) -> None:
    """stated knows them from now on."""
    for asked in asks:
        await step(state, asked)
    await state.ask(wire.Facts())


async def again(state: StateClient) -> None:
    """Wait until the client noticed that its stated is gone, and has the new one."""
    async with asyncio.timeout(20):
        while state.ready:
            await asyncio.sleep(0.005)
    assert await state.wait_ready(20)


async def test_all_asks_of_a_turn_go_in_one_frame_and_each_has_its_answer(
    process: Process, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await client()
    await met(state, *(ask(n) for n in range(50)))
    frames: list[Any] = []
    send = Channel.send_raw
    monkeypatch.setattr(
        Channel, "send_raw", lambda self, octets, fds=(): (frames.append(octets), send(self, octets, fds))[1]
    )

    answers = await asyncio.gather(
        *(step(state, ask(n)) for n in range(50)),
        state.take([RateAsk("k", 1, 5, 60)], 0),
        state.get_probe("nobody@example.com"),
    )
    assert len(frames) == 1
    assert {answer.state for answer in answers[:50]} == {"early"}
    assert answers[50:] == [[4.0], None]


async def test_killed_between_asks_the_state_survives(process: Process, client: Any) -> None:
    state = await client()
    short = {"delay": 0.05}
    assert (await step(state, ask(**short))).state == "new"
    state.put_probe("a@example.com", Probe("known", "250 ok", time.time(), "hop"), 86400.0)
    async with asyncio.timeout(20):
        while (await state.ask(wire.Facts()))["unwritten"]:
            await asyncio.sleep(0.01)
    process.end(signal.SIGKILL)
    with pytest.raises(Unavailable):
        while True:
            await step(state, ask(1))
            await asyncio.sleep(0)
    process.start()
    assert await state.wait_ready(20)
    assert (await step(state, ask(**short))).state == "passed"
    assert (await state.get_probe("a@example.com")).state == "known"


async def test_asks_under_way_hear_at_once_that_it_died(process: Process, client: Any, patience: float) -> None:
    state = await client()
    await met(state, *(ask(n) for n in range(5)))
    process.hang()
    waiting = [asyncio.ensure_future(step(state, ask(n))) for n in range(5)]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    process.end(signal.SIGKILL)
    assert all(isinstance(r, Unavailable) for r in await asyncio.gather(*waiting, return_exceptions=True))
    with pytest.raises(Unavailable):
        await step(state, ask())
    assert time.monotonic() - began < patience / 2


async def test_hung_costs_one_deadline_and_then_nothing(process: Process, client: Any) -> None:
    state = await client()
    await met(state, ask())
    process.hang()
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no answer in time"):
        await step(state, ask())
    assert 0.9 < time.monotonic() - began < 10
    began = time.monotonic()
    for n in range(100):  # the kernel takes connections for it, but it does not greet
        with pytest.raises(Unavailable):
            await step(state, ask(n))
        await asyncio.sleep(0.001)
    assert time.monotonic() - began < 20, "a second for each would be a hundred"
    process.signal(signal.SIGCONT)
    assert await state.wait_ready(10)
    assert (await step(state, ask(7))).state in ("new", "early")


@pytest.mark.parametrize("how", ["hung", "killed"])
async def test_strangers_of_whom_stated_did_not_hear_are_told_again(
    process: Process, client: Any, how: str, patience: float
) -> None:
    state = await client()
    process.hang()
    began = time.monotonic()
    answers = [await step(state, ask(n)) for n in range(20)]
    assert {answer.state for answer in answers} == {"new"} and time.monotonic() - began < patience / 2
    if how == "killed":
        process.end(signal.SIGKILL)
        process.start()
    async with asyncio.timeout(20):
        while state.ready:
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await step(state, ask(20))
    process.signal(signal.SIGCONT)
    assert await state.wait_ready(20)
    assert {(await step(state, ask(n))).state for n in range(20)} == {"early"}
    other = await client()
    assert {(await step(other, ask(n))).state for n in range(20)} == {"early"}, "for all workers"


async def test_of_strangers_put_off_just_before_its_end_a_worker_tells(process: Process, client: Any) -> None:
    state, other = await client(), await client()
    await met(other, ask(99))
    process.hang()
    under_way = asyncio.ensure_future(step(state, ask(99)))  # a frame that stated has not answered
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert {(await step(state, ask(n))).state for n in range(20)} == {"new"}
    state.close()
    with pytest.raises(Unavailable):
        await under_way
    process.signal(signal.SIGCONT)
    await other.ask(wire.Facts())
    assert {(await step(other, ask(n))).state for n in range(20)} == {"early"}


async def test_drain_writes_everything(process: Process, client: Any) -> None:
    state = await client()
    await met(state, *(ask(n, delay=0.05) for n in range(20)))
    process.end(signal.SIGTERM)
    process.start()
    await again(state)
    answers = await asyncio.gather(*(step(state, ask(n, delay=0.05)) for n in range(20)))
    assert {answer.state for answer in answers} == {"passed"}


async def test_a_workers_connections_are_counted_over_all_and_taken_back(process: Process, client: Any) -> None:
    one, two = await client(), await client()
    assert (await one.connect("192.0.2.1", LIMITS)).connections == 1
    assert (await two.connect("192.0.2.1", LIMITS)).connections == 2
    assert (await two.connect("192.0.2.1", LIMITS)).over == ""
    assert (await two.connect("192.0.2.1", LIMITS)).over == "connections"
    two.close()  # its worker died: three of the four are gone
    for _ in range(200):
        counts = await one.connect("192.0.2.1", LIMITS)
        one.disconnect("192.0.2.1")
        if counts.connections == 2:
            break
        await asyncio.sleep(0.02)
    assert (counts.connections, counts.total) == (2, 2)


async def test_open_connections_are_reported_to_a_new_stated(process: Process, client: Any) -> None:
    state = await client()
    for _ in range(3):
        await state.connect("192.0.2.1", LIMITS)
    state.disconnect("192.0.2.1")
    process.end(signal.SIGKILL)
    process.start()
    await again(state)
    assert (await state.connect("192.0.2.1", LIMITS)).connections == 3


async def test_the_reserve_is_for_known_good_clients(process: Process, client: Any) -> None:
    state = await client()
    state.accepted("198.51.100.7")
    for n in range(6):
        assert (await state.connect(f"10.0.{n}.1", LIMITS)).over == ""
    assert (await state.connect("10.0.99.1", LIMITS)).over == "total"
    good = await state.connect("198.51.100.99", LIMITS)  # the same /24
    assert (good.known_good, good.over) == (True, "")


async def test_errors_are_charged_to_the_buckets_of_the_network(process: Process, client: Any) -> None:
    state = await client()
    state.errors("192.0.2.77", 4)
    asks = [RateAsk(f"errors/{period}/net:192.0.2.0/24", 0, 3, period) for period in (60, 3600)]
    assert [left < 0 for left in await state.take(asks, 0)] == [True, True]


async def test_message_and_recipient_rates(process: Process, client: Any) -> None:
    state = await client()
    assert [await state.messages("192.0.2.1", 1, 60) for _ in range(3)] == [1, 2, 3]
    assert await state.recipients("192.0.2.1", 40, 60) == 40


async def test_rubbish_costs_its_own_connection(process: Process, client: Any) -> None:
    state = await client()
    other = socket.socket(socket.AF_UNIX)
    other.connect(process.path)
    other.settimeout(5)
    other.sendall(b"\x00\x00\x00\x05\x00hello")
    greeting = await asyncio.to_thread(other.recv, 100)
    assert wire.HELLO.encode() in greeting
    assert await asyncio.to_thread(other.recv, 100) == b""
    other.close()
    await met(state, ask())
    assert (await step(state, ask())).state == "early"


async def test_another_version_of_stated_gives_no_answers(tmp_path: Path) -> None:
    path = tempfile.mktemp()
    served = asyncio.Event()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        payload = b"\x92\x00\x91\xa5other"
        writer.write(len(payload).to_bytes(4, "big") + b"\0" + payload)
        await writer.drain()
        served.set()

    server = await asyncio.start_unix_server(greet, path)
    state = StateClient(path)
    state.start()
    await asyncio.wait_for(served.wait(), 5)
    assert not await state.wait_ready(0.2)
    with pytest.raises(Unavailable, match="stated"):
        await step(state, ask())
    state.close()
    server.close()
    os.unlink(path)


async def test_no_stated_at_all_is_unavailable_at_once(patience: float) -> None:
    state = StateClient("/nonexistent/stated.sock")
    state.start()
    began = time.monotonic()
    with pytest.raises(Unavailable, match="No such file"):
        await step(state, ask())
    assert time.monotonic() - began < patience / 2
    state.close()


def test_deadline_is_a_second() -> None:
    assert remote.DEADLINE == 1.0
