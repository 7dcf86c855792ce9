"""Answers that go together: who is alone waits for nobody, order stays, nothing is left behind at an end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.config.snapshot import Snapshot
from appliance.daemons.policyd.outbox import TURNS, Outbox
from tests.daemons.policyd.whole import PLAIN, Server, Wire, build, request

DEFERRED = b"action=DEFER_IF_PERMIT 4.7.1 "


async def turn() -> None:
    await asyncio.sleep(0)


async def test_who_is_alone_or_last_waits_for_nobody() -> None:
    box, wire = Outbox(asyncio.get_running_loop(), lambda: 1), Wire()
    box.put(wire, b"a")
    assert wire.out == b"a"
    box, one, two = Outbox(asyncio.get_running_loop(), lambda: 2), Wire(), Wire()
    box.put(one, b"a")
    assert not one.out
    box.put(two, b"b")
    assert (one.out, two.out) == (b"a", b"b")


async def test_answers_go_when_a_turn_brings_no_more() -> None:
    box, wires = Outbox(asyncio.get_running_loop(), lambda: 9), [Wire() for _ in range(3)]
    box.put(wires[0], b"a")
    await turn()
    box.put(wires[1], b"b")
    await turn()
    assert [wire.out for wire in wires] == [b"", b"", b""]
    await turn()
    assert [wire.out for wire in wires] == [b"a", b"b", b""]
    box.put(wires[2], b"c")
    for _ in range(3):
        await turn()
    assert wires[2].out == b"c", "and begins anew"


async def test_nobody_waits_for_ever() -> None:
    box, wire = Outbox(asyncio.get_running_loop(), lambda: 99), Wire()
    for number in range(TURNS + 1):
        assert not wire.out, number
        box.put(wire, b"x")
        await turn()
    assert wire.out == b"x" * (TURNS + 1)


async def test_who_is_gone_is_not_written_to() -> None:
    box, wire = Outbox(asyncio.get_running_loop(), lambda: 9), Wire()
    box.put(wire, b"a")
    wire.close()
    box.flush()
    assert not wire.out


@pytest.fixture
def plain(tmp_path: Path) -> list[Snapshot]:
    return [build(tmp_path, **PLAIN)]


async def _learnt(plain: list[Snapshot]) -> Server:
    """What a stranger asks is answered at once from now on, without being read."""
    server = Server(plain, True, at_once=True)
    for number in range(9):
        await server.ask(0, request(instance=f"a{number}", recipient=f"a{number}@example.com"))
    return server


async def test_what_is_answered_at_once_does_not_overtake_nor_is_overtaken(plain: list[Snapshot]) -> None:
    server = await _learnt(plain)
    connection, wire = server.connections[0]
    wire.out = b""
    at_once, slow = request(instance="b", recipient="b@example.com"), request(instance="c", client_address="")
    connection.data_received(at_once)
    assert not wire.out, "the other client may have asked as well"
    connection.data_received(slow)
    connection.data_received(request(instance="d", recipient="d@example.com"))
    for _ in range(TURNS + 2):
        await turn()
    answers = wire.out.split(b"\n\n")
    assert [answer[: len(DEFERRED)] for answer in answers] == [DEFERRED, b"action=DUNNO", DEFERRED, b""]
    server.front._timer.cancel()


async def test_what_could_be_answered_at_once_waits_for_the_answer_before_it(plain: list[Snapshot]) -> None:
    """Whoever does not wait for answers takes the first one for that of his first question."""
    server = await _learnt(plain)
    connection, wire = server.connections[0]
    plain_pass = request(instance="e", recipient="a1@example.com", client_port="1")
    server.passes(5.0)
    assert (
        await server.ask(0, request(instance="known", recipient="a1@example.com", client_port="1")) == "action=DUNNO\n\n"
    )
    assert server.memory() == 1, "the same is answered without a look at it"
    wire.out = b""
    connection.data_received(request(instance="f", recipient="never@example.com"))
    assert connection.busy
    connection.data_received(plain_pass)
    connection.data_received(request(instance="g", recipient="g@example.com"))
    for _ in range(TURNS + 2):
        await turn()
    assert not wire.out, "nobody overtakes"
    connection._said(connection.default)
    for _ in range(TURNS + 2):
        await turn()
    answers = wire.out.decode().split("\n\n")
    assert answers[:2] == [f"action={connection.default}", "action=DUNNO"]
    assert len(answers) == 4 and answers[2].startswith(DEFERRED.decode())
    server.front._timer.cancel()


@pytest.mark.parametrize("how", ["eof", "close", "drain"])
async def test_an_answer_goes_before_the_end(plain: list[Snapshot], how: str) -> None:
    server = await _learnt(plain)
    connection, wire = server.connections[0]
    wire.out = b""
    connection.data_received(request(instance="b", recipient="b@example.com"))
    assert not wire.out
    task: Any = None
    if how == "eof":
        assert connection.eof_received() is False, "the loop closes it now"
    elif how == "close":
        connection.close()
    else:
        task = asyncio.ensure_future(server.front.drain(0.0))
        await turn()
    assert wire.out.startswith(DEFERRED)
    if task is not None:
        await task
    server.front._timer.cancel()
