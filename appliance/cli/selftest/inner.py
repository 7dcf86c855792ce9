"""The inner server of a self-test: takes mail for known recipients, refuses others, can be away and come back.

Contract: a mail is in `mails` before its 250, with what MAIL said of it in `said`. It lives on the loop of the command.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable

#: Seconds that a second copy has to come.
AGAIN = 0.5
_ADDRESS = re.compile(r"<([^<>]*)>")


class Inner:
    """One server on a port of its own. `known`: whether it has such a mailbox."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        self._known = known
        self.port = 0
        #: Content as it came.
        self.mails: list[bytes] = []
        #: The MAIL command of each.
        self.said: list[str] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._came = asyncio.Event()

    async def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Gone, connections too."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def has(self, token: bytes, seconds: float) -> bytes | None:
        """The mail with `token` in it, once it is here; None if it does not come in time."""
        found = await self._copies(token, 1, seconds)
        return self.mails[found[0]] if found else None

    async def has_again(self, token: bytes) -> bool:
        """Whether it comes twice."""
        return len(await self._copies(token, 2, AGAIN)) > 1

    def told(self, token: bytes) -> str:
        """What MAIL said of the mail with `token` in it, "" if it is not here."""
        return next((said for said, mail in zip(self.said, self.mails, strict=True) if token in mail), "")

    async def _copies(self, token: bytes, count: int, seconds: float) -> list[int]:
        """Where mails with `token` are: so many, or those that are here in time."""
        found: list[int] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._came.clear()
                    found = [number for number, mail in enumerate(self.mails) if token in mail]
                    if len(found) >= count:
                        break
                    await self._came.wait()
        return found

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        writer.write(b"220 inner.selftest.example ESMTP\r\n")
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            said = ""
            while octets := await reader.readline():
                line = octets.decode("utf-8", "replace").strip()
                said = line if line.upper().startswith("MAIL ") else said
                answer = await self._answer(line, said, reader, writer)
                writer.write(answer)
                await writer.drain()
                if answer.startswith(b"221"):
                    break
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, line: str, said: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        verb = line.split(" ", 1)[0].upper()
        if verb in ("EHLO", "HELO"):
            return b"250-inner.selftest.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-PIPELINING\r\n250 SIZE 0\r\n"
        if verb == "RCPT":
            found = _ADDRESS.search(line)
            known = found is not None and self._known(found[1].lower())
            return b"250 2.1.5 Ok\r\n" if known else b"550 5.1.1 No such mailbox\r\n"
        if verb == "DATA":
            writer.write(b"354 Go on\r\n")
            await writer.drain()
            octets = await reader.readuntil(b"\r\n.\r\n")
            self.mails.append(octets[:-3].replace(b"\r\n..", b"\r\n."))
            self.said.append(said)
            self._came.set()
            return b"250 2.0.0 Kept\r\n"
        return b"221 2.0.0 Bye\r\n" if verb == "QUIT" else b"250 2.0.0 Ok\r\n"
