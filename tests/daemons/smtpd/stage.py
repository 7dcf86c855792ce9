"""A stage for smtpd sessions: a real loop and loopback sockets; the engine, the queue, stated and DNS are played."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from appliance.config.model import Wiring
from appliance.connectors.proxy_filter import ProxyFilter, ProxyFilters
from appliance.daemons.compose.proxies import proxy_settings
from appliance.daemons.smtpd import limits
from appliance.daemons.smtpd.front import Front
from appliance.daemons.smtpd.rules import Rules
from appliance.engine.pipeline import Group
from appliance.mail.context import Context
from appliance.mail.ports import Unavailable
from appliance.mail.verdict import ACCEPT, Decision
from appliance.net.client_name import ClientName
from appliance.queue.envelope import Trailer, decode_trailer
from appliance.queue.errors import SpoolFull
from appliance.queue.large import LargeFile
from appliance.queue.space import Space
from appliance.queue.writer import Writer

Rule = Callable[[Context], Any]


class Engine:
    """Accepts all; `rules` maps a stage to a function of the Context (a Decision, groups, or something to await)."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self.asked: list[Context] = []
        self.all_stages = True
        #: The policy of early_talker (engine.rules.CheckPolicy), if it stands anywhere.
        self.manners: Any = None

    def standing(self, name: str, role: str) -> Any:
        return self.manners if name == "early_talker" else None

    def stands(self, role: str, stage: str) -> bool:
        return self.all_stages or stage in self.rules

    def talks(self, role: str) -> None:
        return None

    def ask(
        self, ctx: Context, talks: Any = None, recall: bool = False, only: Any = None
    ) -> Decision | Awaitable[Decision]:
        self.asked.append(ctx)
        rule = self.rules.get(ctx.stage)
        return rule(ctx) if rule else ACCEPT

    def message(self, ctx: Context, talks: Any = None) -> list[Group] | Awaitable[list[Group]]:
        self.asked.append(ctx)
        rule = self.rules.get("message")
        return rule(ctx) if rule else [Group(tuple(range(len(ctx.recipients))), ACCEPT)]

    def at(self, stage: str) -> list[Context]:
        return [ctx for ctx in self.asked if ctx.stage == stage]


class Kept(NamedTuple):
    content: bytes
    trailer: Trailer
    large: bool


