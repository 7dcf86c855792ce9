"""Delivery and its queue over restarts, dead workers, full disks, reloads and damage."""

import asyncio
import contextlib
import errno
import gc
import os
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from appliance.daemons.delivery import upkeep
from appliance.net.channel import Channel
from appliance.queue import recovery
from appliance.queue.errors import SpoolError, SpoolLocked
from appliance.queue.granted import POOL, Granted
from appliance.queue.space import Space
from tests.connectors.smtp_peer import Peer
from tests.daemons.delivery.harness import BODY, Worker, delivery, settings, snapshot

PIPE = "PIPELINING"
STUFFED = BODY.replace(b"\r\n.", b"\r\n..")
LATER = b"450 4.2.0 later\r\n"


def hop(peer: Peer) -> str:
    return f"smtp:[127.0.0.1]:{peer.port}"


async def test_everything_is_tried_once_after_a_restart(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=LATER).start()
    config = settings(tmp_path, hop(peer))
    async with delivery(tmp_path, config) as running:
        ids = [await running.put(f"r{n}@example.com") for n in range(5)]
        held = await running.put(keep="hold")
        await running.until(lambda: len(running.spool.folders["deferred"]) == 5 and running.spool.folders["hold"])
    peer.says.clear()
    async with delivery(tmp_path, config) as running:
        await running.until(lambda: len(peer.bodies) == 5)
        await running.until(lambda: len(running.spool) == 1)
        assert list(running.spool.folders["hold"]) == [held]
        await running.until(lambda: not running.delivery.health()["recovering"])
        assert gc.isenabled()
        assert running.delivery.health()["queue"]["hold"] == 1
    await peer.stop()
    assert all(log.of(queue_id, "status=sent") for queue_id in ids)


async def test_recipients_that_were_done_are_not_sent_again_after_a_restart(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=[b"250 ok\r\n", LATER]).start()
    config = settings(tmp_path, hop(peer))
    async with delivery(tmp_path, config) as running:
        await running.put("a@example.com", "b@example.com")
        await running.until(lambda: running.spool.folders["deferred"])
    peer.says["RCPT"] = b"250 ok\r\n"
    peer.commands.clear()
    async with delivery(tmp_path, config) as running:
        await running.until(lambda: len(peer.bodies) == 2)
        await running.until(lambda: not len(running.spool))
    await peer.stop()
    assert [c for c in peer.commands if c.startswith("RCPT")] == ["RCPT TO:<b@example.com>"]


async def test_a_queue_that_could_not_be_read_at_start_is_read_a_moment_later(tmp_path: Path, log, monkeypatch):
    peer = await Peer(PIPE, rcpt=LATER).start()
    text = settings(tmp_path, hop(peer))
    async with delivery(tmp_path, text) as running:
        await running.put()
        await running.until(lambda: running.spool.folders["deferred"])
    peer.says.clear()
    scandir, wrong = os.scandir, list[str]()

    def none_left(path: Any) -> Any:
        if str(path).endswith("hold") and not wrong:
            wrong.append(str(path))
            raise OSError(errno.EMFILE, "Too many open files")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", none_left)
    async with delivery(tmp_path, text) as running:
        await running.until(lambda: wrong)
        assert running.delivery.health()["recovering"]
        await running.until(lambda: peer.bodies)
        await running.empty()
        await running.until(lambda: not running.delivery.health()["recovering"])
    assert gc.isenabled() and len(peer.bodies) == 1
    await peer.stop()


async def test_what_is_owed_is_paid_after_a_restart(tmp_path: Path, log, monkeypatch):
    """All were refused, and the process ended before the message was put into hold."""
    peer = await Peer(PIPE, rcpt=[LATER, b"550 no\r\n"]).start()
    config = settings(tmp_path, hop(peer))
    async with delivery(tmp_path, config) as running:
        queue_id = await running.put()
        await running.until(lambda: running.spool.folders["deferred"])
        monkeypatch.setattr(running.delivery.settlement, "settle", lambda item: None)
        await running.ask(command="flush", all=True)
        await running.until(lambda: running.spool.get(queue_id).failed)
    before = len([c for c in peer.commands if c.startswith("RCPT")])
    async with delivery(tmp_path, config) as running:
        await running.until(lambda: queue_id in running.spool.folders["hold"])
    await peer.stop()
    assert len([c for c in peer.commands if c.startswith("RCPT")]) == before


