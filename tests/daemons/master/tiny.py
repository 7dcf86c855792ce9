"""A daemon that does next to nothing, for tests of the master: it serves one line on what it listens to."""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any

from appliance.config.snapshot import Snapshot
from appliance.config.terms import Terms
from appliance.daemons.skeleton import Birth, LeanBirth
from appliance.observe import maillog


class Tiny:
    def __init__(self, birth: Birth | LeanBirth) -> None:
        self.birth, self.in_force = birth, birth.in_force
        self.pairs = dict(birth.certificates) if isinstance(birth, Birth) else {}
        self.servers: list[asyncio.Server] = []

    async def start(self) -> None:
        if (self.birth.state_dir / f"die.{self.birth.worker}").exists():
            os._exit(7)
        for socks in self.birth.listening.values():
            for sock in socks:
                self.servers.append(await self._serve(sock))

    async def _serve(self, sock: Any) -> asyncio.Server:
        serve = asyncio.start_unix_server if sock.family.name == "AF_UNIX" else asyncio.start_server
        return await serve(self._session, sock=sock)

    async def _session(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"220 {self.in_force.terms.host} {self.birth.worker} {os.getpid()}\r\n".encode())
        maillog.log("connect from unknown[127.0.0.1]")
        await writer.drain()
        writer.close()

    def prepare(self, _new: Snapshot | Terms) -> None:
        if (self.birth.state_dir / f"refuse.{self.birth.worker}").exists():
            raise ValueError("no, thank you")
        hold, end = self.birth.state_dir / f"hold.{self.birth.worker}", time.monotonic() + 20
        while hold.exists() and time.monotonic() < end:
            time.sleep(0.01)

    def commit(self, new: Snapshot | Terms) -> None:
        self.in_force = new

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        self.pairs = dict(certificates)

    async def drain(self, grace: float) -> None:
        for server in self.servers:
            server.close()

    def health(self) -> dict[str, Any]:
        return {
            "uid": os.getuid(),
            "fds": len(os.listdir("/proc/self/fd")),
            "pairs": {name: len(pair[0]) for name, pair in self.pairs.items()},
            "greeting": self.in_force.terms.host,
            "degraded": [],
        }


def create(birth: Birth | LeanBirth) -> Tiny:
    return Tiny(birth)
