"""An SMTP or LMTP server for tests that answers each verb as it is told, down to the octets, or not at all."""

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

CUT = object()
SILENT = object()
OK = b"250 2.0.0 Ok\r\n"


class Peer:
    """`says` maps a verb (GREETING, EHLO, MAIL, RCPT, DATA, END, BDAT, RSET, QUIT, STARTTLS) to octets, CUT, SILENT, or a
    list of these taken one after the other (the last one stays). `commands` and `bodies` are what came, `sessions` counts
    connections."""

    def __init__(self, *features: str, lmtp: bool = False, tls: ssl.SSLContext | None = None, **says: Any) -> None:
        self.features, self.lmtp, self.tls = list(features), lmtp, tls
        self.says: dict[str, Any] = {
            verb.upper(): list(what) if isinstance(what, list) else what for verb, what in says.items()
        }
        self.commands: list[str] = []
        self.bodies: list[bytes] = []
        self.sessions = 0
        self.open = 0
        self.most_open = 0
        #: Until then nothing is said behind the content, or to DATA.
        self.hold: asyncio.Event | None = None
        self.hold_data: asyncio.Event | None = None
        self.got_body = asyncio.Event()
        self.log: list[tuple[int, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path | None = None, port: int = 0) -> "Peer":
        if path is not None:
            self._server = await asyncio.start_unix_server(self._session, str(path), limit=1 << 20)
        else:
            self._server = await asyncio.start_server(self._session, "127.0.0.1", port, limit=1 << 20)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _answer(self, verb: str, default: bytes) -> Any:
        what = self.says.get(verb, default)
        if isinstance(what, list):
            return what.pop(0) if len(what) > 1 else what[0]
        return what

    async def _say(self, writer: asyncio.StreamWriter, verb: str, default: bytes) -> bytes:
        what = self._answer(verb, default)
        if what is CUT:
            raise ConnectionResetError
        if what is SILENT:
            await asyncio.sleep(3600)
        writer.write(what)
        await writer.drain()
        return what

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.sessions += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        number = self.sessions
        try:
            await self._talk(reader, writer, number)
        except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await self._say(writer, "GREETING", b"220 peer ESMTP\r\n")
        accepted = 0
        chunks = b""
        while line := (await reader.readline()).decode():
            line = line.rstrip("\r\n")
            verb = re.split(r"[ :]", line)[0].upper()
            self.commands.append(line)
            self.log.append((number, line))
            if verb in ("EHLO", "LHLO"):
                lines = ["peer", *self.features]
                text = "".join(f"250-{one}\r\n" for one in lines[:-1]) + f"250 {lines[-1]}\r\n"
                await self._say(writer, "EHLO", text.encode())
                accepted = 0
            elif verb == "STARTTLS":
                said = await self._say(writer, "STARTTLS", b"220 go\r\n")
                if said.startswith(b"220") and self.tls is not None:
                    await writer.start_tls(self.tls)
            elif verb == "RCPT":
                accepted += (await self._say(writer, "RCPT", OK)).startswith(b"2")
            elif verb == "DATA":
                if self.hold_data is not None:
                    await self.hold_data.wait()
                said = await self._say(writer, "DATA", b"354 go\r\n" if accepted else b"503 no\r\n")
                if said.startswith(b"354"):
                    await self._body(reader, writer, accepted if self.lmtp else 1)
                    accepted = 0
            elif verb == "BDAT":
                words = line.split()
                chunks += await reader.readexactly(int(words[1]))
                if words[-1].upper() == "LAST":
                    self.bodies.append(chunks)
                    self.got_body.set()
                    chunks, accepted = b"", 0
                await self._say(writer, "BDAT", OK)
            elif verb == "QUIT":
                await self._say(writer, "QUIT", b"221 bye\r\n")
                return
            else:
                if verb == "RSET":
                    accepted = 0
                await self._say(writer, verb, OK)

    async def _body(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: int) -> None:
        lines: list[bytes] = []
        while (line := await reader.readuntil(b"\n")) != b".\r\n":
            lines.append(line)
        self.bodies.append(b"".join(lines))
        self.got_body.set()
        if self.hold is not None:
            await self.hold.wait()
        for _ in range(replies):
            await self._say(writer, "END", b"250 2.0.0 Ok: queued as PEER1\r\n")
