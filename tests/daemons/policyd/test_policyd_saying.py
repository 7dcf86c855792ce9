"""What strangers' answers leave behind is written a few together: all of it, in its order, and soon."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from appliance.config.snapshot import Snapshot
from appliance.daemons.policyd import likeness, record, saying, texts
from appliance.observe import events
from tests.daemons.policyd.whole import PLAIN, Server, build, request


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Log lines and events as they are written: the addresses that they are about."""
    found: list[str] = []
    monkeypatch.setattr(likeness, "BEFORE", 0)
    monkeypatch.setattr(events, "emit_line", lambda line: found.append("event"))
    monkeypatch.setattr(events, "emit_lines", lambda lines: found.extend(["event"] * len(lines)))
    monkeypatch.setattr(events, "emit", lambda event: found.append("event"))
    monkeypatch.setattr(record.maillog, "log", found.append)
    monkeypatch.setattr(record.maillog, "written", lambda text: found.extend(text.splitlines()))
    return found


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> AsyncIterator[Server]:
    """One that has forms already."""
    snapshot: Snapshot = build(tmp_path_factory.mktemp("saying") / "one", **PLAIN)
    made = Server([snapshot, snapshot], True, at_once=True)
    for number in range(3):
        await made.ask(0, request(instance=f"begin{number}", recipient=f"begin{number}@example.com"))
    told.clear()
    yield made
    made.front._timer.cancel()
    saying.settle()


def put_off(server: Server, *names: str) -> None:
    connection, wire = server.connections[0]
    for name in names:
        wire.out = b""
        connection.data_received(request(instance=name, recipient=f"{name}@example.com"))
        server.front.outbox.flush()
        assert wire.out.startswith(b"action=DEFER_IF_PERMIT 4.7.1 Greylisted"), wire.out


def about(told: list[str]) -> list[str]:
    """The recipients of the log lines, in their order."""
    return [line.partition("to=<")[2].partition("@")[0] for line in told if "to=<" in line]


async def test_so_many_are_written_together(server: Server, told: list[str]) -> None:
    names = [f"u{number}" for number in range(saying.TOGETHER)]
    put_off(server, *names[:-1])
    assert told == []
    put_off(server, names[-1])
    assert about(told) == names and told.count("event") == len(names) and len(told) == 3 * len(names)


async def test_fewer_are_written_soon(server: Server, told: list[str]) -> None:
    put_off(server, "u1")
    assert told == []
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(saying.LINGER / 4)
    assert about(told) == ["u1"]


@pytest.mark.parametrize(
    "what",
    [
        lambda: record.unreadable("peer", "HTTP"),
        lambda: record.odd("peer", "no client", "DUNNO"),
        lambda: record.late("peer", "RCPT", 20.0, "DUNNO", "mail"),
        lambda: record.lost("4X", ["HOLD"]),
        lambda: record.again([0], "4X", 1.0, ',"x":1}'),
        lambda: record.internal("peer", "RCPT", ValueError("odd"), "DUNNO"),
    ],
)
async def test_what_is_written_of_others_stands_behind_it(server: Server, told: list[str], what: Any) -> None:
    put_off(server, "u1")
    what()
    assert about(told[:2]) == ["u1"] and told[2] == "event" and len(told) <= 4, told
    assert not saying._waiting


async def test_what_comes_of_a_message_stands_behind_it(server: Server, told: list[str]) -> None:
    put_off(server, "u1")
    await server.ask(0, request(instance="u1", recipient="elsewhere@example.net"))
    assert about(told) == ["u1", "elsewhere"]


async def test_what_cannot_be_written_costs_nobody_else(
    server: Server, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, wrong = texts.Form.said, []
    monkeypatch.setattr(saying.log, "error", lambda *_, **more: wrong.append(more["id"]))
    monkeypatch.setattr(
        texts.Form, "said", lambda form, one, *rest: 1 / 0 if "u2@" in one.recipient else said(form, one, *rest)
    )
    put_off(server, "u1", "u2", "u3")
    saying.settle()
    assert about(told) == ["u1", "u3"] and told.count("event") == 2 and len(wrong) == 1
    put_off(server, "u4")
    saying.settle()
    assert about(told) == ["u1", "u3", "u4"]


async def test_lines_that_are_to_be_cleaned_stand_in_their_place(
    server: Server, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_off(server, "u1")
    form = saying._waiting[0][0]
    monkeypatch.setattr(form, "fit", False)
    saying._waiting.clear()
    fit = [form, texts.Form.__new__(texts.Form)]
    for name in texts.Form.__slots__:
        setattr(fit[1], name, getattr(form, name))
    fit[1].fit = True
    for number, one in enumerate([fit[1], fit[0], fit[1]]):
        saying.later(
            one, server.connections[0][0]._knife.cut(request(recipient=f"c{number}@example.com")), "4X", 1.0, 1.0
        )  # type: ignore[arg-type]
    saying.settle()
    assert about(told) == ["c0", "c1", "c2"]


async def test_nothing_is_left_when_the_worker_is_flushed(server: Server, told: list[str]) -> None:
    put_off(server, "u1")
    events.flush()
    assert about(told) == ["u1"]


async def test_nothing_is_left_when_the_worker_ends(server: Server, told: list[str]) -> None:
    put_off(server, "u1")
    before = texts.requests.counts["RCPT", "DEFER_IF_PERMIT"]
    await server.front.drain(0.0)
    assert about(told) == ["u1"]
    texts.requests.settle()
    assert texts.requests.counts["RCPT", "DEFER_IF_PERMIT"] > before
