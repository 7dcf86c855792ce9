"""Good peers of every networked type of table, played octet by octet from the protocols' own pages, without our codecs of
databases: for tests in which they are anything but good (hostile.py)."""

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from appliance.protocol import resp, socketmap, tcp_table
from tests.peers.hostile import Good

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
        for _ in range(int((await reader.readuntil(b"\n"))[1:])):
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


def ldap_answer(number: int, found: bool = True) -> bytes:
    value = ber(0x30, ber(0x04, b"maildrop") + ber(0x31, ber(0x04, b"inside")))
    entry = ber(0x64, ber(0x04, b"cn=joe") + ber(0x30, value))
    done = ber(0x65, ber(0x0A, b"\0") + ber(0x04, b"") + ber(0x04, b""))
    parts = (entry, done) if found else (done,)
    return b"".join(ber(0x30, ber(0x02, number.to_bytes(2, "big")) + part) for part in parts)


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
