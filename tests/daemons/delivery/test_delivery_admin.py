"""`postgate queue` and `postgate quarantine` against a running delivery."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.cli import quarantine, queue
from appliance.queue.envelope import pack_verdicts
from tests.connectors.smtp_peer import Peer
from tests.daemons.delivery.harness import Running, delivery, settings

LATER = b"450 4.2.0 later\r\n"


@pytest.fixture
async def busy(tmp_path: Path, log):
    """A delivery with three deferred messages, one on hold, two in quarantine."""
    peer = await Peer("PIPELINING", rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, f"smtp:[127.0.0.1]:{peer.port}")) as running:
        running.peer = peer
        running.ids = [await running.put(f"r{n}@example.com", sender=f"s{n}@example.org") for n in range(3)]
        running.held = await running.put("h@example.com", keep="hold", keep_reason="access: HOLD")
        found = pack_verdicts(b'[{"check":"antivirus"}]')
        running.kept = [await running.put("q@example.com", sender="", keep="quarantine", verdicts=found) for _ in "12"]
        folders = running.spool.folders
        await running.until(lambda: [len(folders[f]) for f in ("deferred", "hold", "quarantine")] == [3, 1, 2])
        await running.until(lambda: all(running.spool.get(i).attempts for i in running.ids))
        yield running
    await peer.stop()


async def run(running: Running, group, *words: str) -> Result:
    config = running.spool.root.parent.parent / "config.toml"
    config.write_text(f'[gateway]\nstate_dir = "{running.spool.root.parent}"\n')
    return await asyncio.to_thread(CliRunner().invoke, group, [words[0], "--config", str(config), *words[1:]])


async def listed(running: Running, *words: str, group=queue.command) -> list[str]:
    result = await run(running, group, "list", "--json", *words)
    assert result.exit_code == 0, result.output
    return sorted(json.loads(line)["queue_id"] for line in result.output.splitlines())


async def test_list_for_people(busy):
    text = (await run(busy, queue.command, "list")).output
    for queue_id in busy.ids:
        assert queue_id in text
    assert f"{busy.held}!" in text and "r0@example.com" in text
    assert "450 4.2.0 later" in text and "-- 0 Kbytes in 4 messages." in text
    assert busy.kept[0] not in text
    text = (await run(busy, quarantine.command, "list")).output
    assert busy.kept[0] in text and "MAILER-DAEMON" in text and "2 messages" in text


async def test_list_for_programs_and_filters(busy):
    everything = sorted([*busy.ids, busy.held])
    assert await listed(busy) == everything
    assert await listed(busy, "--sender", "S1@example.*") == [busy.ids[1]]
    assert await listed(busy, "--recipient", "r2@example.com") == [busy.ids[2]]
    assert await listed(busy, "--folder", "hold") == [busy.held]
    assert await listed(busy, "--next-hop", "smtp:*") == sorted(busy.ids)
    assert await listed(busy, busy.ids[0], busy.held) == sorted([busy.ids[0], busy.held])
    assert await listed(busy, "--sender", "<>", group=quarantine.command) == sorted(busy.kept)
    assert await listed(busy, "--sender", "<>") == []
    result = await run(busy, queue.command, "list", "--json", busy.ids[0])
    (facts,) = map(json.loads, result.output.splitlines())
    assert facts["queue_name"] == "deferred" and facts["recipients"][0]["delay_reason"].startswith("host 127.0.0.1")
    assert facts["attempts"] == 1 and facts["next_try"] > facts["arrival_time"]


async def test_show(busy):
    text = (await run(busy, queue.command, "show", busy.ids[0])).output
    assert "s0@example.org" in text and "Subject: hi" in text
    facts = json.loads((await run(busy, quarantine.command, "show", "--json", busy.kept[0])).output)
    assert facts["verdicts"] == [{"check": "antivirus"}]


async def test_an_id_that_is_not_there_is_an_error(busy):
    for group, words in ((queue.command, ["show", "nobody"]), (queue.command, ["delete", busy.kept[0]])):
        result = await run(busy, group, *words)
        assert result.exit_code == 1 and "no such message" in result.output
    assert len(busy.spool) == 6


async def test_acts_want_to_know_on_what(busy):
    result = await run(busy, queue.command, "delete")
    assert result.exit_code == 1 and "--all" in result.output
    assert len(busy.spool) == 6


async def test_dry_run_changes_nothing(busy):
    result = await run(busy, queue.command, "delete", "--all", "--dry-run")
    assert result.exit_code == 0 and "4 messages would be deleted" in result.output
    assert len(busy.spool) == 6


async def test_flush(busy):
    busy.peer.says.clear()
    assert (await run(busy, queue.command, "flush", busy.ids[0])).exit_code == 0
    await busy.until(lambda: busy.spool.get(busy.ids[0]) is None)
    assert len(busy.spool.folders["deferred"]) == 2
    await run(busy, queue.command, "flush", "--all")
    await busy.until(lambda: not busy.spool.folders["deferred"])
    assert len(busy.peer.bodies) == 3


async def test_hold_and_release(busy, log):
    result = await run(busy, queue.command, "hold", "--recipient", "r*", "--reason", "ticket 1")
    assert "3 messages put on hold" in result.output
    assert len(busy.spool.folders["hold"]) == 4 and not busy.dispatch.schedule.jobs(busy.ids[0])
    assert busy.spool.get(busy.ids[0]).reason == "ticket 1"
    busy.peer.says.clear()
    result = await run(busy, queue.command, "release", "--all")
    assert "4 messages released" in result.output
    await busy.until(lambda: len(busy.spool) == 2)
    assert len(busy.peer.bodies) == 4 and log.of("placed on hold") and log.of("released from hold")


async def test_delete(busy, log):
    result = await run(busy, queue.command, "delete", busy.ids[1], busy.held)
    assert result.exit_code == 0 and "2 messages deleted" in result.output
    assert await listed(busy) == sorted([busy.ids[0], busy.ids[2]])
    assert log.of(busy.held, "removed by an operator")
    assert not (busy.spool.root / "hold" / busy.held).exists()


async def test_requeue(busy):
    busy.peer.says.clear()
    await run(busy, queue.command, "requeue", "--sender", "s0@*")
    await busy.until(lambda: busy.spool.get(busy.ids[0]) is None)
    assert len(busy.peer.bodies) == 1


async def test_quarantine_release_and_delete(busy):
    busy.peer.says.clear()
    assert "1 message released" in (await run(busy, quarantine.command, "release", busy.kept[0])).output
    await busy.until(lambda: busy.spool.get(busy.kept[0]) is None)
    assert "1 message deleted" in (await run(busy, quarantine.command, "delete", "--all")).output
    assert not busy.spool.folders["quarantine"]
    assert "The quarantine is empty" in (await run(busy, quarantine.command, "list")).output
    result = await run(busy, quarantine.command, "delete", "--all")
    assert result.exit_code == 1


async def test_rubbish_on_the_socket_is_answered(busy):
    for line in (b"rubbish\n", b'{"command": "explode"}\n', b'{"command": "list", "folder": 5}\n', b"\n"):
        reader, writer = await asyncio.open_unix_connection(str(busy.spool.root / "queue.sock"))
        writer.write(line)
        assert b"error" in await reader.read()
        writer.close()
    assert (busy.spool.root / "queue.sock").stat().st_mode & 0o077 == 0


async def test_nothing_runs(tmp_path: Path):
    (tmp_path / "config.toml").write_text(f'[gateway]\nstate_dir = "{tmp_path}"\n')
    result = CliRunner().invoke(queue.command, ["list", "--config", str(tmp_path / "config.toml")])
    assert result.exit_code == 1 and "no gateway is running" in result.output
