"""Which connections to scanners are not used again: those on which not all of a question was sent, or that were answered
before they had it (threats D2, D3); and that a mistake of ours is said."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.connectors import conversation
from appliance.connectors.conversation import Progress, Server
from appliance.connectors.scanner import Scanner, Settings
from appliance.mail.inspection import Inspection, Part, Report
from appliance.observe import oplog
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.peers.good_scanners import KINDS, rspamd_answer
from tests.peers.hostile import goes_on
from tests.peers.icap import Service, blocked

Odd = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BIG = Message(MAIL + b"x" * 60_000)


class Once:
    """A scanner at a unix socket that does something odd on its first connection, and is well on all others."""

    def __init__(self, path: Path, kind: str, odd: Odd) -> None:
        self.path, self.kind, self.odd = path / "s", kind, odd
        self.connections = 0
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> "Once":
        self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=1024)
        self.scanner = Scanner(Settings("x", self.kind, (Server(path=str(self.path)),), 3.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.scanner.close()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.append(task)
        self.connections += 1
        try:
            await (self.odd(reader, writer) if self.connections == 1 else goes_on(KINDS[self.kind].good, reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


def answers_to_the_head(answer: bytes, deaf: bool = False, preview: int | None = None) -> Odd:
    """Says `answer` and reads no further; `deaf`: and no more can be sent there. The connection stays open."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"OPTIONS"):
            writer.write(Service(preview=preview).said())
            await reader.readuntil(b"\r\n\r\n")
        if deaf:
            writer.get_extra_info("socket").shutdown(socket.SHUT_RD)
        writer.write(answer)
        await writer.drain()
        await asyncio.Event().wait()

    return act


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of ours that take little which nobody reads."""
    dial = conversation.connect

    async def connect(server: Server, progress: Progress) -> socket.socket:
        sock = await dial(server, progress)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sock

    monkeypatch.setattr(conversation, "connect", connect)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("kind", "answer", "deaf", "found"),
    [
        ("icap", b'ICAP/1.0 204 No Content\r\nISTag: "one"\r\n\r\n', False, "error"),
        ("icap", blocked(), False, "infected"),
        ("icap", b'ICAP/1.0 204 No Content\r\nISTag: "one"\r\n\r\n', True, "error"),
        ("rspamd", rspamd_answer(), True, "error"),
        ("rspamd", rspamd_answer(action="reject", score=20.0), True, "error"),
    ],
)
async def test_d3_a_connection_without_all_of_its_question_is_not_used_again(
    tmp_path: Path, kind: str, answer: bytes, deaf: bool, found: str
) -> None:
    """Its answer allows it, and it is open."""
    async with Once(tmp_path, kind, answers_to_the_head(answer, deaf)) as once:
        first = await once.scanner.scan(BIG, context("T1"))
        assert first.kind == found and first.seconds < 2.0, first
        assert found != "error" or "before it had everything" in first.why, first
        assert once.connections == 1
        for number in range(2):
            assert (await once.scanner.scan(Message(MAIL + b"%d" % number), context("T2"))).kind == "clean"
        assert once.connections == 2, "the second one is used again"


@pytest.mark.usefixtures("narrow")
async def test_d2_clean_before_it_had_its_preview_is_no_answer(tmp_path: Path) -> None:
    clean = b'ICAP/1.0 204 No Content\r\nISTag: "one"\r\n\r\n'
    async with Once(tmp_path, "icap", answers_to_the_head(clean, preview=50_000)) as once:
        found = await once.scanner.scan(BIG, context("T1"))
        assert found.kind == "error" and "before it had everything" in found.why, found


async def test_a_mistake_of_ours_is_an_error_with_a_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a message, and of a part; the scanner is not blamed."""
    scanner = Scanner(Settings("av", "clamd", (Server(host="127.0.0.1", port=1),), 5.0))

    async def ask(*_: object) -> None:
        raise LookupError("not foreseen")

    monkeypatch.setattr(scanner._dialect, "ask", ask)
    part = Inspection(Report(parts=(Part("1", body=(0, 4)),)), b"text")
    found = [await scanner.scan(Message(), context("T1")), *await scanner.scan_parts(part, context("T2"), 9, 1 << 20)]
    assert [(one.kind, "LookupError" in one.why) for one in found] == [("error", True)] * 2
    assert scanner.condition.wrong == {} and not scanner.breaker.is_open
    oplog.flush()
    said = [line for line in capfd.readouterr().err.splitlines() if "a scan failed by a mistake of ours" in line]
    assert ["scanner=av" in line for line in said] == [True, True]
    assert "transaction=T1" in said[0] and "transaction=T2" in said[1]
