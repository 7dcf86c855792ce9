"""One question to one name server, over UDP and, when the answer is truncated, over TCP (RFC 1035, 6891, 7766).

Contract: every question has a socket of its own (a random port, taken by the kernel for a connected socket) and a random
id; what does not match id, question and server is ignored as if it had not come. Every wait ends by `deadline` (loop
time).
What failure means for the mail: Failed, an Unavailable, which is temperror to whoever asked; never "no record".
"""

import asyncio
import ipaddress
import socket
import struct
from typing import Literal

import dns.rcode
import dns.rdatatype

from appliance.net import message
from appliance.net.message import Question, Reply
from appliance.observe import metrics, oplog
from appliance.observe.contact import Contact
from appliance.observe.text import in_words
from appliance.protocol.errors import Unavailable

#: How a question can fail; `refused` is every answer that is neither NOERROR nor NXDOMAIN nor SERVFAIL.
Kind = Literal["timeout", "servfail", "refused", "garbage", "network"]
#: What a failure adds to a server's trouble: SERVFAIL is mostly the fault of the domain that was asked for.
_WEIGHT: dict[Kind, int] = {"timeout": 4, "servfail": 1, "refused": 4, "garbage": 4, "network": 4}
_DOWN = 12
#: More than was announced; what is longer is cut off by the kernel, and broken therefore.
_MAX_UDP = 4096
log = oplog.get("dns")

_QUERIES = metrics.counter("postgate_dns_queries_total", "Questions to name servers", ("server", "result"))
_DEGRADED = metrics.gauge("postgate_dns_server_degraded", "1 while a name server fails.", ["server"])
_SECONDS = metrics.histogram("postgate_dns_seconds", "Time that name servers took, failures included", ("server",))


class Failed(Unavailable):
    """A name server did not give an answer. `kind` is how."""

    def __init__(self, text: str, kind: Kind) -> None:
        super().__init__(text)
        self.kind = kind


def parse_server(text: str) -> tuple[str, int]:
    """("192.0.2.1", 53) of "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:53". Raises ValueError."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, port = text.split(":")
    return str(ipaddress.ip_address(host)), int(port)


class Upstream:
    """A name server. `edns` turns False for good once it answered FORMERR or NOTIMP to a question with EDNS, and well to
    the same one without. `trouble` grows with failures in a row; `silent`: the last question got no answer at all, or
    none of use (SERVFAIL is one, of the domain that was asked for)."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.edns = True
        self.trouble = 0
        self.silent = False
        #: What it failed to answer last, and when (loop time).
        self.missed: Question | None = None
        self.asked_at = 0.0
        self.contact = Contact()
        self._text = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        self._answered = _QUERIES.labels(self._text, "answered")
        self._seconds = _SECONDS.labels(self._text)
        self._degraded = _DEGRADED.labels(self._text)
        self._degraded.set(0)

    def __str__(self) -> str:
        return self._text

    @property
    def down(self) -> bool:
        """So many failures in a row that it is no accident."""
        return self.trouble >= _DOWN

    async def ask(self, question: Question, deadline: float) -> Reply:
        """The server's answer, NOERROR or NXDOMAIN. Raises Failed on anything else and on time running out."""
        loop = asyncio.get_running_loop()
        begun = self.asked_at = loop.time()
        try:
            reply = await self._ask(question, deadline)
        except Failed as error:
            self._failed(error, question, loop.time() - begun)
            _QUERIES.labels(self._text, error.kind).inc()
            raise
        finally:
            self._seconds.observe(loop.time() - begun)
        self._well()
        self._answered.inc()
        return reply

    def _failed(self, error: Failed, question: Question, seconds: float) -> None:
        why, before = f"{error}, after {seconds:.1f} s", self.down
        self.trouble += _WEIGHT[error.kind]
        self.silent = error.kind != "servfail"
        if self.silent:
            self.missed = question
        self.contact.failed(why)
        if self.down and not before:
            self._degraded.set(1)
            log.error("name server fails", server=self._text, why=why)

    def _well(self) -> None:
        if self.down:
            self._degraded.set(0)
            log.warning("name server well again", server=self._text)
        self.trouble, self.silent, self.missed = 0, False, None
        self.contact.answered()

    async def _ask(self, question: Question, deadline: float) -> Reply:
        reply = await self._exchange(question, self.edns, deadline)
        if self.edns and reply.rcode in (message.FORMERR, message.NOTIMP):
            reply = await self._exchange(question, False, deadline)
            self.edns = reply.rcode in (message.FORMERR, message.NOTIMP)
        if reply.rcode not in (message.NOERROR, message.NXDOMAIN):
            kind: Kind = "servfail" if reply.rcode == message.SERVFAIL else "refused"
            raise Failed(
                f"{self} answered {dns.rcode.to_text(dns.rcode.Rcode(reply.rcode))} for {_words(question)}", kind
            )
        return reply

    async def _exchange(self, question: Question, edns: bool, deadline: float) -> Reply:
        query = message.ask(question, edns)
        rubbish: list[str] = []
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._udp(query, rubbish)
                return await self._tcp(query) if reply.truncated else reply
        except TimeoutError as error:
            if rubbish:
                raise Failed(f"{self} answered rubbish for {_words(question)}: {rubbish[0]}", "garbage") from error
            raise Failed(f"{self} did not answer in time for {_words(question)}", "timeout") from error
        except (OSError, EOFError) as error:
            why = in_words(error) if isinstance(error, OSError) else error
            raise Failed(f"{self} failed for {_words(question)}: {why}", "network") from error
        except ValueError as error:
            raise Failed(f"{self} answered rubbish for {_words(question)}: {error}", "garbage") from error

    async def _udp(self, query: bytes, rubbish: list[str]) -> Reply:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect((self.host, self.port))
            loop.add_reader(sock.fileno(), _receive, sock, query, answer, rubbish)
            try:
                sock.send(query)
                return await answer
            finally:
                loop.remove_reader(sock.fileno())

    async def _tcp(self, query: bytes) -> Reply:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(struct.pack("!H", len(query)) + query)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = message.read(query, await reader.readexactly(length))
        finally:
            writer.close()
        if reply is None or reply.truncated:
            raise ValueError("no answer over TCP")
        return reply


def _words(question: Question) -> str:
    return f"{message.name_text(question.name)} {dns.rdatatype.to_text(dns.rdatatype.RdataType(question.rtype))}"


def _receive(sock: socket.socket, query: bytes, answer: "asyncio.Future[Reply]", rubbish: list[str]) -> None:
    if answer.done():
        return
    try:
        reply = message.read(query, sock.recv(_MAX_UDP))
    except (BlockingIOError, InterruptedError):
        return
    except ValueError as error:
        rubbish[:] = [str(error)]
    except OSError as error:
        answer.set_exception(error)
    else:
        if reply is not None:
            answer.set_result(reply)