class Intake:
    """The worker's side of the queue. `gate`: commits wait for it. `error`: commits raise it."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.space: Space | None = Space(1 << 40, 1 << 20)
        self.larges = 100
        self.aborted = 0
        self._lane = Writer("test", asyncio.get_running_loop().call_soon_threadsafe)
        self.begun = asyncio.Event()

    async def commit(self, content: bytes, trailer: Trailer) -> None:
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.kept.append(Kept(content, trailer, False))

    def large(self) -> LargeFile | None:
        if not self.larges:
            return None
        self.larges -= 1
        return LargeFile(f"large{self.larges}", os.dup(self._file()), self._lane, self._ended)

    def large_soon(self) -> "asyncio.Future[LargeFile]":
        """None comes any more: as a queue whose delivery is away."""
        future: asyncio.Future[LargeFile] = asyncio.get_running_loop().create_future()
        future.set_exception(SpoolFull("none is left"))
        return future

    def _file(self) -> int:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())

    def _ended(self, file: LargeFile, notices: list[Any]) -> None:
        if notices and hasattr(notices[0], "trailer"):
            content = os.pread(file.fd, file.size, file.content_offset)
            self.kept.append(Kept(content, decode_trailer(notices[0].trailer), True))
        else:
            self.aborted += 1
        os.close(file.fd)

    def room(self) -> Space | None:
        return self.space


class Counts(NamedTuple):
    over: str = ""


class State:
    """stated, played: `over` is the limit that a new connection passes; `away` makes it unavailable."""

    def __init__(self) -> None:
        self.over = ""
        self.away = False
        self.open: dict[str, int] = {}
        self.count = 0
        self.good: list[str] = []
        self.charged = 0

    async def connect(self, address: str, limits: Any) -> Counts:
        self.open[address] = self.open.get(address, 0) + 1
        if self.away:
            raise Unavailable("stated is away")
        return Counts(self.over)

    def entered(self, address: str, limits: Any) -> None:
        self.open[address] = self.open.get(address, 0) + 1

    def disconnect(self, address: str) -> None:
        self.open[address] -= 1

    async def messages(self, address: str, cost: int, period: float) -> int:
        if self.away:
            raise Unavailable("stated is away")
        self.count += cost
        return self.count

    recipients = messages

    def accepted(self, address: str) -> None:
        self.good.append(address)

    def errors(self, address: str, count: int = 1) -> None:
        self.charged += count


class Told(NamedTuple):
    wiring: Wiring
    hash: str


class Stage:
    """`async with Stage(limits={...}, listen={...}) as stage:` and then `client = await stage.connect()`."""

    def __init__(self, **sections: dict[str, Any]) -> None:
        listen = {"name": "public", **sections.pop("listen", {})}
        gateway = {"hostname": "mx.example.com", **sections.pop("gateway", {})}
        self.wiring = Wiring.model_validate({"gateway": gateway, "listen": [listen], **sections})
        self.engine_ = Engine()
        #: stated's memory of senders (greeting.Senders), if there is one.
        self.senders: Any = None
        self.proxies = ProxyFilters(1)
        self.utf8 = False
        #: What rewrites addresses (addresses.Rewriter), if anything does.
        self.rewriter_: Any = None
        self.name = ClientName("unknown", "unknown", "none")
        self.naming: Callable[[str], Awaitable[ClientName]] | None = None
        self._clients: list[Client] = []

    def engine(self, snapshot: Any) -> Any:
        return self.engine_

    def rewriter(self, snapshot: Any) -> Any:
        return self.rewriter_

    def takes_utf8(self, snapshot: Any) -> bool:
        return self.utf8

    def proxy(self, snapshot: Any, place: str) -> ProxyFilter:
        return self.proxies.of(proxy_settings(snapshot, place))

    async def client_name(self, address: str) -> ClientName:
        return await self.naming(address) if self.naming else self.name

    def rules(self, wiring: Wiring | None = None, hash_: str = "hash") -> Rules:
        return Rules(Told(wiring or self.wiring, hash_), self)  # type: ignore[arg-type]

    async def __aenter__(self) -> "Stage":
        self.intake, self.state = Intake(), State()
        self.front = Front(self.rules(), self.intake, self.state, self.client_name, senders=self.senders)
        self.front.watch.interval = 0.02
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.front.accept_on(self.sock, "public")
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()
        await self.front.drain(0.0, 1.0)
        self.proxies.close()
        self.sock.close()

    async def connect(self, banner: bool = True) -> "Client":
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22))
        self._clients.append(client)
        if banner:
            assert (await client.reply()).startswith("220 mx.example.com")
        return client

    async def hello(self) -> "Client":
        client = await self.connect()
        await client.say("EHLO client.example.net")
        return client

    async def content(self, sender: str = "a@example.net", recipient: str = "b@example.com") -> "Client":
        """A client behind 354."""
        client = await self.hello()
        await client.say(f"MAIL FROM:<{sender}>")
        await client.say(f"RCPT TO:<{recipient}>")
        assert (await client.say("DATA")).startswith("354")
        return client

    def session(self) -> Any:
        """The only session."""
        (session,) = self.front.sessions
        return session


class Trips:
    """How often a limit tripped since this was made."""

    def __init__(self, name: str) -> None:
        self._counter = limits._COUNTERS[name]
        self._before = self._counter._value.get()

    @property
    def count(self) -> float:
        return float(self._counter._value.get() - self._before)


class Client:
    """A bare SMTP client: octets out, replies in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def line(self) -> str:
        """One line, without its end."""
        return (await asyncio.wait_for(self.reader.readline(), 10)).decode().rstrip("\r\n")

    async def reply(self) -> str:
        """One reply, all lines; "" when the connection has ended."""
        lines = []
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 10)).decode()
            lines.append(line)
            if line[3:4] != "-":
                return "".join(lines).rstrip("\r\n")

    async def say(self, line: str) -> str:
        self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def ended(self) -> bytes:
        """What still comes until the server ends the connection."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 10)
        return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """End with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()
