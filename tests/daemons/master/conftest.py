"""A real master as a process of its own, over tiny daemons (tiny.py)."""

import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.peers.ports import free_port
from tests.peers.process import Process

ROOT = Path(__file__).resolve().parents[3]
TINY = "tests.daemons.master.start"
STAGES = '[inbound]\nconnect = []\nhelo = []\nmail = []\nrcpt = ["relay", "recipient"]\ndata = []\nmessage = []\n'
CONFIG = """\
[gateway]
hostname = "{hostname}"
state_dir = "state"
drop = "{drop}"
grace = "5s"
[[listen]]
name = "public"
address = "127.0.0.1:{port}"
workers = 2
{tls}
[relay]
domains = {domains}
next_hop = "smtp:[127.0.0.1]:9"
{more}
"""


def until(true: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Wait until `true()` is, and give it back."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)
    return found


class Master:
    """One gateway of tiny daemons below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.config, self.state, self.logfile = root / "config.toml", root / "state", root / "log"
        self.process: Process | None = None
        (root / "policies").mkdir()
        (root / "policies" / "stages.toml").write_text(STAGES)
        self.write()

    def write(
        self, hostname: str = "mx.example.com", drop: str = "off", tls: str = "", more: str = "", **values: str
    ) -> None:
        domains = values.get("domains", '["example.com"]')
        text = CONFIG.format(hostname=hostname, drop=drop, port=self.port, tls=tls, more=more, domains=domains)
        self.config.write_text(text)

    def start(self, *, wait: bool = True, python: str = sys.executable, module: str = TINY, **env: str) -> "Master":
        argv = [python, "-m", module, str(self.config)]
        self.process = Process(
            argv, self.logfile, {"PYTHONPATH": f"{ROOT}:{Path(msgspec.__file__).parents[1]}", **env}, cwd=ROOT
        )
        if wait:
            until(lambda: "ANNOUNCED" in self.log() or not self.process.running(), "the gateway to serve")
            assert self.process.running(), self.log()
        return self

    def log(self) -> str:
        return self.logfile.read_text(errors="replace") if self.logfile.exists() else ""

    def wait_log(self, text: str, seconds: float = 15.0) -> None:
        until(lambda: text in self.log(), f"{text!r} in the log:\n{self.log()}", seconds)

    def ask(self, op: str) -> Any:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.state / "run" / "control.sock"))
            sock.sendall(json.dumps({"op": op}).encode() + b"\n")
            return json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))

    def workers(self) -> dict[str, Any]:
        return {worker["worker"]: worker for worker in self.ask("status")["workers"]}

    def greeting(self) -> list[str]:
        """[220, host name, worker, pid] of a new connection."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            return sock.makefile().readline().split()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def stop(self) -> int:
        return self.process.stop() if self.process else 0


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """Not started yet; ended with the test, its process group too."""
    made = Master(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def open_master() -> Iterator[Master]:
    """As `master`, in a folder that every user may pass through (pytest closes its own ones, again and again)."""
    with tempfile.TemporaryDirectory(prefix="postgate-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        made = Master(Path(folder))
        yield made
        made.stop()


@pytest.fixture
def running(master: Master) -> Master:
    return master.start()


def gone(pid: int) -> bool:
    """Whether a process is dead (a zombie counts)."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
