"""The temporary gateway as a process: `postgate run --config FILE`, watched, asked, killed in parts, stopped.

Contract: it ends with the command, whatever happens to that, kill -9 too. What it logs is in `mail.log` of its folder.
"""

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from appliance.cli import common, queue_socket
from appliance.daemons import process

#: Seconds for a start, and for an end.
START, END = 30.0, 15.0


class Trouble(Exception):
    """The gateway does not do what it must for a test to be possible at all; words for the operator."""


class Gateway:
    """`config`: its wiring file, in its folder."""

    def __init__(self, config: Path, port: int) -> None:
        self.config, self.port = config, port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Until it greets. Raises Trouble with the end of its log."""
        home = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH", ""))))
        with open(self.config.parent / "output", "ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "appliance.cli", "run", "--config", str(self.config)),
                cwd=self.config.parent,
                env={**os.environ, "PYTHONPATH": path},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=partial(process.end_with, os.getpid()),
            )
        try:
            async with asyncio.timeout(START):
                while not await self._greets():
                    if self._process.returncode is not None:
                        raise Trouble(f"the temporary gateway ended at once:\n{self.tail()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Trouble(f"the temporary gateway did not start within {START:.0f} s:\n{self.tail()}") from None

    async def _greets(self) -> bool:
        try:
            facts = await self.status()
        except click.ClickException:
            return False
        return facts.get("state") == "running"

    async def status(self) -> dict[str, Any]:
        """What `postgate status --json` knows. Raises ClickException."""
        return await asyncio.to_thread(common.ask, str(self.config), {"op": "status"}, 5.0)

    async def pids(self) -> dict[str, list[int]]:
        """Process ids by service."""
        found: dict[str, list[int]] = {}
        for worker in (await self.status())["workers"]:
            if worker["pid"]:
                found.setdefault(worker["service"], []).append(worker["pid"])
        return found

    async def kept(self, token: str) -> str:
        """Where a message with this sender waits: "quarantine", "hold", "queue" or ""."""

        def look() -> str:
            for queue in ("quarantine", "queue"):
                request = {"command": "list", "queue": queue, "sender": token}
                for message in queue_socket.messages(str(self.config), request):
                    return queue if queue == "quarantine" else str(message["queue_name"])
            return ""

        return await asyncio.to_thread(look)

    async def kill(self) -> None:
        """kill -9 the master; its children die with it."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), END)
        except TimeoutError:
            await self.kill()

    def tail(self) -> str:
        """The last lines of its output and log."""
        texts = [path.read_text(errors="replace") for path in self._logs() if path.exists()]
        return "\n".join("\n".join(texts).splitlines()[-15:])

    def _logs(self) -> list[Path]:
        return [self.config.parent / "mail.log", self.config.parent / "output"]
