"""A name server that does as a test says, in a thread with a loop of its own, for gateways that are processes."""

import asyncio
import struct
import threading
from collections.abc import Mapping, Sequence

import dns.flags
import dns.message

from tests.net.nameserver import NameServer, Script, answer
from tests.peers.loops import ended


class Dns:
    """`records` maps "name TYPE" to (data, ...); what is not there does not exist. `trouble` (a script of
    tests.net.nameserver) answers instead of them while it is set, `delay` holds every answer back."""

    def __init__(self, records: Mapping[str, Sequence[str]]) -> None:
        self.records = {key.lower(): tuple(data) for key, data in records.items()}
        self.trouble: Script | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server = NameServer()
        self._server.script = self._answer
        self.open = False

    def start(self) -> "Dns":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)
        self.open, self.port = True, self._server.port
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[tuple[str, str, str]]:
        """(name, type, "udp" or "tcp") of each question."""
        return list(self._server.asked)

    def delay(self, seconds: float) -> None:
        self._server.delay = seconds

    def gone(self) -> None:
        """Nobody listens on the port any more."""
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)
        self.open = False

    def back(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.start(self.port), self._loop).result(10)
        self.open = True

    def _answer(self, query: dns.message.Message, how: str) -> list[bytes]:
        if self.trouble is not None:
            return self.trouble(query, how)
        name, _, rtype = query.question[0].to_text().lower().split()
        found = self.records.get(f"{name.rstrip('.')} {rtype}", ())
        known = any(key.startswith(f"{name.rstrip('.')} ") for key in self.records)
        lines = [f"@ 0 IN {rtype} {data}" for data in found]
        return [answer(query, *lines, rcode=0 if known else 3, soa=". 0 0").to_wire(max_size=65535)]

    def stop(self) -> None:
        if self.open:
            self.gone()
        ended(self._loop, self._thread)


def rcode(code: int) -> Script:
    return lambda query, how: [answer(query, rcode=code).to_wire()]


def silence(query: dns.message.Message, how: str) -> list[bytes]:
    return []


def garbage(query: dns.message.Message, how: str) -> list[bytes]:
    """Rubbish of every kind that comes from the right port: none of it is an answer."""
    number = query.id.to_bytes(2, "big")
    other = answer(query, "@ 300 IN A 203.0.113.66")
    other.id ^= 1
    broken = number + b"\x81\x80\0\1\0\5\0\0\0\0" + query.to_wire()[12:-11] + b"\xc0\xff" * 20
    return [b"", b"\0" * 5, b"\xff" * 600, other.to_wire(), query.to_wire(), number + b"\x81\x80" + b"\xff" * 500, broken]


def truncated(query: dns.message.Message, how: str) -> list[bytes]:
    """Truncated over UDP and over TCP: the whole answer never comes."""
    reply = answer(query)
    reply.flags |= dns.flags.TC
    return [reply.to_wire()]


def cut_over_tcp(query: dns.message.Message, how: str) -> list[bytes]:
    """Truncated over UDP; over TCP the connection ends without an answer."""
    return truncated(query, how) if how == "udp" else []


def monster(query: dns.message.Message, how: str) -> list[bytes]:
    """Truncated over UDP; over TCP 64 KB that are slow to read for whom they surprise."""
    if how == "udp":
        return truncated(query, how)
    labels = b"\x01a" * 100
    head = query.id.to_bytes(2, "big") + struct.pack("!HHHHH", 0x8180, 1, 3900, 0, 0) + query.to_wire()[12:-11]
    first = labels + b"\0" + struct.pack("!HHIH", 1, 1, 0, 4) + b"\x7f\0\0\2"
    at = 0xC000 | len(head)
    more = (struct.pack("!H", at) + struct.pack("!HHIH", 1, 1, 0, 4) + b"\x7f\0\0\2") * 3899
    return [head + first + more]
