"""Content filters that are commands: delivery, the runner and real programs; every way in which they can fail."""

import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.daemons.runner.daemon import Runner
from appliance.daemons.skeleton import Birth
from appliance.queue.envelope import PROVEN, Origin, QueuedRecipient
from tests.daemons.delivery.harness import Log, Running, delivery, mail_log, settings, snapshot

MAIL = b"Received: from a by b; now\r\nSubject: hi\r\nFrom: s@example.org\r\n\r\nbody\r\n.\r\nFrom here\r\n"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Any:
    with mail_log(monkeypatch) as lines:
        yield lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def python(text: str, *words: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", text, *words]


def shell(text: str, *words: str) -> list[str]:
    return ["/bin/sh", "-c", text, "sh", *words]


class Both:
    """A delivery and the runner that it asks."""

    def __init__(self, folder: Path, text: str, running: Running) -> None:
        self.folder, self.text, self.running = folder, text, running
        self.put, self.empty, self.until = running.put, running.empty, running.until
        self.runner: Runner | None = None
        self._sock: socket.socket | None = None

    async def start_runner(self) -> None:
        path = self.folder / "state" / "run" / "runner.sock"
        path.unlink(missing_ok=True)
        sock = self._sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(8)
        birth = Birth(
            service="runner", index=0, snapshot=snapshot(self.folder, self.text), listening={"unix:runner": [sock]},
            rendezvous={}, state_dir=self.folder / "state", certificates={},
        )  # fmt: skip
        self.runner = Runner(birth)
        await self.runner.start()

    async def stop_runner(self) -> None:
        assert self.runner and self._sock
        await self.runner.drain(1.0)
        self._sock.close()

    async def filtered(self, *recipients: str | QueuedRecipient, **more: Any) -> str:
        more.setdefault("content", MAIL)
        return await self.put(*recipients, filter=more.pop("filter", "scan:"), **more)

    async def result(self, queue_id: str) -> Any:
        await self.until(lambda: self.running.result(queue_id) is not None)
        return self.running.result(queue_id)

    @property
    def degraded(self) -> list[str]:
        return [one for one in self.running.delivery.health()["degraded"] if "puts mail off" in one]


@contextlib.asynccontextmanager
async def both(
    folder: Path, command: list[str], more: str = "", hop: str = "", runner: bool = True
) -> AsyncIterator[Both]:
    words = json.dumps(command)
    text = settings(folder, hop or "smtp:[127.0.0.1]:9") + f"[filters.scan]\ncommand = {words}\n{more}"
    async with delivery(
        folder, text, more_rendezvous={"runner": str(folder / "state" / "run" / "runner.sock")}
    ) as running:
        made = Both(folder, text, running)
        if runner:
            await made.start_runner()
        try:
            yield made
        finally:
            if runner:
                await made.stop_runner()


async def test_the_command_gets_the_message_and_its_words(folder: Path, log: Log) -> None:
    told = folder / "told"
    show = f"import sys, json; json.dump([sys.argv[1:], sys.stdin.read()], open({str(told)!r}, 'w'))"
    words = [
        "-f",
        "${sender}",
        "${queue_id}",
        "${ident}",
        "${client_address}",
        "${size}",
        "${user}",
        "--",
        "${recipient}",
    ]
    async with both(folder, python(show, *words)) as stage:
        origin = Origin(client_address="192.0.2.7", client_name="a.example")
        queue_id = await stage.filtered("a@example.com", "b+x@example.com", origin=origin, proven=True)
        await stage.empty()
    argv, stdin = json.loads(told.read_text())
    body = MAIL.decode().replace("\r\n", "\n")
    assert stdin == body
    assert argv == [
        "-f", "s@example.org", queue_id, queue_id + PROVEN, "192.0.2.7", str(len(body)), "a", "b", "--",
        "a@example.com", "b+x@example.com",
    ]  # fmt: skip
    sent = log.of(f"{queue_id}: to=<a@example.com>, relay=scan, ", "status=sent (delivered via scan service)")
    assert len(sent) == 1 and sent[0].startswith("pipe: ")
