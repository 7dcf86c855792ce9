"""A stage for the policy server: a real loop, unix sockets, real remembered messages; the engine is played."""

import asyncio
import socket
from pathlib import Path
from typing import Any

from appliance.config.model import Policyd
from appliance.daemons.policyd.front import Front
from appliance.daemons.policyd.rules import Door, Rules
from appliance.mail.context import STAGES
from appliance.mail.ports import Site
from appliance.protocol.policy import AnswerReader, encode_request
from tests.daemons.smtpd.stage import Engine
from tests.peers.policy import RCPT


class PlayedRules(Rules):
    """One front "policy"; all stages stand. What is asked early goes to the same played engine."""

    def __init__(self, **front: Any) -> None:
        self.engine = self.early = Engine()  # type: ignore[assignment]
        self.site = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")
        self.standing = {"inbound": frozenset(STAGES), "outbound": frozenset(STAGES)}
        model = Policyd.model_validate(front)
        self.doors = {"policy": Door(model, (), "mx.example.com")}
        self.messages = model.messages

    @property
    def played(self) -> Engine:
        return self.engine  # type: ignore[return-value]


class Client:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> str:
        octets = await asyncio.wait_for(self.reader.readuntil(b"\n\n"), 5)
        found = AnswerReader().feed(octets)
        assert found is not None
        return f"{found.verb} {found.text}".rstrip()

    async def send(self, octets: bytes) -> str:
        self.writer.write(octets)
        return await self.answer()

    async def ask(self, **changes: str) -> str:
        return await self.send(request(**changes))

    async def closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(1), 5) == b""

    def close(self) -> None:
        self.writer.close()


def request(**changes: str) -> bytes:
    return encode_request(RCPT | changes)


class Stage:
    """A front at a unix socket below `folder`."""

    def __init__(self, folder: Path, **front: Any) -> None:
        self.rules = PlayedRules(**front)
        self.engine = self.rules.played
        self.front = Front(self.rules)
        self.path = str(folder / "policy.sock")
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(self.path)
        self._sock.listen(64)
        self.front.accept_on(self._sock, "policy")

    async def client(self) -> Client:
        return Client(*await asyncio.open_unix_connection(self.path))

    async def __aenter__(self) -> "Stage":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.front.drain(0)
        self._sock.close()
