"""Clients of policyd and milterd that misbehave, at a whole gateway: slow, rubbish, halves, a thousand connections,
answers that nobody reads, macros without end. Honest clients beside them are answered, rightly and soon; nothing is left
behind."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.protocol.milter.negotiation import offer
from appliance.protocol.milter.words import Word
from appliance.protocol.policy import AnswerReader, encode_request
from tests.faults.hostile import Canary, none_late
from tests.peers import bad_clients
from tests.peers.bad_clients import ACTS, Speech, visit
from tests.peers.gateway import Gateway
from tests.peers.mta import Mta
from tests.peers.policies import plain
from tests.peers.policy import RCPT
from tests.peers.ports import free_port
from tests.soak.watch import Room, grown, held

pytestmark = [pytest.mark.fault, pytest.mark.timeout(150)]
#: Memory that processes take when they are first used at all is no leak.
ROOM = Room(memory=120.0)
FRONTS = """\
[[policyd]]
name = "policy"
address = "inet:127.0.0.1:{policy}"
workers = 1
connections = 1500
idle = "5s"
[[milterd]]
name = "milter"
address = "inet:127.0.0.1:{milter}"
workers = 1
connections = 1500
idle = "5s"
"""


class Honest:
    """A client of each front that asks again and again. `slowest`: how long an answer took."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self.answers = 0
        self.slowest = 0.0
        self.wrong: list[str] = []

    async def run(self, kind: str) -> None:
        ask = self._policy if kind == "policy" else self._milter
        while True:
            began = time.monotonic()
            if (said := await ask()) != "DUNNO":
                self.wrong.append(said)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answers += 1
            await asyncio.sleep(0.02)

    async def _policy(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["policy"])
        writer.write(encode_request(RCPT | {"instance": f"h{self.answers}"}))
        answer = AnswerReader().feed(await reader.readuntil(b"\n\n"))
        writer.close()
        return answer.verb if answer else "none"

    async def _milter(self) -> str:
        mta = Mta(*await asyncio.open_connection("127.0.0.1", self.ports["milter"]), offer())
        await mta.do(mta.machine.negotiate())
        await mta.begin()
        heard = await mta.message()
        mta.close()
        return "DUNNO" if heard.reply is not None and heard.reply.word is Word.ACCEPT else repr(heard)


@pytest.fixture
def ports() -> dict[str, int]:
    return {"policy": free_port(), "milter": free_port()}


@pytest.fixture
def made(gateway: Callable[..., Gateway], ports: dict[str, int]) -> Gateway:
    return gateway(policies=plain(), workers=1, more=FRONTS.format(**ports))


async def besiege(made: Gateway, ports: dict[str, int], kind: str, acts: list[str], size: int = 0) -> Honest:
    """Every act, several at a time, beside an honest client of each front; what must hold at the end."""
    speech: Speech = bad_clients.policy() if kind == "policy" else bad_clients.milter()
    honest, rng = Honest(ports), random.Random(kind)
    await asyncio.wait_for(honest._policy(), 10)
    await asyncio.wait_for(honest._milter(), 10)
    assert made.process is not None
    master = made.process.pid
    before = held(await asyncio.to_thread(made.status), master)
    tasks = [asyncio.create_task(honest.run(one)) for one in ports]
    moment = time.monotonic()
    with Canary() as canary:
        ended = await asyncio.gather(*(visit(name, speech, ports[kind], rng, 30.0) for name in acts))
        asked = honest.answers
        async with asyncio.timeout(20):
            while honest.answers < asked + 20:
                assert not any(task.done() for task in tasks), tasks
                await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(ended), [name for name, over in zip(acts, ended, strict=True) if not over]
    assert not honest.wrong
    await asyncio.to_thread(none_late, made, moment, canary.worst)
    end = time.monotonic() + 30
    while (left := grown(before, held(await asyncio.to_thread(made.status), master), ROOM)) and time.monotonic() < end:
        await asyncio.sleep(0.5)
    assert not left, f"more is held than before: {left}"
    assert "Traceback" not in made.log() and "internal error" not in made.log()
    return honest


@pytest.mark.parametrize("kind", ["policy", "milter"])
async def test_d6_whatever_a_client_does_it_costs_itself_only(
    made: Gateway, ports: dict[str, int], kind: str, tmp_path: Path
) -> None:
    honest = await besiege(made, ports, kind, [name for name in ACTS if name != "crowd"] * 3)
    assert honest.slowest < 5.0


@pytest.mark.parametrize("kind", ["policy", "milter"])
async def test_d6_a_thousand_connections_keep_nobody_waiting(
    made: Gateway, ports: dict[str, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def thousand(speech: Speech, port: int, rng: random.Random) -> None:
        await bad_clients.crowd(speech, port, rng, size=1000)

    monkeypatch.setitem(ACTS, "crowd", thousand)
    honest = await besiege(made, ports, kind, ["crowd"])
    assert honest.slowest < 5.0
