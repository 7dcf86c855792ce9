"""Operators, reloads, retention and disks that come in between: what is under way then is neither sent twice, nor sent
though it was taken away, nor lost."""

import asyncio
import errno
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from appliance.addresses.generic import Generic
from appliance.connectors.pipe import PipeSession
from appliance.daemons.delivery import dispatch as dispatching
from appliance.daemons.delivery import runner as runners
from appliance.daemons.delivery.asking import Asking
from appliance.daemons.delivery.routing import NOWHERE, Routing
from appliance.daemons.delivery.settle import ALARMS, Settlement
from appliance.daemons.delivery.way import Ways
from appliance.mail import dsn
from appliance.queue import disk
from appliance.queue.envelope import QueuedRecipient
from appliance.queue.errors import ContentDamaged, SpoolError
from appliance.queue.item import Note, Result
from tests.connectors.smtp_peer import Peer
from tests.daemons.delivery.harness import Running, delivery, settings, snapshot
from tests.daemons.delivery.piped import both, python, shell

PIPE = "PIPELINING"
LATER = b"450 4.2.0 later\r\n"


def hop(peer: Peer) -> str:
    return f"smtp:[127.0.0.1]:{peer.port}"


async def holding(*offers: str, **says: Any) -> Peer:
    """A peer that keeps its answer to content until `hold` is set."""
    peer = Peer(*offers, **says)
    peer.hold = asyncio.Event()
    return await peer.start()


