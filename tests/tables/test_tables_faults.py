"""threats.md part 4 for every networked type of table: whatever the server does, "cannot answer" in bounded time, one log
line, nothing left open; and well again when the server is."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.observe import metrics
from appliance.tables import wire
from appliance.tables.proxied import Asked, keeper, open_proxied, servers
from appliance.tables.proxied.keeper import Keeper
from tests.peers.good_tables import KINDS
from tests.peers.hostile import FAULTS, Hostile, Question, answers, goes_on, trickles

#: Of one that gives no answer; whoever does has longer than a busy machine stands still.
DEADLINE, PATIENT = 0.7, 10.0
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
KEY = "somebody.with.a.rather.long.name@a-rather-long-domain.example.com"


def made(spec: str, seconds: float = PATIENT) -> Keeper:
    def opened(spec: str) -> Asked:
        table = open_proxied(spec)
        table.deadline = seconds
        return table

    found = Keeper(opened)
    assert found.also([spec]) == []
    return found


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def well_again(tables: Keeper, spec: str) -> str:
    """The value, once the table has rested."""
    async with asyncio.timeout(15):
        while True:
            state, value, _ = await tables.answer(spec, KEY)
            if state == wire.FOUND:
                return value
            await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "REST_MIN", 0.1)
    monkeypatch.setattr(keeper, "REMEMBER", 0.0)


@pytest.mark.parametrize("name", KINDS)
async def test_d1_a_good_server_and_one_octet_at_a_time(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    async with Hostile(kind.good) as server:
        spec = kind.spec(server.port, tmp_path)
        tables = made(spec)
        for act in (answers, trickles, answers):
            await server.be(act)
            assert await tables.answer(spec, KEY) == (wire.FOUND, "inside", spec)
        tables.close()


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "two_answers"])
@pytest.mark.parametrize("name", KINDS)
async def test_d1_every_fault_puts_off_in_bounded_time(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS[name]
    async with Hostile(kind.good, FAULTS[fault]) as server:
        spec = kind.spec(server.port, tmp_path)
        tables, before = made(spec, DEADLINE), descriptors()
        said: list[dict[str, Any]] = []
        monkeypatch.setattr(keeper, "log", SimpleNamespace(warning=lambda what, **more: said.append({"": what, **more})))
        async with asyncio.timeout(DEADLINE + 5):
            found = await asyncio.gather(*(tables.answer(spec, KEY) for _ in range(5)))
        assert {state for state, _, _ in found} == {wire.FAILED}, found
        assert all(spec in why and str(server.port) in why for _, why, _ in found), found
        (line,) = said
        assert line[""] == "a table does not answer" and line["table"] == spec and str(server.port) in line["step"]
        assert line["seconds"] < DEADLINE + 5 and line["why"]
        (wrong,) = tables.degraded()
        assert not isinstance(wrong, str) and wrong["what"] == f"table {spec}" and "look-ups failed" in wrong["why"]
        gauge = f'postgate_table_degraded{{table="{spec}"}}'
        assert f"{gauge} 1.0" in metrics.exposition().decode()
        await server.be(answers)
        assert await well_again(tables, spec) == "inside"
        assert tables.degraded() == []
        assert f"{gauge} 0.0" in metrics.exposition().decode()
        tables.close()
        await server.be(None)
        async with asyncio.timeout(10):
            while descriptors() > before:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", KINDS)
async def test_d3_a_second_answer_is_no_answer_to_the_next_question(name: str, tmp_path: Path) -> None:
    """The server says it twice and then nothing more: what is left over must not be taken for another key's answer."""
    kind = KINDS[name]

    async def twice(good: Question, reader: Reader, writer: Writer) -> None:
        if server.connections == 1:
            await good.read(reader, writer)
            writer.write(good.answer * 2)
        await asyncio.Event().wait()

    async with Hostile(kind.good, twice) as server:
        spec = kind.spec(server.port, tmp_path)
        tables = made(spec, DEADLINE)
        state, value, _ = await tables.answer(spec, KEY)
        # LDAP numbers its answers: what bears the number of this question cannot be told from its answer
        assert state == wire.FAILED or (not kind.whole and set(value.split(",")) == {"inside"})
        async with asyncio.timeout(15):
            while server.connections < 2:
                state, _, _ = await tables.answer(spec, "another@example.com")
                assert state == wire.FAILED
                await asyncio.sleep(0.02)
        tables.close()


