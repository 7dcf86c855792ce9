"""A name server on loopback that does as a test says: one function from question to what is sent back."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

import dns.flags
import dns.message
import dns.rrset

Script = Callable[[dns.message.Message, str], "list[bytes]"]


class NameServer:
    """UDP and TCP on one port. `script(query, "udp"|"tcp")` gives the packets to send; `asked` lists the questions."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.ports: set[int] = set()
        self.ids: set[int] = set()
        self.script: Script = lambda query, how: [answer(query).to_wire()]
        self.delay = 0.0

    async def start(self, port: int = 0) -> None:
        self._tcp = await asyncio.start_server(self._stream, "127.0.0.1", port)
        self.port = self._tcp.sockets[0].getsockname()[1]
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", self.port))
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._datagram)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _note(self, data: bytes, how: str) -> dns.message.Message:
        query = dns.message.from_wire(data)
        name, rtype = query.question[0].to_text().split()[0], query.question[0].to_text().split()[2]
        self.asked.append((name, rtype, how))
        self.ids.add(query.id)
        return query

    def _datagram(self) -> None:
        data, peer = self._sock.recvfrom(65535)
        self.ports.add(peer[1])
        query = self._note(data, "udp")
        for packet in self.script(query, "udp"):
            asyncio.get_running_loop().call_later(self.delay, self._send, packet, peer)

    def _send(self, packet: bytes, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # stopped meanwhile
            self._sock.sendto(packet, peer)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        query = self._note(await reader.readexactly(length), "tcp")
        for packet in self.script(query, "tcp"):
            writer.write(struct.pack("!H", len(packet)) + packet)
        await writer.drain()
        writer.close()

    async def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        self._tcp.close()


def answer(query: dns.message.Message, *records: str, rcode: int = 0, soa: str = "") -> dns.message.Message:
    """A reply with records as "name ttl IN type data" (name @ = the question's)."""
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    for record in records:
        name, ttl, _, rtype, data = record.split(" ", 4)
        name = query.question[0].name.to_text() if name == "@" else name
        reply.answer.append(dns.rrset.from_text(name, int(ttl), "IN", rtype, data))
    if soa:
        name, ttl, minimum = soa.split()
        reply.authority.append(dns.rrset.from_text(name, int(ttl), "IN", "SOA", f"ns. host. 1 2 3 4 {minimum}"))
    return reply
