"""An MTA that asks a filter: the MTA's side of the milter protocol over asyncio streams, one step at a time."""

import asyncio
from collections.abc import Iterable

from appliance.protocol.milter import packets as p
from appliance.protocol.milter.mta import Heard, MtaMachine, Sent
from appliance.protocol.milter.negotiation import offer

MACROS = {"i": "4F00", "j": "mail.example.com", "v": "Postfix 3.9.0", "mail_addr": "a@example.org"}
Fields = Iterable[tuple[bytes, bytes]]
HEADER: Fields = ((b"From", b" a@example.org"), (b"To", b" user@example.com"), (b"Subject", b" hello"))


class Mta:
    """One connection. `heard` is all that the filter said; steps give the answer, None where none was waited for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, offered: p.Negotiate) -> None:
        self.reader, self.writer = reader, writer
        self.machine = MtaMachine(offered)
        self.heard: list[Heard] = []
        self.macros = dict(MACROS)

    @classmethod
    async def to(cls, path: str, offered: p.Negotiate | None = None, **macros: str) -> "Mta":
        """Connected and agreed."""
        mta = cls(*await asyncio.open_unix_connection(path), offered or offer())
        mta.macros |= macros
        await mta.do(mta.machine.negotiate())
        return mta

    async def do(self, sent: Sent, seconds: float = 10.0) -> Heard | None:
        """Send; wait for the answer if there is one to come."""
        self.writer.write(sent.octets)
        if not sent.waits:
            return None
        async with asyncio.timeout(seconds):
            while True:
                data = await self.reader.read(65536)
                if not data:
                    raise ConnectionResetError("the filter hung up")
                heard = self.machine.receive(data)
                self.heard += heard
                if heard and not heard[-1].progress:
                    return heard[-1]

    async def connect(self, address: str = "192.0.2.1", name: str = "") -> Heard | None:
        family = "6" if ":" in address else "4"
        where = p.Connect(name.encode() or f"[{address}]".encode(), family, 40000, address.encode())
        return await self.do(self.machine.connect(where, self.macros))

    async def helo(self, name: str = "client.example.org") -> Heard | None:
        return await self.do(self.machine.helo(name.encode(), self.macros))

    async def mail(self, sender: str = "a@example.org", *parameters: bytes) -> Heard | None:
        return await self.do(self.machine.mail(f"<{sender}>".encode(), parameters, self.macros))

    async def rcpt(self, recipient: str = "user@example.com") -> Heard | None:
        return await self.do(self.machine.rcpt(f"<{recipient}>".encode(), (), self.macros))

    async def data(self) -> Heard | None:
        return await self.do(self.machine.data(self.macros))

    async def content(self, header: Fields = HEADER, body: bytes = b"body\r\n") -> Heard:
        """All of the content, and the answer to its end."""
        for name, value in header:
            await self.do(self.machine.header(name, value))
        await self.do(self.machine.end_of_header(self.macros))
        for at in range(0, len(body), 65535):
            await self.do(self.machine.body(body[at : at + 65535]))
        heard = await self.do(self.machine.end_of_message(self.macros))
        assert heard is not None
        return heard

    async def envelope(self, *recipients: str) -> list[Heard | None]:
        """MAIL, all RCPT, DATA: the answers."""
        answers = [await self.mail()]
        answers += [await self.rcpt(one) for one in recipients or ("user@example.com",)]
        return [*answers, await self.data()]

    async def message(self, header: Fields = HEADER, body: bytes = b"body\r\n") -> Heard:
        """A whole message over this connection."""
        await self.envelope()
        return await self.content(header, body)

    async def begin(self) -> "Mta":
        """CONNECT and HELO."""
        await self.connect()
        await self.helo()
        return self

    async def closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(65536), 5) == b""

    def close(self) -> None:
        self.writer.close()
