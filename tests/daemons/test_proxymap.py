"""proxymap and the line to it, in one process: frames, many askers, what is not configured, rubbish, the end."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config import blob
from appliance.config.snapshot import Snapshot, build
from appliance.daemons import proxymap
from appliance.daemons.skeleton import Birth
from appliance.mail.later import answered
from appliance.mail.ports import Unavailable
from appliance.net.channel import Channel, connect
from appliance.observe import trouble
from appliance.tables import Remote, open_table, wire
from appliance.tables import remote as remotes
from appliance.tables.remote import Line

pytestmark = pytest.mark.peer


def snapshot(folder: Path, spec: str) -> Snapshot:
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies/recipient.toml").write_text(f'tables = ["{spec}"]\n')
    (folder / "c.toml").write_text('[gateway]\npolicies = "policies"\n[relay]\ndomains = ["example.com"]\n')
    return build(blob.read(str(folder / "c.toml")))


class Running:
    def __init__(self, folder: Path, found: Snapshot) -> None:
        self.path = str(folder / "s")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen(16)
        birth = Birth(
            service="proxymap", index=0, snapshot=found, listening={"unix:proxymap": [self.listening]}, rendezvous={},
            state_dir=folder, certificates={},
        )  # fmt: skip
        self.daemon: Any = proxymap.create(birth)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "t").write_text("".join(f"user{number}@example.com v{number}\n" for number in range(500)))
    subprocess.run(["postmap", f"hash:{tmp_path}/t"], check=True)
    made = Running(tmp_path, snapshot(tmp_path, f"hash:{tmp_path}/t"))
    await made.daemon.start()
    yield made
    await made.daemon.drain(1.0)
    made.listening.close()


async def joined(running: Running) -> Line:
    line = Line(running.path)
    line.start()
    assert await line.wait_ready(10)
    return line


def table(spec: str, line: Line) -> Remote:
    made = open_table(spec, lambda _: b"")
    assert isinstance(made, Remote)
    made.line = line
    return made


async def test_all_asks_of_a_turn_go_in_one_frame(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await joined(running)
    users, frames = table(f"hash:{tmp_path}/t", line), []
    send = Channel.send
    monkeypatch.setattr(Channel, "send", lambda self, value, fds=(): (frames.append(value), send(self, value, fds))[1])
    answers = await asyncio.gather(*(users.get(f"User{number}@example.com") for number in range(600)))  # type: ignore[arg-type]
    assert [hit and hit[0] for hit in answers] == [f"v{number}" for number in range(500)] + [None] * 100
    assert isinstance(frames[0][0], wire.Ask) and len(frames[0]) == 600
    assert users.get("USER7@example.com") == ("v7", f"hash:{tmp_path}/t")  # remembered: at once
    assert users.get("user599@example.com") is None
    line.close()


async def test_a_worker_remembers_for_a_moment_only(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is deleted from a table is gone for all, without a reload."""
    monkeypatch.setattr(remotes, "REMEMBER", 0.2)
    line = await joined(running)
    users = table(f"hash:{tmp_path}/t", line)
    assert await answered(users.get("user1@example.com")) == ("v1", f"hash:{tmp_path}/t")
    assert users.get("user1@example.com") == ("v1", f"hash:{tmp_path}/t"), "at once"
    subprocess.run(["postmap", "-d", "user1@example.com", f"hash:{tmp_path}/t"], check=True)
    async with asyncio.timeout(5):
        while await answered(users.get("user1@example.com")) is not None:
            await asyncio.sleep(0.02)
    line.close()


