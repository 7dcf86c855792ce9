"""One question to one name server, over UDP and, when the answer is truncated, over TCP (RFC 1035, 6891, 7766).

Contract: every question has a socket of its own (a random port, taken by the kernel for a connected socket) and a random
id; what does not match id, question and server is ignored as if it had not come. Every wait ends by `deadline` (loop
time).
What failure means for the mail: Unavailable, which is temperror to whoever asked; never "no record".
"""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from appliance.protocol.errors import Unavailable

_EDNS_SIZE = 1232
_HEAD = struct.Struct("!HH")


def parse_server(text: str) -> tuple[str, int]:
    """("192.0.2.1", 53) of "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:53". Raises ValueError."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, port = text.split(":")
    return str(ipaddress.ip_address(host)), int(port)


def _question(name: dns.name.Name, rtype: str, edns: bool) -> dns.message.QueryMessage:
    size = _EDNS_SIZE if edns else None
    use = 0 if edns else None
    return dns.message.make_query(name, rtype, use_edns=use, payload=size, id=secrets.randbits(16))


class Upstream:
    """A name server. `edns` turns False for good once it answered FORMERR or NOTIMP to a question with EDNS."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.edns = True
        self.failures = 0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if ":" not in self.host else f"[{self.host}]:{self.port}"

    async def ask(self, name: dns.name.Name, rtype: str, deadline: float) -> dns.message.Message:
        """The server's answer, NOERROR or NXDOMAIN. Raises Unavailable on anything else and on time running out."""
        reply = await self._exchange(name, rtype, deadline)
        if self.edns and reply.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
            self.edns = False
            reply = await self._exchange(name, rtype, deadline)
        if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise Unavailable(f"{self} answered {dns.rcode.to_text(reply.rcode())} for {name} {rtype}")
        return reply

    async def _exchange(self, name: dns.name.Name, rtype: str, deadline: float) -> dns.message.Message:
        query = _question(name, rtype, self.edns)
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._udp(query)
                return await self._tcp(query) if reply.flags & dns.flags.TC else reply
        except TimeoutError as error:
            raise Unavailable(f"{self} did not answer in time for {name} {rtype}") from error
        except (OSError, EOFError, ValueError) as error:
            raise Unavailable(f"{self}: {error} (asked for {name} {rtype})") from error

    async def _udp(self, query: dns.message.QueryMessage) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dns.message.Message] = loop.create_future()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect((self.host, self.port))
            loop.add_reader(sock.fileno(), _receive, sock, query, answer)
            try:
                sock.send(query.to_wire())
                return await answer
            finally:
                loop.remove_reader(sock.fileno())

    async def _tcp(self, query: dns.message.QueryMessage) -> dns.message.Message:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            wire = query.to_wire()
            writer.write(struct.pack("!H", len(wire)) + wire)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = _matching(await reader.readexactly(length), query)
        finally:
            writer.close()
        if reply is None or reply.flags & dns.flags.TC:
            raise ValueError("rubbish over TCP")
        return reply


def _receive(sock: socket.socket, query: dns.message.QueryMessage, answer: "asyncio.Future[dns.message.Message]") -> None:
    try:
        data = sock.recv(65535)
    except (BlockingIOError, InterruptedError):
        return
    except OSError as error:
        if not answer.done():
            answer.set_exception(error)
        return
    reply = _matching(data, query)
    if reply is not None and not answer.done():
        answer.set_result(reply)


def _matching(data: bytes, query: dns.message.QueryMessage) -> dns.message.Message | None:
    """The reply to `query`, or None for what is not one (a forgery, an echo, rubbish)."""
    if len(data) < 12 or _HEAD.unpack_from(data)[0] != query.id:
        return None
    with contextlib.suppress(dns.exception.DNSException, ValueError, struct.error):
        reply = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
        bare = not reply.question and reply.rcode() != dns.rcode.NOERROR
        if query.is_response(reply) or (bare and reply.flags & dns.flags.QR):
            return reply
    return None
