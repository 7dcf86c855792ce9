"""A stage for the milter server: a real loop, a unix socket, a temporary folder; the engine and DNS are played."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance.config.model import Milterd, Wiring
from appliance.daemons.milterd.front import Front
from appliance.daemons.milterd.rules import Door, Rules
from appliance.net.client_name import ClientName
from appliance.protocol.milter import packets as p
from tests.daemons.smtpd.stage import Engine
from tests.peers.mta import Mta


class PlayedEngine(Engine):
    """All stages stand; one check `content` at message that may do anything."""

    def __init__(self) -> None:
        super().__init__()
        rulings = {action: SimpleNamespace(action=action) for action in ("hold", "bcc", "redirect", "discard")}
        self.policy = SimpleNamespace(knobs=SimpleNamespace(body=("x",)), rulings=rulings, exceptions=(), derive=None)
        steps = {(role, "message"): (("content",),) for role in ("inbound", "outbound")}
        self.policies = SimpleNamespace(plan=SimpleNamespace(steps=steps), checks={"content": self.policy})

    def standing(self, name: str, role: str) -> Any:
        return self.policy


class PlayedRules(Rules):
    """One front "milter"."""

    def __init__(self, delay_reject: bool = True, **front: Any) -> None:
        wiring = Wiring()
        self.engine = PlayedEngine()  # type: ignore[assignment]
        self.snapshot = SimpleNamespace(hash="played")  # type: ignore[assignment]
        self.hostname, self.delay_reject = "mx.example.com", delay_reject
        self.smtp, self.limits = wiring.smtp, wiring.limits
        self.doors = {"milter": Door(Milterd.model_validate(front), self.engine, (), delay_reject)}

    @property
    def played(self) -> PlayedEngine:
        return self.engine  # type: ignore[return-value]


async def named(address: str) -> ClientName:
    """DNS, played."""
    return ClientName("client.example.org", "client.example.org", "pass")


class Stage:
    """A front at a unix socket below `folder`."""

    def __init__(self, folder: Path, delay_reject: bool = True, **front: Any) -> None:
        self.rules = PlayedRules(delay_reject, **front)
        self.engine = self.rules.played
        self.front = Front(self.rules, named, str(folder))
        self.path = str(folder / "milter.sock")
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(self.path)
        self._sock.listen(64)
        self.front.accept_on(self._sock, "milter")

    async def mta(self, offered: p.Negotiate | None = None, **macros: str) -> Mta:
        return await Mta.to(self.path, offered, **macros)

    async def __aenter__(self) -> "Stage":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.front.drain(0)
        self._sock.close()