async def test_files_made_while_it_ends_are_given_back_once(tmp_path: Path, log, monkeypatch):
    """A descriptor that is closed twice is another file's by the second time."""
    given_back, wrong = [], []
    unlink, take = Path.unlink, Granted._made

    def slow_take(granted: Granted, made: Any) -> None:
        time.sleep(0.01)
        take(granted, made)

    def slow_unlink(path: Path, missing_ok: bool = False) -> None:
        given_back.append(path.name)
        time.sleep(0.002)
        unlink(path, missing_ok)

    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        granted = running.spool.granted
        await running.until(lambda: not granted._making)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(context))
        monkeypatch.setattr(Granted, "_made", slow_take)
        for _ in range(POOL["large"] // 2):
            _, fd = running.spool.grant("large", "nobody")
            os.close(fd)
        assert granted._making
        monkeypatch.setattr(Path, "unlink", slow_unlink)
    assert not wrong
    assert len(given_back) == len(set(given_back)) >= POOL["large"] // 2
    assert {path.name for path in granted.folder.iterdir()} == set(granted.files)


async def test_a_second_instance_does_not_start(tmp_path: Path, log):
    config = settings(tmp_path, "smtp:[127.0.0.1]:9")
    async with delivery(tmp_path, config):
        with pytest.raises(SpoolLocked):
            async with delivery(tmp_path, config):
                pass


async def test_mail_of_a_dead_worker_is_found(tmp_path: Path, log):
    """The worker synced and answered 250, but died before its notice came through."""
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        await running.put()
        await running.empty()
        worker = Worker(running.delivery._birth.rendezvous["delivery"], "smtpd.7")
        await worker.put("first@example.com")
        await running.until(lambda: len(peer.bodies) == 2)
        worker.channel.on_writable = lambda: None
        worker.log._channel = None  # from here on delivery hears nothing
        await worker.put("lost@example.com")
        os.close(worker.log._current.fd)
        worker.channel.close()
        await running.until(lambda: any("lost@example.com" in command for command in peer.commands))
        await running.until(lambda: not len(running.spool))
    await peer.stop()
    assert len(peer.bodies) == 3


async def test_mail_of_a_dead_worker_is_found_though_its_successor_is_there_first(tmp_path: Path, log):
    """The master starts a worker of the same name; its connection may come before the old one's end is seen."""
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        path = running.delivery._birth.rendezvous["delivery"]
        worker = Worker(path, "smtpd.7")
        await worker.put("first@example.com")
        await running.until(lambda: len(peer.bodies) == 1)
        worker.channel.on_writable = lambda: None
        worker.log._channel = None  # from here on delivery hears nothing
        await worker.put("lost@example.com")
        successor = Worker(path, "smtpd.7")
        await successor.put("second@example.com")
        await running.until(lambda: len(peer.bodies) == 2)
        os.close(worker.log._current.fd)
        worker.channel.close()
        await running.until(lambda: any("lost@example.com" in command for command in peer.commands))
        await successor.put("third@example.com")
        await running.until(lambda: len(peer.bodies) == 4 and not len(running.spool))
        successor.close()
    await peer.stop()


async def test_rubbish_from_a_worker_closes_its_channel_only(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        bad = Worker(running.delivery._birth.rendezvous["delivery"], "smtpd.8")
        bad.channel.send(["no", "notice"])
        await running.until(lambda: bad.channel.closed)
        await running.put()
        await running.empty()
    await peer.stop()


async def test_workers_hear_when_room_gets_short_and_comes_back(tmp_path: Path, log, monkeypatch):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        await running.until(lambda: running.worker.room == [True])
        for space, ok in ((Space(1000, 1000), False), (Space(1 << 40, 10), False), (Space(1 << 40, None), True)):
            monkeypatch.setattr(running.spool, "space", lambda space=space: space)
            running.delivery.workers.tick()
            assert ("nearly full" in " ".join(running.delivery.health()["degraded"])) is not ok
        await running.until(lambda: running.worker.room == [True, False, True])


async def test_a_disk_that_refuses_moves_loses_nothing(tmp_path: Path, log, monkeypatch):
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        full = SpoolError("no space left on device")
        monkeypatch.setattr(running.spool.kept, "_write", lambda job: (_ for _ in ()).throw(full))
        deferred = await running.put()
        kept = await running.put(keep="quarantine")
        await running.until(lambda: running.spool.get(deferred) and running.spool.get(deferred).attempts == 1)
        await asyncio.sleep(0.1)
        assert {deferred, kept} == set(running.spool.folders["intake"])
        monkeypatch.undo()
        peer.says.clear()
        await running.ask(command="flush", all=True)
        await running.until(lambda: running.spool.get(deferred) is None)
        await running.until(lambda: kept in running.spool.folders["quarantine"])
    await peer.stop()
    assert len(peer.bodies) == 1


async def test_a_notice_that_cannot_be_queued_is_tried_again(tmp_path: Path, log, monkeypatch):
    peer = await Peer(PIPE, rcpt=b"550 no\r\n").start()
    outside = await Peer(PIPE).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        write = running.spool.kept._write
        full = SpoolError("no space left on device")
        monkeypatch.setattr(running.spool.kept, "_write", lambda job: (_ for _ in ()).throw(full))
        queue_id = await running.put(proven=True)
        await running.until(lambda: running.spool.get(queue_id) and running.spool.get(queue_id).failed)
        await asyncio.sleep(0.1)
        assert running.spool.get(queue_id) is not None and outside.sessions == 0
        monkeypatch.setattr(running.spool.kept, "_write", write)
        await running.until(lambda: outside.bodies)
        await running.empty()
    await peer.stop()
    await outside.stop()
    assert len(outside.bodies) == 1


async def test_damaged_content_is_set_aside_and_nothing_of_it_is_delivered(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=LATER).start()
    config = settings(tmp_path, hop(peer))
    large = BODY + (b"x" * 78 + b"\r\n") * 5000
    async with delivery(tmp_path, config) as running:
        small = await running.put()
        big = await running.put_large(large)
        await running.until(lambda: len(running.spool.folders["deferred"]) == 2)
    for queue_id, at in ((small, -300), (big, 200000)):
        path = tmp_path / "state/spool/deferred" / queue_id
        data = bytearray(path.read_bytes())
        at = data.index(b"body") if at < 0 else at
        data[at] ^= 1
        path.write_bytes(data)
    peer.says.clear()
    async with delivery(tmp_path, config) as running:
        await running.until(lambda: running.spool.damaged == 2)
        assert "set aside" in " ".join(running.delivery.health()["degraded"])
        await running.put()
        await running.until(lambda: peer.bodies)
        await running.until(lambda: not len(running.spool))
    await peer.stop()
    assert peer.bodies == [STUFFED]
    assert {p.name for p in (tmp_path / "state/spool/corrupt").iterdir()} >= {small, big}


def opened() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


async def test_a_grant_that_cannot_wait_for_its_worker_leaves_no_descriptor(tmp_path: Path, log, monkeypatch):
    """Out of descriptors: a copy that stays open here would keep the file locked, and its worker without one."""
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        workers, send, granted = running.delivery.workers, Channel.send, list[str]()

        def none_left(channel: Channel, value: Any, fds: tuple[int, ...] = ()) -> None:
            if fds and not granted:
                granted.append(os.readlink(f"/proc/self/fd/{fds[0]}"))
                raise OSError(errno.EMFILE, "Too many open files")
            send(channel, value, fds)

        monkeypatch.setattr(Channel, "send", none_left)
        await running.until(lambda: granted and running.worker.channel.closed)
        await running.until(lambda: not workers.health()["workers"])
        await running.until(lambda: not any(name.startswith(granted[0]) for name in opened()))
    await peer.stop()


async def test_an_envelope_that_would_break_out_of_a_command_is_set_aside(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        await running.put("a@example.com>\r\nRCPT TO:<evil@example.com")
        await running.until(lambda: running.spool.damaged == 1)
        await running.put()
        await running.until(lambda: peer.bodies)
    await peer.stop()
    assert not any("evil" in command for command in peer.commands)


async def test_what_cannot_be_set_aside_is_tried_again(tmp_path: Path, log, monkeypatch):
    """Nobody else would look at it before the next start."""
    peer = await Peer(PIPE).start()
    config = settings(tmp_path, hop(peer), queue='retry_min = "1s"')
    read_header, wrong = recovery.read_header, list[int]()

    def unread(fd: int, offset: int = 0) -> Any:
        if not wrong:
            wrong.append(fd)
            raise OSError(errno.EIO, "Input/output error")
        return read_header(fd, offset)

    monkeypatch.setattr(recovery, "read_header", unread)
    async with delivery(tmp_path, config) as running:
        queue_id = await running.put("a@example.com", sender="s@example.org>\r\nRCPT TO:<b@example.com")
        await running.until(lambda: wrong)
        await running.until(lambda: not running.dispatch.schedule.busy)
        assert running.spool.get(queue_id) and running.dispatch.schedule.jobs(queue_id)
        await running.until(lambda: running.spool.damaged)
        await running.empty()
        assert not len(running.dispatch.schedule)
    await peer.stop()


async def test_a_reload_takes_waiting_mail_along(tmp_path: Path, log):
    old, new = await Peer(PIPE, rcpt=LATER).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(old))) as running:
        await running.put()
        await running.until(lambda: running.spool.folders["deferred"])
        made = snapshot(tmp_path, settings(tmp_path, hop(new), queue='retry_min = "1s"\nlifetime = "1d"'))
        running.delivery.prepare(made)
        running.delivery.commit(made)
        assert running.dispatch.lifetime == 86400 and running.dispatch.schedule.limits.retry_min == 1
        await running.until(lambda: hop(new) in running.dispatch.schedule.sites)
        assert hop(old) not in running.dispatch.schedule.sites
        await running.ask(command="flush", all=True)
        await running.empty()
    await old.stop()
    await new.stop()
    assert new.bodies == [STUFFED]


async def test_a_reload_that_demands_tls_ends_kept_connections_in_the_clear(tmp_path: Path, log):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    peer = await Peer(PIPE, "STARTTLS", tls=context).start()
    clear, verified = 'tls = { "*" = "none" }', f'tls = {{ "*" = "verify" }}\ntls_ca = "{tmp_path}/ca"'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=clear)) as running:
        await running.put()
        await running.empty()
        assert "STARTTLS" not in peer.commands
        made = snapshot(tmp_path, settings(tmp_path, hop(peer), relay=verified), ca=authority.cert_pem.bytes())
        running.delivery.prepare(made)
        running.delivery.commit(made)
        await running.put()
        await running.empty()
    await peer.stop()
    assert peer.commands.count("STARTTLS") == 1 and peer.sessions == 2 and len(peer.bodies) == 2