class Gate:
    """Stops who comes through it until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()

    def before(self, monkeypatch: pytest.MonkeyPatch, of: Any, name: str) -> "Gate":
        real = getattr(of, name)

        async def gated(*args: Any, **more: Any) -> Any:
            await self()
            return await real(*args, **more)

        monkeypatch.setattr(of, name, gated)
        return self

    def behind(self, monkeypatch: pytest.MonkeyPatch, of: Any, name: str) -> "Gate":
        real = getattr(of, name)

        async def gated(*args: Any, **more: Any) -> Any:
            result = await real(*args, **more)
            await self()
            return result

        monkeypatch.setattr(of, name, gated)
        return self


async def quiet(running: Running) -> None:
    """Nothing is being delivered or moved, nor about to be."""
    await running.until(lambda: not running.dispatch._due and not running.dispatch.schedule.busy)
    await asyncio.wrap_future(running.spool.idle())


async def done(running: Running, **request: Any) -> None:
    answers = await running.ask(**request)
    assert "error" not in answers[-1], answers


def refuse(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SpoolError("no space left on device")
    monkeypatch.setattr(running.spool.kept, "_write", lambda job, fds: (_ for _ in ()).throw(full))


# ---------------------------------------------------------------------- taken away before it was sent


@pytest.mark.parametrize("folder", ["intake", "deferred"])
@pytest.mark.parametrize("act", ["delete", "hold"])
async def test_what_is_taken_away_before_anybody_is_reached_is_not_sent(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch, act: str, folder: str
):
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        if folder == "deferred":
            queue_id = await running.put()
            await running.until(lambda: queue_id in running.spool.folders["deferred"])
            await running.until(lambda: not running.dispatch._runners)
        peer.says.clear()
        peer.commands.clear()
        gate = Gate().before(monkeypatch, Ways, "open")
        if folder == "deferred":
            await done(running, command="flush", ids=[queue_id])
        else:
            queue_id = await running.put()
        await gate.reached.wait()
        await done(running, command=act, ids=[queue_id])
        gate.opened.set()
        await quiet(running)
        assert not peer.bodies and not [line for line in peer.commands if line.startswith("MAIL")]
        assert (queue_id in running.spool.folders["hold"]) == (act == "hold")
        assert not running.dispatch._plans
        if act == "hold":
            await done(running, command="release", ids=[queue_id])
            await running.until(lambda: peer.bodies)
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == int(act == "hold")


@pytest.mark.parametrize("act", ["delete", "hold"])
async def test_the_recipients_whose_turn_did_not_come_get_nothing(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch, act: str
):
    monkeypatch.setattr(runners, "MOST_RECIPIENTS", 1)
    peer = await holding(PIPE)
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put("a@example.com", "b@example.com")
        await peer.got_body.wait()
        await done(running, command=act, ids=[queue_id])
        peer.hold.set()
        await quiet(running)
        assert len(peer.bodies) == 1 and not [line for line in peer.commands if "b@example.com" in line]
        if act == "hold":
            assert running.spool.folders["hold"][queue_id].todo == [1]
    await peer.stop()


async def test_what_a_filter_made_of_a_held_message_does_not_go_on(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    """It is filtered again when it is released."""
    peer = await Peer(PIPE).start()
    gate = Gate().behind(monkeypatch, PipeSession, "send")
    copy = python("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())")
    async with both(tmp_path, copy, 'output = "message"', hop=hop(peer)) as made:
        queue_id = await made.filtered("a@example.com")
        await gate.reached.wait()
        await done(made.running, command="hold", ids=[queue_id])
        gate.opened.set()
        await quiet(made.running)
        assert not peer.bodies and [one.queue_id for one in made.running.spool] == [queue_id]
        await done(made.running, command="release", ids=[queue_id])
        await made.empty()
    await peer.stop()
    assert len(peer.bodies) == 1


async def test_a_command_does_not_begin_for_a_message_that_went_while_it_waited_for_a_place(tmp_path: Path, log):
    ran = tmp_path / "ran"
    async with both(tmp_path, shell(f"cat > {ran}")) as made:
        places = made.running.delivery._programs._places["scan"][1]
        while not places.locked():
            await places.acquire()
        queue_id = await made.filtered("a@example.com")
        await made.until(lambda: places._waiters)
        await done(made.running, command="delete", ids=[queue_id])
        places.release()
        await quiet(made.running)
        assert not ran.exists() and not len(made.running.spool)


async def test_why_a_message_is_held_stays_its_reason(tmp_path: Path, log):
    """Whatever the delivery brings that ran then."""
    peer = await holding(PIPE, end=LATER)
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await peer.got_body.wait()
        await done(running, command="hold", ids=[queue_id], reason="ticket 1")
        peer.hold.set()
        await quiet(running)
        item = running.spool.folders["hold"][queue_id]
        assert (item.reason, item.act) == ("ticket 1", "hold")
        assert item.attempts == 1 and item.results[0].text.startswith("host 127.0.0.1")
    await peer.stop()


async def test_why_a_message_goes_to_hold_stays_its_reason_though_it_is_still_on_its_way(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    peer = await holding(PIPE, end=LATER)
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await peer.got_body.wait()
        go_on, write = threading.Event(), running.spool.kept._write
        monkeypatch.setattr(running.spool.kept, "_write", lambda job, fds: go_on.wait(5) and write(job, fds))
        asked = asyncio.create_task(running.ask(command="hold", ids=[queue_id], reason="ticket 1"))
        await running.until(lambda: running.spool.get(queue_id).moving)
        peer.hold.set()
        await running.until(lambda: not running.dispatch.schedule.busy)
        go_on.set()
        assert "error" not in (await asked)[-1]
        item = running.spool.folders["hold"][queue_id]
        assert (item.reason, item.act) == ("ticket 1", "hold")
        assert item.results[0].text.startswith("host 127.0.0.1")
    await peer.stop()


async def test_a_message_that_is_deleted_while_its_addresses_are_asked_for_is_no_error_of_ours(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    peer = await Peer(PIPE, rcpt=LATER).start()
    more = '[addresses]\nsmtp_generic_maps = "texthash:generic"\n'
    text = settings(tmp_path, hop(peer), dns=more)
    async with delivery(tmp_path, text, generic=b"a@example.org b@example.org\n") as running:
        queue_id = await running.put()
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        gate = Gate().before(monkeypatch, Generic, "one")
        await done(running, command="flush", ids=[queue_id])
        await gate.reached.wait()
        await done(running, command="delete", ids=[queue_id])
        gate.opened.set()
        await quiet(running)
    await peer.stop()
    assert "error of ours" not in capfd.readouterr().err


# ---------------------------------------------------------------------- put back while it is being sent


@pytest.mark.parametrize("acts", [("requeue",), ("hold", "release"), ("hold", "requeue")])
@pytest.mark.parametrize("answer", ["taken", "put off"])
async def test_what_is_put_back_while_it_is_being_sent_waits_for_that(tmp_path: Path, log, acts: Any, answer: str):
    """Else two deliveries of it would run at once, and both would be taken."""
    ok = b"250 2.0.0 Ok\r\n"
    peer = await holding(PIPE, end=[LATER, ok] if answer == "put off" else ok)
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await peer.got_body.wait()
        for act in acts:
            await done(running, command=act, ids=[queue_id])
        await running.until(lambda: not running.dispatch._due)
        assert running.dispatch.schedule.busy == 1 and not running.dispatch.schedule.jobs(queue_id)
        assert running.dispatch.delivering(queue_id) and not running.dispatch.expired(running.spool.get(queue_id))
        peer.hold.set()
        await running.empty()
        assert not running.dispatch._later and not running.dispatch._plans
    await peer.stop()
    assert len(peer.bodies) == (2 if answer == "put off" else 1)


async def test_what_is_deleted_behind_that_does_not_come_back(tmp_path: Path, log):
    peer = await holding(PIPE, end=LATER)
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await peer.got_body.wait()
        await done(running, command="requeue", ids=[queue_id])
        await done(running, command="delete", ids=[queue_id])
        peer.hold.set()
        await quiet(running)
        assert not len(running.spool) and not len(running.dispatch.schedule)
    await peer.stop()
    assert len(peer.bodies) == 1


async def test_a_hold_that_the_disk_refuses_sends_nothing_twice(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    peer = await holding(PIPE)
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await peer.got_body.wait()
        refuse(running, monkeypatch)
        answers = await running.ask(command="hold", ids=[queue_id])
        assert "no space left" in answers[-1]["error"]
        assert not running.dispatch.schedule.jobs(queue_id)
        peer.hold.set()
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == 1


# ---------------------------------------------------------------------- moves


async def test_a_message_that_is_being_moved_keeps_its_place_in_the_schedule(tmp_path: Path, log):
    """An act that is refused changes nothing."""
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        [job] = running.dispatch.schedule.jobs(queue_id)
        running.spool.get(queue_id).moving = True
        for act in ("hold", "requeue", "delete"):
            assert "is being moved" in (await running.ask(command=act, ids=[queue_id]))[-1]["error"]
        assert running.dispatch.schedule.jobs(queue_id) == [job] and job.state == "resting"
        running.spool.get(queue_id).moving = False
    await peer.stop()


@pytest.mark.parametrize("act", ["hold", "release", "requeue", "delete"])
async def test_what_is_delivered_between_the_choice_and_the_act_is_no_more_acted_on(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch, act: str
):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        queue_id = await running.put(keep="hold" if act == "release" else "deliver")
        folder = "hold" if act == "release" else "deferred"
        await running.until(lambda: queue_id in running.spool.folders[folder])
        facts = running.delivery.admin._facts

        def last(item: Any, full: bool) -> Any:
            told = facts(item, full)
            running.spool.mark_done(item)
            return told

        monkeypatch.setattr(running.delivery.admin, "_facts", last)
        assert "is not there any more" in (await running.ask(command=act, ids=[queue_id]))[-1]["error"]
        assert not len(running.spool) and not log.of("postsuper")


async def test_what_policy_keeps_goes_to_nobody_though_the_disk_was_full(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    """Neither by a requeue that comes just as there is room again, nor is it there again once it was deleted."""
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        with monkeypatch.context() as patched:
            refuse(running, patched)
            kept, deleted = await running.put(keep="quarantine"), await running.put(keep="quarantine")
            await running.seen()
            await asyncio.wrap_future(running.spool.idle())
            await running.until(lambda: not any(item.moving for item in running.spool))
            retry = running.dispatch.aside.retry
            patched.setattr(running.dispatch.aside, "retry", lambda: None)
            await done(running, command="delete", ids=[deleted])
        monkeypatch.setattr(running.dispatch.aside, "retry", lambda: None)
        running.dispatch.lifetime = -1.0
        assert not running.dispatch.expired(running.spool.get(kept)), (
            "nor is its sender told that it could not be delivered"
        )
        for act in ("requeue", "hold"):
            assert "try again" in (await running.ask(command=act, ids=[kept]))[-1]["error"]
        retry()
        await running.until(lambda: kept in running.spool.folders["quarantine"])
        await quiet(running)
        assert [one.queue_id for one in running.spool] == [kept]
    await peer.stop()
    assert not peer.bodies


async def test_retention_leaves_alone_what_is_just_released(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer), queue='quarantine_age = "1d"')) as running:
        queue_id = await running.put(keep="quarantine")
        await running.until(lambda: queue_id in running.spool.folders["quarantine"])
        item = running.spool.get(queue_id)
        moved = running.spool.release(item)
        item.born -= 86401.0
        running.delivery.upkeep._minute()
        await asyncio.wrap_future(moved)
        item.born += 86401.0
        running.dispatch.arrived((item,))
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == 1 and not log.of("retention")


async def test_a_message_that_is_named_twice_is_deleted_once(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        assert (await running.ask(command="delete", ids=[queue_id, queue_id]))[-1] == {"done": 1}
    await peer.stop()


# ---------------------------------------------------------------------- notices


async def test_success_is_reported_also_for_the_last_recipient_of_a_message(tmp_path: Path, log):
    """Whose content goes with him."""
    peer = await Peer(PIPE, rcpt=[b"250 2.1.5 Ok\r\n", LATER, b"250 2.1.5 Ok\r\n"]).start()
    outside = await Peer(PIPE).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        to = [QueuedRecipient(f"{name}@example.com", "example.com", notify="SUCCESS") for name in "ab"]
        queue_id = await running.put(*to, proven=True)
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        await running.until(lambda: len(outside.bodies) == 1)
        await done(running, command="flush", ids=[queue_id])
        await running.until(lambda: len(outside.bodies) == 2)  # the message may be gone before its notice is queued
        await running.empty()
    await peer.stop()
    await outside.stop()
    told = [name for body in outside.bodies for name in "ab" if f"Final-Recipient: rfc822; {name}@".encode() in body]
    assert told == ["a", "b"] and not log.of("could not be queued")


async def test_a_notice_of_success_that_goes_wrong_has_nothing_sent_twice(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    def wrong(report: Any) -> bytes:
        raise KeyError("an error of ours")

    monkeypatch.setattr(dsn, "build", wrong)
    for to in (["a"], ["a", "b"]):
        peer = await Peer(PIPE, rcpt=[b"250 2.1.5 Ok\r\n", LATER]).start()
        async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
            whom = [QueuedRecipient(f"{name}@example.com", "example.com", notify="SUCCESS") for name in to]
            queue_id = await running.put(*whom, proven=True)
            await running.until(lambda peer=peer: peer.bodies)
            await quiet(running)
            item = running.spool.get(queue_id)
            assert (item is None) if len(to) == 1 else item.todo == [1]
        await peer.stop()


async def test_a_notice_of_success_that_is_under_way_lets_no_refusal_be_told_twice(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        to = [QueuedRecipient(f"{name}@example.com", "example.com", notify="SUCCESS,FAILURE") for name in "abc"]
        queue_id = await running.put(*to, proven=True)
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        item, settlement = running.spool.get(queue_id), running.delivery.settlement
        submitted: list[Future[Any]] = []
        monkeypatch.setattr(running.spool, "submit", lambda octets, trailer: submitted.append(Future()) or submitted[-1])
        for index in (0, 1):
            settlement.relayed(item, [index], False, "handed on")
        submitted[0].set_result(item)
        running.spool.record(item, Note(0, "deferred", results={2: Result("failed", "5.1.1", "no")}))
        settlement.settle(item)
        settlement.settle(item)
        submitted[1].set_result(item)
        settlement.retry()
        assert len(submitted) == 3
        submitted[2].set_result(item)
        settlement.retry()
        assert len(submitted) == 3 and not item.failed
    await peer.stop()


async def test_a_notice_is_sent_though_the_next_one_of_its_message_goes_wrong(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    """Of two senders."""
    peer, outside = await Peer(PIPE, rcpt=b"550 5.1.1 no\r\n").start(), await Peer(PIPE).start()
    build, built = dsn.build, list[str]()

    def second_wrong(report: Any) -> bytes:
        built.append(report.sender)
        if len(built) == 2:
            raise KeyError("an error of ours")
        return build(report)

    monkeypatch.setattr(dsn, "build", second_wrong)
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        to = [
            QueuedRecipient("a@example.com", "example.com"),
            QueuedRecipient("b@example.com", "example.com", owner="owner@example.org"),
        ]
        queue_id = await running.put(*to, proven=True, told={"owner@example.org": ("boss@example.org",)})
        await running.until(lambda: len(built) == 2)
        await running.until(lambda: outside.bodies)
        await running.until(lambda: [one.queue_id for one in running.spool] == [queue_id])
    await peer.stop()
    await outside.stop()


async def test_a_notice_that_could_not_even_be_handed_in_is_owed_still(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    peer, outside = await Peer(PIPE, rcpt=LATER).start(), await Peer(PIPE).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        queue_id = await running.put(proven=True)
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        await quiet(running)
        item, settlement = running.spool.get(queue_id), running.delivery.settlement

        def wrong(*_: Any) -> None:
            raise KeyError("an error of ours")

        with monkeypatch.context() as patched:
            patched.setattr(running.spool, "submit", wrong)
            running.spool.record(item, Note(0, "deferred", results={0: Result("failed", "5.1.1", "no")}))
            with pytest.raises(KeyError):
                settlement.settle(item)
        settlement.settle(item)
        await running.until(lambda: outside.bodies)
        await running.empty()
    await peer.stop()
    await outside.stop()


async def test_damage_that_a_notice_finds_and_cannot_set_aside_is_looked_at_again(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    """Nobody else looks at a message all of whose recipients are refused."""
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put(proven=True)
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        await quiet(running)
        item = running.spool.get(queue_id)

        def damaged(*_: Any) -> None:
            raise ContentDamaged("its checksum is wrong")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(running.spool, "open_content", damaged)
        with monkeypatch.context() as patched:
            patched.setattr(disk, "write_file", full)
            running.spool.record(item, Note(0, "deferred", results={0: Result("failed", "5.1.1", "no")}))
            running.delivery.settlement.settle(item)
        assert running.spool.has(item)
        await running.until(lambda: running.spool.damaged)
        assert not running.spool.has(item)
    await peer.stop()


async def test_an_alarm_counts_once_however_often_the_disk_refuses_it(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch
):
    peer = await Peer(PIPE, rcpt=b"550 5.1.1 no\r\n").start()
    before = ALARMS._value.get()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        with monkeypatch.context() as patched:
            refuse(running, patched)
            queue_id = await running.put()
            await running.until(lambda: queue_id in running.delivery.settlement._again)
            running.delivery.settlement.retry()
            await running.until(lambda: queue_id in running.delivery.settlement._again)
        await running.until(lambda: queue_id in running.spool.folders["hold"])
    assert ALARMS._value.get() == before + 1
    await peer.stop()


async def test_a_settlement_that_goes_wrong_keeps_the_others(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        settlement, settled = running.delivery.settlement, list[str]()

        def settle(item: Any) -> None:
            settled.append(item)
            if len(settled) == 1:
                raise KeyError("an error of ours")

        monkeypatch.setattr(settlement, "settle", settle)
        settlement._again = {name: name for name in "ab"}  # type: ignore[misc]
        with pytest.raises(KeyError):
            settlement.retry()
        settlement.retry()
        assert settled == ["a", "b"]


# ---------------------------------------------------------------------- connections


async def test_a_job_comes_back_though_its_failure_cannot_be_told(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:

        def wrong(*arguments: Any) -> None:
            raise KeyError("an error of ours")

        monkeypatch.setattr(running.dispatch.hops, "not_reached", wrong)
        queue_id = await running.put()
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        [job] = running.dispatch.schedule.jobs(queue_id)
        assert job.state == "resting" and not running.dispatch.schedule.busy


async def test_connections_are_no_more_than_they_may_be(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    """One that is idle makes room for one other, not for all that wait."""
    peer = await Peer(PIPE).start()
    routes = ", ".join(f'"{n}.example.org" = "smtp:[127.0.0.1]:{n}"' for n in range(1, 6))
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=f"routes = {{ {routes} }}")) as running:
        await running.put()
        await running.until(lambda: running.dispatch._idle)
        gate = Gate().before(monkeypatch, Ways, "open")
        monkeypatch.setattr(dispatching, "MOST_RUNNERS", 1)
        running.dispatch.draining = True
        for n in range(1, 6):
            await running.put(f"a@{n}.example.org")
        await running.until(lambda: len(running.dispatch._plans) == 5)
        running.dispatch.draining = False
        running.dispatch.pump()
        assert len(running.dispatch._runners) == 2  # one of them ends
        await gate.reached.wait()
        await running.until(lambda: len(running.dispatch._runners) == 1)
        gate.opened.set()
        await quiet(running)
    await peer.stop()


# ---------------------------------------------------------------------- routes


async def test_a_message_that_cannot_be_scheduled_stops_no_other(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    peer = await Peer(PIPE, rcpt=LATER).start()
    text = settings(tmp_path, hop(peer))
    async with delivery(tmp_path, text) as running:
        ids = [await running.put() for _ in range(3)]
        await running.until(lambda: len(running.spool.folders["deferred"]) == 3)
    peer.says.clear()
    settle = Settlement.settle

    def wrong(self: Settlement, item: Any) -> None:
        if item.queue_id == ids[1]:
            raise KeyError("an error of ours")
        settle(self, item)

    monkeypatch.setattr(Settlement, "settle", wrong)
    async with delivery(tmp_path, text) as running:
        await running.until(lambda: len(peer.bodies) == 2 and [one.queue_id for one in running.spool] == [ids[1]])
    await peer.stop()


@pytest.mark.parametrize("slow", [False, True])
async def test_a_message_whose_way_cannot_be_found_anew_stops_no_other(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], slow: bool
):
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        for _ in range(3):
            await running.put()
        await running.until(lambda: len(running.spool.folders["deferred"]) == 3)
        await quiet(running)
        tried = list[str]()

        def wrong(item: Any) -> None:
            tried.append(item.queue_id)
            raise KeyError("an error of ours")

        monkeypatch.setattr(running.dispatch, "_ways_of", wrong)
        if slow:
            running.dispatch.routing = Slow()
        for plan in running.dispatch._plans.values():
            plan.lost = True
        running.dispatch.reroute_lost()
        await running.until(lambda: len(set(tried)) == 3)
    await peer.stop()
    assert capfd.readouterr().err.count("by an error of ours") >= 3


async def test_a_reload_takes_along_what_is_just_being_tried(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    """A next hop that hangs is why an operator changes the route."""
    old, new = await Peer(PIPE, rcpt=LATER).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(old))) as running:
        gate = Gate().before(monkeypatch, Ways, "open")
        queue_id = await running.put()
        await gate.reached.wait()
        made = snapshot(tmp_path, settings(tmp_path, hop(new)))
        running.delivery.prepare(made)
        running.delivery.commit(made)
        await running.delivery._tasks[-1]  # all messages were looked at
        gate.opened.set()
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        await quiet(running)
        assert [job.destination for job in running.dispatch.schedule.jobs(queue_id)] == [hop(new)]
        await done(running, command="flush", ids=[queue_id])
        await running.empty()
    await old.stop()
    await new.stop()
    assert len(new.bodies) == 1


class Slow(Routing):
    """Its tables are asked over a wire, and remember nothing."""

    def __init__(self) -> None:
        self._heard: dict[Any, Any] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}
        self._routes = type("Routes", (), {"at_once": False})()  # type: ignore[assignment]

    def generic(self, destination: Any) -> None:
        return None

    def gate(self, address: str) -> asyncio.Event:
        self.reached[address] = asyncio.Event()
        return self.gates.setdefault(address, asyncio.Event())

    def _way(self, recipient: QueuedRecipient, trailer: Any) -> Any:
        return self._answer(recipient.address)

    async def _answer(self, address: str) -> Any:
        if address in self.gates:
            self.reached[address].set()
            await self.gates[address].wait()
        return NOWHERE


@pytest.mark.filterwarnings("error")
async def test_two_messages_to_one_address_each_hear_their_way(tmp_path: Path, log):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        running.dispatch.routing = slow = Slow()
        second = slow.gate("b@example.com")
        both_of = await running.put("a@example.com", "b@example.com")
        await running.until(lambda: "b@example.com" in slow.reached)
        await slow.reached["b@example.com"].wait()
        one = await running.put("a@example.com")
        await running.until(lambda: one in running.dispatch._plans)
        second.set()
        await running.until(lambda: both_of in running.dispatch._plans)
        plans = running.dispatch._plans
        assert not plans[one].lost and not plans[both_of].lost


@pytest.mark.filterwarnings("error")
async def test_what_waits_for_its_way_over_a_reload_asks_again(tmp_path: Path, log):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        running.dispatch.routing = slow = Slow()
        gate = slow.gate("a@example.com")
        queue_id = await running.put("a@example.com")
        await running.seen()
        await slow.reached["a@example.com"].wait()
        running.dispatch.renew(running.dispatch.ways, Slow())
        gate.set()
        await running.until(lambda: queue_id in running.dispatch._plans)
        assert not running.dispatch._plans[queue_id].lost


async def test_what_was_forgotten_while_it_waited_may_wait_anew_at_once(tmp_path: Path, log):
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9")) as running:
        queue_id = await running.put("a@example.com", keep="hold")
        await running.until(lambda: queue_id in running.spool.folders["hold"])
        item, slow, gone_on = running.spool.get(queue_id), Slow(), []
        item.folder = "deferred"  # where it is asked for
        running.spool.folders["deferred"][queue_id] = running.spool.folders["hold"].pop(queue_id)
        asking = Asking(running.spool, lambda: slow, lambda: None)
        gate = slow.gate("a@example.com")
        asking.first(item, gone_on.append)
        await slow.reached["a@example.com"].wait()
        asking.forget(queue_id)
        asking.first(item, gone_on.append)
        gate.set()
        await running.until(lambda: gone_on)
        assert gone_on == [item] and not asking._tasks
        running.spool.folders["hold"][queue_id] = running.spool.folders["deferred"].pop(queue_id)
        item.folder = "hold"
