"""A delivery and the runner that it asks, for tests of content filters that are commands."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from appliance.daemons.runner.daemon import Runner
from appliance.daemons.skeleton import Birth
from appliance.observe import trouble
from appliance.queue.envelope import QueuedRecipient
from tests.daemons.delivery.harness import Running, delivery, settings, snapshot

MAIL = b"Received: from a by b; now\r\nSubject: hi\r\nFrom: s@example.org\r\n\r\nbody\r\n.\r\nFrom here\r\n"
MAIN = Path(__file__).parents[1] / "runner_main.py"
ROOT = Path(__file__).parents[3]


def python(text: str, *words: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", text, *words]


def shell(text: str, *words: str) -> list[str]:
    return ["/bin/sh", "-c", text, "sh", *words]


class Inside:
    """The runner in this process."""

    def __init__(self, state: Path, folder: Path, text: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        path = state / "run" / "runner.sock"
        path.unlink(missing_ok=True)
        self._sock.bind(str(path))
        self._sock.listen(8)
        birth = Birth(
            service="runner", index=0, snapshot=snapshot(folder, text), listening={"unix:runner": [self._sock]},
            rendezvous={}, state_dir=state, certificates={},
        )  # fmt: skip
        self.runner = Runner(birth)

    async def start(self) -> None:
        await self.runner.start()

    async def stop(self) -> None:
        await self.runner.drain(1.0)
        self._sock.close()


class Outside:
    """The runner as a process of its own; `user`: as whom, if we are root."""

    def __init__(self, state: Path, folder: Path, text: str, user: str | None = None) -> None:
        (folder / "runner.toml").write_text(text)
        (state / "run" / "runner.sock").unlink(missing_ok=True)
        self.argv = [sys.executable, str(MAIN), str(state), str(folder / "runner.toml")]
        self._user = user

    async def start(self) -> None:
        self.popen = await asyncio.to_thread(
            subprocess.Popen, self.argv, stdout=subprocess.PIPE, start_new_session=True, user=self._user,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert self.popen.stdout
        assert await asyncio.to_thread(self.popen.stdout.readline) == b"ready\n"

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(5)

    async def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.popen.wait, 10)
        assert self.popen.stdout
        self.popen.stdout.close()


class Both:
    """A delivery and the runner that it asks. `state` is shared."""

    def __init__(self, folder: Path, text: str, running: Running) -> None:
        self.folder, self.text, self.running = folder, text, running
        self.state, self.scans = folder / "state", folder / "state" / "scans"
        self.put, self.empty, self.until = running.put, running.empty, running.until
        self.runner: Inside | Outside | None = None

    async def run(self, *, outside: bool = False, user: str | None = None) -> None:
        """Start a runner."""
        made = (
            Outside(self.state, self.folder, self.text, user) if outside else Inside(self.state, self.folder, self.text)
        )
        await made.start()
        self.runner = made

    async def filtered(self, *recipients: str | QueuedRecipient, **more: Any) -> str:
        more.setdefault("content", MAIL)
        more.setdefault("filter", "scan:")
        return await self.put(*recipients, **more)

    async def result(self, queue_id: str, seconds: float = 10.0) -> Any:
        """The first result of the first recipient."""
        await self.until(lambda: self.running.result(queue_id) is not None, seconds)
        return self.running.result(queue_id)

    async def clean(self) -> None:
        """Nothing of a message is left with the runner (it goes behind the answer)."""
        await self.until(lambda: not self.scans.exists() or not list(self.scans.iterdir()))

    async def flush(self) -> None:
        await self.running.ask(command="flush", all=True)

    @property
    def degraded(self) -> list[str]:
        found = trouble.merged(self.running.delivery.health()["degraded"]).values()
        return [trouble.words(one) for one in found if "puts mail off" in one["what"]]


@contextlib.asynccontextmanager
async def both(
    folder: Path,
    command: list[str],
    more: str = "",
    hop: str = "smtp:[127.0.0.1]:9",
    runner: bool = True,
    queue: str = "",
) -> AsyncIterator[Both]:
    """`more`: lines of [filters.scan]."""
    text = settings(folder, hop, queue=queue) + f"[filters.scan]\ncommand = {json.dumps(command)}\n{more}\n"
    path = {"runner": str(folder / "state" / "run" / "runner.sock")}
    async with delivery(folder, text, more_rendezvous=path) as running:
        made = Both(folder, text, running)
        if runner:
            await made.run()
        try:
            yield made
        finally:
            if made.runner is not None:
                await made.runner.stop()