@pytest.mark.parametrize("name", KINDS)
async def test_d3_what_comes_between_two_questions_answers_neither(name: str, tmp_path: Path) -> None:
    """The server says its answer once more, by itself, on a connection that is kept."""
    kind, by_itself, said = KINDS[name], asyncio.Event(), asyncio.Event()

    async def again_later(good: Question, reader: Reader, writer: Writer) -> None:
        if server.connections == 1:
            await good.read(reader, writer)
            writer.write(good.answer)
            await by_itself.wait()
            writer.write(good.answer)
            await writer.drain()
            said.set()
        await asyncio.Event().wait()

    async with Hostile(kind.good, again_later) as server:
        spec = kind.spec(server.port, tmp_path)
        tables = made(spec, 2.0)
        assert (await tables.answer(spec, KEY))[:2] == (wire.FOUND, "inside")
        by_itself.set()
        await said.wait()
        await asyncio.sleep(0.05)  # it is on its way through the loop
        state, _, _ = await tables.answer(spec, "another@example.com")
        assert state == wire.FAILED
        tables.close()


@pytest.mark.parametrize("name", ["socketmap", "tcp"])
@pytest.mark.parametrize(("limit", "connections"), [("", 1), ("IDLE", 3), ("LIFE", 3)])
async def test_a_connection_is_kept_for_a_while(
    name: str, limit: str, connections: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not beyond its time without a question, nor beyond its time in all."""
    kind = KINDS[name]
    if limit:
        monkeypatch.setattr(servers, limit, 0.0)
    async with Hostile(kind.good, goes_on) as server:
        spec = kind.spec(server.port, tmp_path)
        tables = made(spec)
        for number in range(3):
            assert (await tables.answer(spec, f"{number}{KEY}"))[:2] == (wire.FOUND, "inside")
        assert server.connections == connections
        tables.close()


@pytest.mark.parametrize(
    "says",
    [
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "BUSY Redis is busy running a script.",
        "CLUSTERDOWN The cluster is down",
        "MOVED 3999 127.0.0.1:6381",
        "NOAUTH Authentication required.",
    ],
)
async def test_d5_what_redis_refuses_puts_off_and_is_told(says: str, tmp_path: Path) -> None:
    """No state of the server is an answer: neither "no such entry" nor a value."""
    kind = KINDS["redis"]

    async def refuses(good: Question, reader: Reader, writer: Writer) -> None:
        await good.read(reader, writer)
        writer.write(f"-{says}\r\n".encode())
        await asyncio.Event().wait()

    async with Hostile(kind.good, refuses) as server:
        spec = kind.spec(server.port, tmp_path)
        tables = made(spec)
        state, why, _ = await tables.answer(spec, KEY)
        assert state == wire.FAILED and says.split()[0] in why and str(server.port) in why
        (wrong,) = tables.degraded()
        assert not isinstance(wrong, str) and "look-ups failed" in wrong["why"]
        await server.be(answers)
        assert await well_again(tables, spec) == "inside"
        tables.close()


async def test_a_table_that_is_away_for_long_is_asked_again_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rest grows, but not beyond a bound: who is back is not left alone for minutes."""
    monkeypatch.setattr(keeper, "REST_MAX", 0.25)
    kind = KINDS["tcp"]
    async with Hostile(kind.good, None) as server:
        spec = kind.spec(server.port, tmp_path)
        tables, asked = made(spec), asyncio.get_running_loop().time
        for _ in range(12):
            failures = tables.facts()[spec]["failures"]
            began = asked()
            while tables.facts()[spec]["failures"] == failures:
                assert (await tables.answer(spec, KEY))[0] == wire.FAILED
                await asyncio.sleep(0.01)
                assert asked() - began < 8, "it is asked again"
        tables.close()