async def test_a_table_that_answers_is_well_again_at_once(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For status of those who ask: it does not stay in trouble for as long as it might have."""
    monkeypatch.setattr(trouble, "tables", trouble.Touched())
    line, spec = await joined(running), f"hash:{tmp_path}/t"
    trouble.tables.note(f"table {spec}", "away", "4F00")
    assert [one["what"] for one in trouble.tables.degraded()] == [f"table {spec}"]
    assert await answered(table(spec, line).get("user1@example.com"))
    assert trouble.tables.degraded() == [] and trouble.tables.facts()[f"table {spec}"] == "1 (last: 4F00)"
    line.close()


async def test_only_what_is_configured_may_be_asked(running: Running) -> None:
    line = await joined(running)
    with pytest.raises(Unavailable, match="is no table of the configuration in force"):
        await table("hash:/etc/shadow", line).get("root")  # type: ignore[misc]
    line.close()


async def test_rubbish_costs_its_own_connection(running: Running, tmp_path: Path) -> None:
    line = await joined(running)
    bad = connect(running.path)
    gone = asyncio.Event()
    bad.attach(asyncio.get_running_loop(), lambda _data, _fds: None, gone.set)
    bad.send({"what": 1})
    async with asyncio.timeout(10):
        await gone.wait()
    assert await table(f"hash:{tmp_path}/t", line).get("user1@example.com") is not None  # type: ignore[misc]
    line.close()


async def test_who_is_cancelled_hurts_nobody(running: Running, tmp_path: Path) -> None:
    line = await joined(running)
    users = table(f"hash:{tmp_path}/t", line)
    first, second = asyncio.ensure_future(users.get("user1@example.com")), users.get("user1@example.com")  # type: ignore[arg-type]
    first.cancel()
    assert (await second)[0] == "v1"  # type: ignore[misc, index]
    line.close()


async def test_an_end_is_heard_at_once_and_a_new_beginning_found(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "DEADLINE", 3.0)  # the first question's is looked at when it is over
    line = await joined(running)
    users = table(f"hash:{tmp_path}/t", line)
    waiting = users.get("user2@example.com")
    for peer in tuple(running.daemon._peers):
        peer.channel.close()
    with pytest.raises(Unavailable, match="closed the connection"):
        await waiting  # type: ignore[misc]
    with pytest.raises(Unavailable):
        users.get("user3@example.com")
    assert line.health()["degraded"] and line.failures == 2
    assert await line.wait_ready(10)
    assert (await users.get("user3@example.com"))[0] == "v3"  # type: ignore[misc, index]
    assert line.health()["degraded"] == []
    monkeypatch.setattr(remotes, "DEADLINE", 0.2)
    running.daemon._asked = lambda *_: None  # it reads, and says nothing
    with pytest.raises(Unavailable, match="no answer in time"):
        await users.get("user4@example.com")  # type: ignore[misc]
    line.close()


async def test_a_reload_with_a_table_that_cannot_be_opened_is_refused(running: Running, tmp_path: Path) -> None:
    (tmp_path / "x.cf").write_text("dbpath = x\nquerry = SELECT 1\n")
    with pytest.raises(ValueError, match=r"x\.cf:2: querry is not known \(did you mean query\?\)"):
        running.daemon.prepare(snapshot(tmp_path, f"sqlite:{tmp_path}/x.cf"))
    (tmp_path / "x.cf").write_text("dbpath = x\nquery = SELECT 1\n")
    better = snapshot(tmp_path, f"sqlite:{tmp_path}/x.cf")
    running.daemon.prepare(better)
    running.daemon.commit(better)
    assert list(running.daemon.health()["tables"]) == [f"sqlite:{tmp_path}/x.cf"]


def test_a_query_that_takes_the_key_apart_sees_full_keys_only(tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    for query, pattern in (("'%s'", False), ("'%u@%d'", True), ("'%S'", False), ("'%2.%1'", True), ("'%%d%s'", False)):
        path.write_text(f"dbpath = {tmp_path}/x.db\nresult_format = %d\nquery = SELECT 1\n  WHERE a = {query}\n")
        (made,) = snapshot(tmp_path, f"sqlite:{path}").remotes
        assert made.pattern is pattern, query


async def test_a_process_that_does_not_ask_puts_off(tmp_path: Path) -> None:
    made = open_table("hash:t", lambda _: b"")
    with pytest.raises(Unavailable, match="does not ask proxymap"):
        made.get("x")


async def test_the_first_greeting_is_waited_for(tmp_path: Path) -> None:
    """A reload that brings the first of these tables starts proxymap while mail comes in already."""
    (tmp_path / "t").write_text("user1@example.com v1\n")
    subprocess.run(["postmap", f"hash:{tmp_path}/t"], check=True)
    running = Running(tmp_path, snapshot(tmp_path, f"hash:{tmp_path}/t"))  # its socket is there, it is not
    line = Line(running.path)
    users = table(f"hash:{tmp_path}/t", line)
    with pytest.raises(Unavailable, match="not connected yet"):
        users.get("user1@example.com")
    line.start()
    first, second = users.get("user1@example.com"), users.get("user2@example.com")
    await running.daemon.start()
    async with asyncio.timeout(10):
        assert (await first)[0] == "v1" and await second is None  # type: ignore[misc, index]
    line.close()
    await running.daemon.drain(1.0)
    running.listening.close()


async def test_a_first_greeting_that_does_not_come_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "DEADLINE", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen(5)
        line = Line(str(tmp_path / "s"))
        line.start()
        users = table(f"hash:{tmp_path}/t", line)
        with pytest.raises(Unavailable, match="no answer in time"):
            await users.get("user1@example.com")  # type: ignore[misc]
        with pytest.raises(Unavailable):
            users.get("user1@example.com")
        line.close()
