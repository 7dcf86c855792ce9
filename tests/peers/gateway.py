"""The gateway under test: always `postgate run --config FILE` as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.peers.ports import free_port, greets, wait_for
from tests.peers.process import Process

ROOT = Path(__file__).resolve().parents[2]
POSTGATE = [sys.executable, "-m", "appliance.cli"]
CONFIG = """\
[gateway]
hostname = "mx.example.com"
state_dir = "state"
policies = "policies"
drop = "off"
[[listen]]
name = "public"
address = "127.0.0.1:{port}"
workers = {workers}
[relay]
domains = ["example.com"]
next_hop = "smtp:[127.0.0.1]:{inner}"
[dns]
zone = "zone"
nameservers = ["{nameserver}"]
"""


#: 127.0.0.1 is client.example.org and back; the name server itself is away.
ZONE = """\
$ORIGIN .
$TTL 300
1.0.0.127.in-addr.arpa PTR client.example.org.
client.example.org A 127.0.0.1
"""


class Gateway:
    """`more` are further lines of the wiring file; `policies` maps a policy file's name to its text; `zone` is what
    DNS says."""

    def __init__(
        self,
        root: Path,
        inner: int,
        workers: int = 2,
        more: str = "",
        policies: dict[str, str] | None = None,
        zone: str = ZONE,
        nameserver: str = "127.0.0.1:9",
    ) -> None:
        self.root, self.port = root, free_port()
        self.config = root / "postgate.toml"
        (root / "policies").mkdir(parents=True, exist_ok=True)
        self.config.write_text(CONFIG.format(port=self.port, inner=inner, workers=workers, nameserver=nameserver) + more)
        (root / "zone").write_text(zone)
        for name, text in (policies or {}).items():
            path = root / "policies" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        #: Where Python finds modules.
        self.path = str(ROOT)
        self.process: Process | None = None

    def start(self, wait: bool = True) -> "Gateway":
        env = {"PYTHONPATH": self.path}
        self.process = Process([*POSTGATE, "run", "--config", str(self.config)], self.root / "gateway.log", env)
        if wait:
            wait_for(self._up, 60, f"the gateway on port {self.port}:\n{self.tail()}")
        return self

    def _up(self) -> bool:
        assert self.process
        assert self.process.running(), f"the gateway ended:\n{self.tail()}"
        return greets(self.port)

    def stop(self) -> int:
        return self.process.stop() if self.process else 0

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def log(self) -> str:
        """Its whole lines: one may still be on its way."""
        path = self.root / "gateway.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return text[: text.rfind("\n") + 1]

    def wait_log(self, text: str, seconds: float = 30.0) -> None:
        wait_for(lambda: text in self.log(), seconds, f"{text!r} in the log")

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`postgate WORDS... --config FILE`."""
        return subprocess.run(
            [*POSTGATE, *words, "--config", str(self.config)],
            env={**os.environ, "PYTHONPATH": self.path},
            capture_output=True,
            text=True,
            check=check,
            timeout=60,
        )

    def status(self) -> Any:
        return json.loads(self.cli("status", "--json").stdout)

    def children(self) -> dict[str, list[int]]:
        """Process ids by service, as the status says."""
        found: dict[str, list[int]] = {}
        for worker in self.status()["workers"]:
            if worker["pid"]:  # between two lives there is none, and kill(0) would end the tests themselves
                found.setdefault(worker["service"], []).append(worker["pid"])
        return found
