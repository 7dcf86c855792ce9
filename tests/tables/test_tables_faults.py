"""threats.md part 4 for every networked type of table: whatever the server does, "cannot answer" in bounded time, one log
line, nothing left open; and well again when the server is."""

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from appliance.protocol import resp, socketmap, tcp_table
from appliance.tables import wire
from appliance.tables.proxied import Asked, keeper, open_proxied
from appliance.tables.proxied.keeper import Keeper
from tests.peers.hostile import FAULTS, Good, Hostile, answers, trickles

DEADLINE = 0.7
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


async def read_netstring(reader: Reader, _writer: Writer) -> None:
    length = await reader.readuntil(b":")
    await reader.readexactly(int(length[:-1]) + 1)


async def read_line(reader: Reader, _writer: Writer) -> None:
    await reader.readline()


async def read_redis(reader: Reader, writer: Writer) -> None:
    """Commands before the GET are greeted with OK."""
    while True:
        words: list[bytes] = []
        for _ in range(int((await reader.readline())[1:])):
            await reader.readline()
            words.append((await reader.readline()).strip().upper())
        if words[0] == b"GET":
            return
        writer.write(b"+OK\r\n")


def pg(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


PG_READY = pg(b"Z", b"I")
PG_ANSWER = (
    pg(b"T", struct.pack(">H", 1) + b"goto\0" + struct.pack(">IHIhih", 0, 0, 25, -1, -1, 0))
    + pg(b"D", struct.pack(">HI", 1, 6) + b"inside")
    + pg(b"C", b"SELECT 1\0")
    + PG_READY
)


async def read_postgres(reader: Reader, writer: Writer) -> None:
    while True:
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        body = await reader.readexactly(length - 4)
        if body[:2] == b"\x00\x03":
            break
        writer.write(b"N")  # no TLS, no GSS
    facts = (b"server_encoding", b"UTF8"), (b"client_encoding", b"UTF8"), (b"standard_conforming_strings", b"on")
    told = b"".join(pg(b"S", name + b"\0" + value + b"\0") for name, value in facts)
    writer.write(pg(b"R", struct.pack(">I", 0)) + told + pg(b"K", struct.pack(">II", 1, 1)) + PG_READY)
    assert await reader.readexactly(1) == b"Q"
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    await reader.readexactly(length - 4)


def my(number: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


MY_OK = b"\x00\x00\x00\x02\x00\x00\x00"
MY_GREETING = (
    b"\x0a" + b"8.0.0\0" + struct.pack("<I", 7) + b"A" * 8 + b"\0" + struct.pack("<H", 0xA20F) + b"\x2d"
    + struct.pack("<HH", 2, 0x0008) + b"\x15" + b"\0" * 10 + b"B" * 12 + b"\0" + b"mysql_native_password\0"
)  # fmt: skip
MY_COLUMN = text(b"def") + text(b"") * 3 + text(b"goto") * 2 + b"\x0c" + struct.pack("<HIBHBH", 45, 800, 253, 0, 0, 0)
MY_EOF = b"\xfe\x00\x00\x02\x00"
MY_ANSWER = my(1, b"\x01") + my(2, MY_COLUMN) + my(3, MY_EOF) + my(4, text(b"inside")) + my(5, MY_EOF)


async def read_mysql(reader: Reader, writer: Writer) -> None:
    writer.write(my(0, MY_GREETING))
    number = 2
    while True:
        head = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(head[:3], "little"))
        if body[:7] == b"\x03SELECT":
            return
        writer.write(my(number, MY_OK))
        number = 1


def ber(tag: int, body: bytes) -> bytes:
    return bytes([tag]) + (bytes([len(body)]) if len(body) < 128 else b"\x81" + bytes([len(body)])) + body


def ldap_answer(number: int) -> bytes:
    value = ber(0x30, ber(0x04, b"maildrop") + ber(0x31, ber(0x04, b"inside")))
    entry = ber(0x64, ber(0x04, b"cn=joe") + ber(0x30, value))
    done = ber(0x65, ber(0x0A, b"\0") + ber(0x04, b"") + ber(0x04, b""))
    return b"".join(ber(0x30, ber(0x02, number.to_bytes(2, "big")) + part) for part in (entry, done))


class Ldap:
    """A Good whose answers bear the number of the question."""

    def __init__(self) -> None:
        self.number = 1

    @property
    def answer(self) -> bytes:
        return ldap_answer(self.number)

    async def read(self, reader: Reader, _writer: Writer) -> None:
        head = await reader.readexactly(2)
        length = head[1]
        if length & 0x80:
            length = int.from_bytes(await reader.readexactly(length & 0x7F), "big")
        body = await reader.readexactly(length)
        self.number = int.from_bytes(body[2 : 2 + body[1]], "big")


class Kind(NamedTuple):
    """`spec(port, folder)` writes what the table needs. `whole`: a second answer behind the first makes both void."""

    good: Good
    spec: Callable[[int, Path], str]
    whole: bool = False


def cf(kind: str, text_: str) -> Callable[[int, Path], str]:
    def spec(port: int, folder: Path) -> str:
        path = folder / f"{kind}.cf"
        path.write_text(text_.format(port=port))
        return f"{kind}:{path}"

    return spec


SELECT = "query = SELECT goto FROM alias WHERE address = '%s'\n"
KINDS = {
    "socketmap": Kind(
        Good(read_netstring, socketmap.answer("OK", "inside")), lambda port, _: f"socketmap:inet:127.0.0.1:{port}:m", True
    ),
    "tcp": Kind(Good(read_line, tcp_table.answer("200", "inside")), lambda port, _: f"tcp:127.0.0.1:{port}", True),
    "redis": Kind(Good(read_redis, resp.reply(b"inside")), cf("redis", "hosts = 127.0.0.1:{port}\n"), True),
    "pgsql": Kind(
        Good(read_postgres, PG_ANSWER), cf("pgsql", "hosts = 127.0.0.1:{port}\nuser = a\ndbname = mail\n" + SELECT)
    ),
    "mysql": Kind(
        Good(read_mysql, MY_ANSWER), cf("mysql", "hosts = 127.0.0.1:{port}\nuser = a\ndbname = mail\n" + SELECT)
    ),
    "ldap": Kind(
        Ldap(),  # type: ignore[arg-type]
        cf("ldap", "server_host = 127.0.0.1:{port}\nbind = no\nsearch_base = dc=x\nquery_filter = (mail=%s)\n"),
    ),
}
KEY = "somebody.with.a.rather.long.name@a-rather-long-domain.example.com"


def opened(spec: str) -> Asked:
    table = open_proxied(spec)
    table.deadline = DEADLINE
    return table


def made(spec: str) -> Keeper:
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
        tables, before = made(spec), descriptors()
        said: list[dict[str, Any]] = []
        monkeypatch.setattr(keeper, "log", SimpleNamespace(warning=lambda what, **more: said.append({"": what, **more})))
        async with asyncio.timeout(DEADLINE + 5):
            found = await asyncio.gather(*(tables.answer(spec, KEY) for _ in range(5)))
        assert {state for state, _, _ in found} == {wire.FAILED}, found
        assert all(spec in why and str(server.port) in why for _, why, _ in found), found
        (line,) = said
        assert line[""] == "a table does not answer" and line["table"] == spec and str(server.port) in line["step"]
        assert line["seconds"] < DEADLINE + 2 and line["why"]
        assert spec in tables.degraded()[0]
        await server.be(answers)
        assert await well_again(tables, spec) == "inside"
        assert tables.degraded() == []
        tables.close()
        await server.be(None)
        async with asyncio.timeout(10):
            while descriptors() > before:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", KINDS)
async def test_d3_a_second_answer_is_no_answer_to_the_next_question(name: str, tmp_path: Path) -> None:
    """The server says it twice and then nothing more: what is left over must not be taken for another key's answer."""
    kind = KINDS[name]

    async def twice(good: Good, reader: Reader, writer: Writer) -> None:
        if server.connections == 1:
            await good.read(reader, writer)
            writer.write(good.answer * 2)
        await asyncio.Event().wait()

    async with Hostile(kind.good, twice) as server:
        spec = kind.spec(server.port, tmp_path)
        tables = made(spec)
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
async def test_others_do_not_wait_for_a_server_that_hangs(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    async with Hostile(kind.good, FAULTS["hangs_behind_the_question"]) as bad, Hostile(kind.good) as good:
        (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
        slow, quick = kind.spec(bad.port, tmp_path / "a"), kind.spec(good.port, tmp_path / "b")
        tables = Keeper(opened)
        tables.also([slow, quick])
        waiting = [asyncio.ensure_future(tables.answer(slow, f"{number}{KEY}")) for number in range(40)]
        async with asyncio.timeout(DEADLINE * 4):
            assert (await tables.answer(quick, KEY))[0] == wire.FOUND
        assert not all(task.done() for task in waiting)
        async with asyncio.timeout(20):
            assert {state for state, _, _ in await asyncio.gather(*waiting)} == {wire.FAILED}
        tables.close()
