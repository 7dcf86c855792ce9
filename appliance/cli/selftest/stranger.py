"""A stranger who speaks SMTP to the gateway, from whatever address the self-test gives it (PROXY protocol).

Contract: one command, one reply; nothing is retried. What goes wrong on the wire is a reply of its own kind: code 0 and
words ("hung up", "no answer within 20 s"), so that a scenario compares replies only. Who was not greeted with 220, or
got no answer, says nothing more: every later reply is those words, none is taken for that to another command.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import NamedTuple, Self

#: Seconds for one reply.
PATIENCE = 20.0
#: Seconds in which what nobody asked for must come, to be seen.
UNASKED = 0.3
#: Seconds for an orderly end; a handshake that was given up never comes to it.
LEAVE = 2.0
_HUNG_UP, _LOST, _SILENT = "the gateway hung up", "connection lost", "no answer within"


class Reply(NamedTuple):
    """A reply; code 0: there was none, `text` says why."""

    code: int
    text: str

    @property
    def short(self) -> str:
        """On one line, for a table."""
        return f"{self.code} {self.text}".replace("\n", " | ") if self.code else self.text

    @property
    def ended(self) -> bool:
        """The connection is over; silence is not an end."""
        return not self.code and self.text.startswith((_HUNG_UP, _LOST))

    @property
    def silent(self) -> bool:
        return not self.code and self.text.startswith(_SILENT)


class Stranger:
    """Use it in `async with`. `address`: whom the gateway sees ("" = nobody is announced, the live gateway)."""

    def __init__(self, host: str, port: int, address: str = "", helo: str = "client.stranger.test") -> None:
        self._place, self._address, self.helo = (host, port), address, helo
        self.greeting = Reply(0, "not connected")
        self.features: dict[str, str] = {}
        #: The version of TLS, "" without any.
        self.tls = ""
        self._over: Reply | None = None

    @property
    def address(self) -> str:
        return self._address

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(PATIENCE):
                self._reader, self._writer = await asyncio.open_connection(*self._place, limit=1 << 20)
        except (OSError, TimeoutError) as error:
            raise ConnectionError(f"cannot connect to {self._place[0]}:{self._place[1]}: {error}") from None
        if self._address:
            family = "TCP6" if ":" in self._address else "TCP4"
            other = "2001:db8::25" if ":" in self._address else "198.51.100.1"
            self._writer.write(f"PROXY {family} {self._address} {other} 40000 25\r\n".encode())
        self.tls, self._over = "", None
        self.greeting = await self.reply()
        if self.greeting.code != 220:
            self._over = Reply(0, f"no greeting: {self.greeting.short}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(LEAVE):
                await self._writer.wait_closed()
        self._writer.transport.abort()

    async def reply(self) -> Reply:
        """The next reply, all its lines."""
        reply = self._over or await self._read(PATIENCE)
        if not reply.code:
            self._over = reply
        return reply

    async def unasked(self) -> Reply | None:
        """What comes though nothing was said, an end too; None: nothing."""
        reply = self._over or await self._read(UNASKED)
        return None if reply.silent and not self._over else reply

    async def _read(self, patience: float) -> Reply:
        lines: list[str] = []
        try:
            async with asyncio.timeout(patience):
                while True:
                    line = (await self._reader.readline()).decode("utf-8", "replace").rstrip("\r\n")
                    if not line:
                        return Reply(0, _HUNG_UP)
                    lines.append(line[4:])
                    if line[3:4] != "-":
                        return Reply(int(line[:3]) if line[:3].isdigit() else 0, "\n".join(lines))
        except TimeoutError:
            return Reply(0, f"{_SILENT} {patience:.0f} s")
        except OSError as error:
            return Reply(0, f"{_LOST}: {error.strerror or error}")

    async def raw(self, octets: bytes) -> None:
        """Send as it stands; nothing, if nobody listens."""
        if self._over:
            return
        self._writer.write(octets)
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def say(self, line: str) -> Reply:
        """One command, and its reply."""
        await self.raw(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return await self.reply()

    async def hello(self, tls: bool = False) -> Reply:
        """EHLO; `features` are known afterwards. `tls`: and once more behind STARTTLS, if that is offered."""
        answer = await self.say(f"EHLO {self.helo}")
        words = [line.partition(" ") for line in answer.text.split("\n")[1:]]
        self.features = {word[0].upper(): word[2] for word in words}
        if tls and "STARTTLS" in self.features and (answer := await self.starttls()).code == 220:
            return await self.hello()
        return answer

    async def starttls(self) -> Reply:
        """STARTTLS with whatever certificate there is."""
        answer = await self.say("STARTTLS")
        return await self.handshake(answer) if answer.code == 220 else answer

    async def handshake(self, ready: Reply) -> Reply:
        """TLS behind `ready`: that reply, or why it failed."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            async with asyncio.timeout(PATIENCE):
                await self._writer.start_tls(context)
        except TimeoutError:
            self._over = Reply(0, f"{_SILENT} {PATIENCE:.0f} s: TLS")
        except OSError as error:
            self._over = Reply(0, f"TLS: {error}")
        secured = self._writer.get_extra_info("ssl_object")
        self.tls = (secured.version() or "") if secured is not None and self._over is None else ""
        return self._over or ready

    async def envelope(self, sender: str, *recipients: str, options: str = "") -> Reply:
        """MAIL and RCPT: the first refusal, or the last reply."""
        answer = await self.say(f"MAIL FROM:<{sender}>{options}")
        for recipient in recipients:
            if answer.code != 250:
                break
            answer = await self.say(f"RCPT TO:<{recipient}>")
        return answer

    async def content(self, octets: bytes) -> Reply:
        """DATA, stuffed."""
        answer = await self.say("DATA")
        return await self.stuffed(octets) if answer.code == 354 else answer

    async def stuffed(self, octets: bytes) -> Reply:
        """What follows 354."""
        stuffed = octets.replace(b"\r\n.", b"\r\n..")
        await self.raw(b"." + stuffed if stuffed.startswith(b".") else stuffed)
        await self.raw(b".\r\n" if octets.endswith(b"\r\n") else b"\r\n.\r\n")
        return await self.reply()


class Way(NamedTuple):
    """How a mail is sent: over TLS, with more words behind MAIL FROM, its content by other means than DATA."""

    tls: bool = False
    options: str = ""
    content: Callable[[Stranger, bytes], Awaitable[Reply]] = Stranger.content


async def send(stranger: Stranger, sender: str, recipient: str, octets: bytes, way: Way) -> Reply:
    """One whole mail on a connection of its own: the reply that decided."""
    async with stranger:
        if stranger.greeting.code != 220:
            return stranger.greeting
        answer = await stranger.hello(way.tls)
        if answer.code == 250:
            answer = await stranger.envelope(sender, recipient, options=way.options)
        if answer.code == 250:
            answer = await way.content(stranger, octets)
        await stranger.raw(b"QUIT\r\n")
        return answer
