"""The temporary gateway as a process: `postgate run --config FILE`, watched, asked, killed in parts, stopped.

Contract: it ends with the command, whatever happens to that, kill -9 too. What it logs is in `mail.log` of its folder.
"""

import asyncio
import json
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from appliance.cli import common, queue_socket
from appliance.cli.selftest.earlier import Decided
from appliance.cli.selftest.stranger import Reply
from appliance.daemons import process

#: Seconds for a start, and for an end.
START, END = 30.0, 10.0
#: Seconds that a line of the log may take to be written, behind a reply.
LOGGED = 1.0
_ID = re.compile(r"\[([0-9A-Za-z]{8,})\]$|queued as ([0-9A-Za-z]{8,})")


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

    async def status(self, within: float = 2.0) -> dict[str, Any]:
        """What `postgate status --json` knows, from those who answer in so many seconds. Raises ClickException."""
        return await asyncio.to_thread(common.ask, str(self.config), {"op": "status", "within": within}, 5.0)

    async def pids(self) -> dict[str, list[int]]:
        """Process ids by service."""
        found: dict[str, list[int]] = {}
        for worker in (await self.status())["workers"]:
            if worker["pid"]:
                found.setdefault(worker["service"], []).append(worker["pid"])
        return found

    async def reload(self) -> None:
        """Put the files as they are now in force. Raises Trouble."""
        outcome = await asyncio.to_thread(common.ask, str(self.config), {"op": "reload"}, 60.0)
        if not outcome["good"]:
            raise Trouble(f"the temporary gateway does not take its files: {outcome['text']}")

    async def decided(self, reply: Reply) -> Decided | None:
        """What stopped the mail that got this reply, by the log; None if nothing did, or nothing tells."""
        found = _ID.search(reply.text)
        if found is None:
            return None
        name = re.escape(found[1] or found[2])
        line = await self._logged(re.compile(rf"\]: {name}: [a-z ]+ by (\w+):(\w+)(?: (.*))?$", re.MULTILINE))
        return Decided(line[1], line[2], line[3] or "") if line else None

    def has_dropped(self, reply: Reply) -> bool:
        """Whether the log says that the mail with this reply was thrown away."""
        found = _ID.search(reply.text)
        return bool(found and f"]: {found[1] or found[2]}: discard: " in self._log())

    async def verdicts(self, sender: str) -> list[dict[str, Any]]:
        """What checks said about the last mail of a sender; nothing if there is no event."""
        return list((await self._event(sender)).get("verdicts", ()))

    async def listener(self, sender: str) -> str:
        """Where the last mail of a sender came in."""
        return str((await self._event(sender)).get("listener", ""))

    async def _event(self, sender: str) -> dict[str, Any]:
        """The event at the end of the last mail of a sender."""
        line = await self._logged(re.compile(rf'\{{"event":"message".*"sender":"{re.escape(sender)}".*$', re.MULTILINE))
        try:
            event: dict[str, Any] = json.loads(line[0]) if line else {}
        except ValueError:
            return {}
        return event

    async def _logged(self, wanted: re.Pattern[str]) -> re.Match[str] | None:
        """The last line of the mail log that fits, once it is there."""
        until = asyncio.get_running_loop().time() + LOGGED
        while True:
            found = list(wanted.finditer(self._log()))
            if found or asyncio.get_running_loop().time() > until:
                return found[-1] if found else None
            await asyncio.sleep(0.03)

    async def kept(self, token: str) -> str:
        """Where a message with this sender waits: "quarantine", "hold", "queue" or ""."""

        def look() -> str:
            for queue in ("quarantine", "queue"):
                request = {"command": "list", "queue": queue, "sender": token}
                for message in queue_socket.messages(str(self.config), request):
                    return queue if queue == "quarantine" else str(message["queue_name"])
            return ""

        return await asyncio.to_thread(look)

    def _log(self) -> str:
        return (self.config.parent / "mail.log").read_text(errors="replace")

    async def places(self) -> dict[str, str]:
        """Where messages wait, by their senders: "quarantine" or the name of the queue. Raises ClickException."""

        def look() -> dict[str, str]:
            found: dict[str, str] = {}
            for queue in ("queue", "quarantine"):
                for message in queue_socket.messages(str(self.config), {"command": "list", "queue": queue}):
                    found[message["sender"]] = queue if queue == "quarantine" else str(message["queue_name"])
            return found

        return await asyncio.to_thread(look)

    async def inspectors(self) -> list[dict[str, Any]]:
        """How each worker stands with scand: jobs that wait, whether it is connected. Scand itself may be stopped."""
        told = (await self.status(0.2))["dependencies"].values()
        return [one["inspector"] for one in told if "inspector" in one]

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