async def test_a_reload_with_a_broken_ca_is_refused(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        made = snapshot(tmp_path, settings(tmp_path, hop(peer), relay=f'tls_ca = "{tmp_path}/ca"'), ca=b"rubbish")
        with pytest.raises(ValueError, match="CA"):
            running.delivery.prepare(made)
        await running.put()
        await running.empty()
    await peer.stop()


async def test_drain_finishes_what_runs_and_leaves_the_rest_on_disk(tmp_path: Path, log):
    peer = Peer(PIPE)
    peer.hold = asyncio.Event()
    await peer.start()
    config = settings(tmp_path, hop(peer), queue="concurrency = 1")
    async with delivery(tmp_path, config) as running:
        for _ in range(3):
            await running.put()
        await running.until(lambda: peer.bodies)
        asyncio.get_running_loop().call_later(0.2, peer.hold.set)
    assert len(peer.bodies) == 1 and len(log.of("status=sent")) == 1
    async with delivery(tmp_path, config) as running:
        await running.until(lambda: len(peer.bodies) == 3)
        await running.until(lambda: not len(running.spool))
    await peer.stop()


async def test_quarantine_is_kept_for_its_time(tmp_path: Path, log):
    config = settings(tmp_path, "smtp:[127.0.0.1]:9", queue='quarantine_age = "1d"')
    async with delivery(tmp_path, config) as running:
        queue_id = await running.put(keep="quarantine")
        await running.until(lambda: running.spool.folders["quarantine"])
        running.delivery.upkeep._minute()
        assert running.spool.folders["quarantine"]
        running.spool.get(queue_id).born -= 86401.0
        running.delivery.upkeep._minute()
        assert not running.spool.folders["quarantine"]
        assert log.of(queue_id, "removed from quarantine")


async def test_quarantine_is_kept_for_ever_where_an_operator_says_so(tmp_path: Path, log):
    config = settings(tmp_path, "smtp:[127.0.0.1]:9", queue='quarantine_age = "0s"\nquarantine_size = 0')
    async with delivery(tmp_path, config) as running:
        await running.put(keep="quarantine")
        await running.until(lambda: running.spool.folders["quarantine"])
        running.delivery.upkeep._minute()
        assert running.spool.folders["quarantine"]


async def test_what_lingers_gets_a_file_of_its_own(tmp_path: Path, log, monkeypatch):
    """A next hop that is down for long must not keep whole segments on the disk."""
    monkeypatch.setattr(upkeep, "LINGER", 0.0)
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        for _ in range(30):
            await running.put()
        await running.until(lambda: len(running.spool.folders["deferred"]) == 30)


async def test_messages_that_are_never_tried_grow_too_old_all_the_same(tmp_path: Path, log):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        for _ in range(10):
            await running.put()
        await running.until(lambda: any(site.dead for site in running.dispatch.schedule.sites.values()))
        await running.until(lambda: not any(item.moving for item in running.spool))
        running.dispatch.lifetime = 0.0
        await running.until(lambda: len(running.spool.folders["hold"]) == 10)
        assert len(running.dispatch.schedule) == 0


async def test_a_wall_clock_set_by_years_expires_nothing(tmp_path: Path, log, monkeypatch):
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await running.until(lambda: running.spool.folders["deferred"])
        import time

        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 10 * 365 * 86400)
        running.delivery.upkeep._minute()
        await running.ask(command="flush", all=True)
        await running.until(lambda: running.spool.get(queue_id).attempts == 2)
        assert queue_id in running.spool.folders["deferred"]
        monkeypatch.setattr(time, "time", lambda: real() - 10 * 365 * 86400)
        peer.says.clear()
        await running.ask(command="flush", all=True)
        await running.until(lambda: running.spool.get(queue_id) is None)
    await peer.stop()
