"""syncd in one process with its source: what operators ask, other passwords, lists that are configured otherwise."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.config import blob
from appliance.config.snapshot import Snapshot, build
from appliance.daemons import syncd
from appliance.daemons.skeleton import Birth
from appliance.daemons.syncd.daemon import AT_ONCE
from tests.peers.hostile import Good, Hostile, answers

BODY = b'["ann@example.com", "bob@example.com"]'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


async def question(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def eventually(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


class Running:
    """The daemon, and a source that it fetches "staff" from."""

    def __init__(self, folder: Path, peer: Hostile) -> None:
        self.folder, self.peer, self.kept = folder, peer, folder / "state/recipients"
        self.kept.mkdir(parents=True)
        self.path = str(folder / "s")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen(16)
        (folder / "token").write_text("first\n")
        self.daemon: Any = syncd.create(
            Birth(
                service="syncd",
                index=0,
                snapshot=self.snapshot(),
                listening={"unix:recipients": [self.listening]},
                rendezvous={},
                state_dir=folder / "state",
                certificates={"recipients:staff": (b"first\n", b"")},
            )
        )

    def snapshot(self, more: str = "", timeout: str = "20s") -> Snapshot:
        url = f"http://127.0.0.1:{self.peer.port}/"
        text = '[gateway]\nstate_dir = "state"\n[relay]\ndomains = ["example.com"]\n[recipients.staff]\nkind = "http"\n'
        (self.folder / "c.toml").write_text(
            f'{text}source = "{url}"\npassword_file = "token"\ntimeout = "{timeout}"\n{more}'
        )
        return build(blob.read(str(self.folder / "c.toml")))

    def facts(self, name: str = "staff") -> dict[str, Any]:
        return dict(self.daemon.health()["recipients"][name])

    async def ask(self, request: bytes) -> list[dict[str, Any]]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(request + b"\n")
        found = [json.loads(line) async for line in reader]
        writer.close()
        assert "hello" in found[0]
        return found[1:]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with Hostile(Good(question, GOOD), answers) as peer:
        made = Running(tmp_path, peer)
        await made.daemon.start()
        yield made
        await made.daemon.drain(1.0)
        made.listening.close()


async def test_the_first_list_comes_by_itself(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    assert (running.kept / "staff").read_text().endswith("\nann@example.com ok\nbob@example.com ok\n")
    assert running.daemon.health()["degraded"] == []


async def test_what_operators_ask(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    outcome, done = await running.ask(b"{}")
    assert (outcome["name"], outcome["count"], outcome["problem"], done) == ("staff", 2, "", {"done": True})
    (refused,) = await running.ask(b'{"names": ["stuff"]}')
    assert refused == {"error": "the gateway that runs knows no [recipients.stuff] (postgate reload)"}
    for rubbish in (b"", b"GET / HTTP/1.1", b'{"names": 7}', b'{"names": ["\xff"]}'):
        (refused,) = await running.ask(rubbish)
        assert refused["error"].startswith("not a request: ")
    with pytest.raises(ConnectionError):  # over any length: hung up
        await running.ask(b"x" * 200_000)
        raise ConnectionError
    assert (await running.ask(b"{}"))[-1] == {"done": True}


async def test_one_at_a_time(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    most = 0

    async def slow(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        most = max(most, running.peer.open)
        await answers(good, reader, writer)

    running.peer.act = slow
    replies = await asyncio.gather(*(running.ask(b"{}") for _ in range(4)))
    assert [reply[0]["problem"] for reply in replies] == [""] * 4 and most == 1


async def test_a_source_that_hangs_holds_up_no_other_list(running: Running) -> None:
    """Neither what is due by itself nor what an operator asks for."""
    await eventually(lambda: running.facts()["state"] == "well")

    async def hangs(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    (running.folder / "export.csv").write_text("eve@example.com\n")
    more = '[recipients.more]\nkind = "csv"\nsource = "export.csv"\n'
    running.peer.act = hangs
    running.daemon.commit(running.snapshot(timeout="60s"))
    await eventually(lambda: running.peer.open == 1)
    running.daemon.commit(running.snapshot(more, timeout="60s"))
    await eventually(lambda: running.facts("more")["state"] == "well")
    assert running.peer.open == 1, "it hangs still"
    outcome, _ = await running.ask(b'{"names": ["more"]}')
    assert outcome["problem"] == "" and running.peer.open == 1


async def test_only_so_many_lists_at_once(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    most, gate = 0, asyncio.Event()

    async def held(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        most = max(most, running.peer.open)
        await gate.wait()
        await answers(good, reader, writer)

    running.peer.act = held
    url = f"http://127.0.0.1:{running.peer.port}/"
    names = [f"n{number}" for number in range(AT_ONCE + 2)]
    more = "".join(f'[recipients.{name}]\nkind = "http"\nsource = "{url}"\ntimeout = "30s"\n' for name in names)
    running.daemon.commit(running.snapshot(more))
    await eventually(lambda: running.peer.open == AT_ONCE)
    gate.set()
    await eventually(lambda: all(running.facts(name)["state"] == "well" for name in names))
    assert most == AT_ONCE


async def test_another_password_is_tried_at_once(running: Running) -> None:
    logins: list[str] = []

    async def picky(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        logins.append(head.partition("Bearer ")[2].partition("\r")[0])
        writer.write(good.answer if logins[-1] == "second" else b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    await eventually(lambda: running.facts()["state"] == "well")
    running.peer.act = picky
    outcome, _ = await running.ask(b"{}")
    assert "answers 401 No" in outcome["problem"] and not outcome["soon"]
    assert running.facts()["next"] in ("in 1 h", "in 54 min") or "min" in running.facts()["next"]
    (said,) = running.daemon.health()["degraded"]
    assert said.startswith("recipients staff: the old list stays: ") and "401" in said
    running.daemon.certificates({"recipients:staff": (b"second\n", b""), "recipients:other": (b"x", b"")})
    await eventually(lambda: running.facts()["state"] == "well")
    assert logins == ["first", "second"] and running.daemon.health()["degraded"] == []


async def test_without_its_password_nobody_is_asked(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    running.daemon.certificates({})
    before = running.peer.connections
    outcome, _ = await running.ask(b"{}")
    assert "token cannot be read" in outcome["problem"] and running.peer.connections == before


async def test_what_the_log_says_of_a_failure_with_and_without_a_list(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    running.daemon.certificates({})
    capfd.readouterr()
    await running.ask(b"{}")
    said = capfd.readouterr().err
    assert re.search(r"recipients are not synced, the old list stays: list=staff seconds=\d+\.\d why=", said)
    assert "no list yet" not in said
    running.daemon.commit(running.snapshot('[recipients.more]\nkind = "csv"\nsource = "none.csv"\n'))
    await running.ask(b'{"names": ["more"]}')
    said = capfd.readouterr().err
    text = "recipients are not synced, and there is no list yet: unknown ones are put off"
    assert re.search(rf"{text}: list=more seconds=\d+\.\d why=", said)
    assert "stays" not in said and "none.csv" in said


async def test_lists_that_are_new_or_otherwise_are_due(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    (running.folder / "export.csv").write_text("eve@example.com\n")
    more = '[recipients.more]\nkind = "csv"\nsource = "export.csv"\n'
    before = running.peer.connections
    running.daemon.prepare(running.snapshot(more))
    running.daemon.commit(running.snapshot(more))
    await eventually(lambda: running.facts("more")["state"] == "well")
    assert running.peer.connections == before, "the other one is as it was"
    running.daemon.commit(running.snapshot("most_shrink = 5.0\n" + more))
    await eventually(lambda: running.peer.connections == before + 1)
    running.daemon.commit(running.snapshot())
    assert set(running.daemon.health()["recipients"]) == {"staff"}
    assert (running.kept / "more").exists()


async def test_an_earlier_life_is_remembered(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")
    before = running.peer.connections
    again: Any = syncd.create(
        Birth(
            service="syncd",
            index=0,
            snapshot=running.snapshot(),
            listening={},
            rendezvous={},
            state_dir=running.folder / "state",
            certificates={},
        )
    )
    facts = again.health()["recipients"]["staff"]
    assert (facts["state"], facts["known"]) == ("well", 2) and facts["next"] != "now"
    (running.kept / "staff").unlink()
    again.commit(running.snapshot("most_shrink = 5.0\n"))
    assert again.health()["recipients"]["staff"]["state"] == "never fetched"
    assert running.peer.connections == before


async def test_given_up_at_the_end(running: Running) -> None:
    await eventually(lambda: running.facts()["state"] == "well")

    async def hangs(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    running.peer.act = hangs
    asking = asyncio.ensure_future(running.ask(b"{}"))
    await eventually(lambda: running.peer.open)
    async with asyncio.timeout(12):
        await running.daemon.drain(1.0)
        await asyncio.wait([asking])
    assert (running.kept / "staff").exists()
