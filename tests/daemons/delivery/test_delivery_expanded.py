"""NOTIFY=SUCCESS for a recipient who is others now: the sender is told of that, once, and whatever comes between."""

import asyncio
import email
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from appliance.queue.envelope import Expanded, QueuedRecipient
from appliance.queue.errors import SpoolError
from tests.connectors.smtp_peer import Peer
from tests.daemons.delivery.harness import delivery
from tests.daemons.delivery.piped import both, python
from tests.daemons.delivery.test_delivery_outcomes import LATER, PIPE
from tests.daemons.delivery.test_delivery_owners import OWNER, mails, outward
from tests.daemons.delivery.test_delivery_pipe import EDIT
from tests.peers.inner import Inner

ALIAS = Expanded("info@alias.example", "rfc822;first@else.example")
LIST = Expanded("list@gw.example.com", "rfc822;list@gw.example.com", "delivered")
MEMBER = QueuedRecipient("a@example.com", "example.com", "NEVER", "", "info@alias.example")


def told(body: bytes) -> list[tuple[str, ...]]:
    """(Final-Recipient, Original-Recipient, Action, Status) of each that a notice reports."""
    fields: Any = email.message_from_bytes(body.replace(b"\r\n..", b"\r\n.")).get_payload()[1].get_payload()
    names = ("Final-Recipient", "Original-Recipient", "Action", "Status")
    return [tuple((one[name] or "").removeprefix("rfc822; ") for name in names) for one in fields[1:]]


async def test_the_sender_is_told_who_is_others_now(tmp_path: Path, log):
    peer, outside = await Peer(PIPE).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        queue_id = await running.put(MEMBER, proven=True, envid="env1", expanded=(LIST, ALIAS))
        await running.until(lambda: outside.bodies)
        await running.empty()
    await peer.stop()
    await outside.stop()
    [body] = outside.bodies
    assert told(body) == [
        ("info@alias.example", "first@else.example", "expanded", "2.0.0"),
        ("list@gw.example.com", "list@gw.example.com", "delivered", "2.0.0"),
    ]
    notice = email.message_from_bytes(body)
    assert notice["Subject"] == "Successful Mail Delivery Report"
    fields: Any = notice.get_payload()[1].get_payload()
    assert fields[0]["Original-Envelope-Id"] == "env1"
    assert notice.get_payload()[2].get_content_type() == "text/rfc822-headers"
    assert mails(outside) == [("", {"s@example.org"})]
    assert len(log.of(f"bounce: {queue_id}: sender delivery status notification: ")) == 1
    assert len(log.of(f"qmgr: {queue_id}: removed")) == 1


@pytest.mark.parametrize(("sender", "proven"), [("s@example.org", False), ("", True)])
async def test_nobody_is_told_who_may_not_be(tmp_path: Path, log, sender: str, proven: bool):
    peer, outside = await Peer(PIPE).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        queue_id = await running.put(MEMBER, sender=sender, proven=proven, expanded=(ALIAS,))
        await running.empty()
        assert log.of(queue_id, "removed") and not log.of("notification")
    await peer.stop()
    await outside.stop()


async def test_a_restart_tells_nobody_again(tmp_path: Path, log):
    """While the message waits, in the intake and in a file of its own."""
    peer, outside = await Peer(PIPE, rcpt=LATER).start(), await Peer(PIPE).start()
    text = outward(tmp_path, peer, outside, queue='retry_min = "1s"')
    async with delivery(tmp_path, text) as running:
        queue_id = await running.put(
            MEMBER, QueuedRecipient("b@example.com", "example.com"), proven=True, expanded=(ALIAS,)
        )
        await running.until(lambda: outside.bodies and running.spool.folders["deferred"])
    for _ in range(2):
        async with delivery(tmp_path, text) as running:
            await running.until(lambda: running.spool.get(queue_id) is not None)
            before = len(peer.commands)
            await running.ask(command="flush", all=True)
            await running.until(lambda before=before: len(peer.commands) > before)
            assert not running.spool.get(queue_id).owes_report
    assert len(outside.bodies) == 1 and len(log.of("delivery status notification")) == 1
    await peer.stop()
    await outside.stop()


async def test_what_was_owed_at_the_end_is_told_by_the_next_process(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    """All recipients are done, the report never came to be queued: the message is there for its sake alone."""
    peer, outside = await Peer(PIPE).start(), await Peer(PIPE).start()
    text = outward(tmp_path, peer, outside)
    async with delivery(tmp_path, text) as running:
        monkeypatch.setattr(running.spool, "submit", lambda *_: Future())  # it comes to no end
        queue_id = await running.put(MEMBER, proven=True, expanded=(ALIAS,))
        await running.until(lambda: log.of(queue_id, "status=sent"))
    assert not outside.bodies
    async with delivery(tmp_path, text) as running:
        await running.until(lambda: log.of(queue_id, "removed"))
        await running.empty()
    assert len(peer.bodies) == 1
    assert [told(body)[0][2] for body in outside.bodies] == ["expanded"]
    await peer.stop()
    await outside.stop()


async def test_the_intake_remembers_it_as_well(tmp_path: Path, log):
    """The mark stands behind those of the recipients."""
    peer, outside = await Peer(PIPE).start(), await Peer(PIPE).start()
    peer.hold_data = asyncio.Event()
    text = outward(tmp_path, peer, outside)
    async with delivery(tmp_path, text) as running:
        queue_id = await running.put(MEMBER, proven=True, expanded=(ALIAS,))
        await running.until(lambda: outside.bodies and not running.spool.get(queue_id).owes_report)
        assert running.spool.get(queue_id).folder == "intake"
    peer.hold_data.set()
    async with delivery(tmp_path, text) as running:
        await running.until(lambda: log.of(queue_id, "removed"))
    assert len(outside.bodies) == 1
    await peer.stop()
    await outside.stop()


@pytest.mark.parametrize("expanded", [ALIAS, LIST])
async def test_a_report_that_cannot_be_queued_is_tried_again_and_the_message_waits_for_it(
    tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch, expanded: Expanded
):
    peer, outside = await Peer(PIPE).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        submit, refused = running.spool.submit, list[int]()

        def refuse(octets: bytes, trailer: Any) -> Any:
            if len(refused) == 2:
                return submit(octets, trailer)
            refused.append(len(octets))
            future: Future[Any] = Future()
            future.set_exception(SpoolError("no room"))
            return future

        monkeypatch.setattr(running.spool, "submit", refuse)
        queue_id = await running.put(MEMBER, proven=True, expanded=(expanded,))
        await running.until(lambda: peer.bodies and log.of(queue_id, "status=sent"))
        assert running.spool.get(queue_id) is not None and not log.of(queue_id, "removed")
        await running.until(lambda: outside.bodies)
        await running.empty()
    assert len(refused) == 2 and len(peer.bodies) == 1 and len(outside.bodies) == 1
    assert len(log.of(queue_id, "removed")) == 1
    await peer.stop()
    await outside.stop()


async def test_what_is_kept_is_reported_when_it_goes_on(tmp_path: Path, log):
    peer, outside = await Peer(PIPE).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        for keep in ("hold", "quarantine"):
            await running.put(MEMBER, proven=True, expanded=(ALIAS,), keep=keep, keep_reason="x")
        await running.until(lambda: running.spool.folders["hold"] and running.spool.folders["quarantine"])
        assert not log.of("notification")
        await running.ask(command="release", all=True)
        await running.until(lambda: outside.bodies)
        await running.ask(command="delete", queue="quarantine", all=True)
        await running.empty()
    assert len(outside.bodies) == 1
    await peer.stop()
    await outside.stop()


async def test_an_operator_deletes_it_whatever_is_owed(tmp_path: Path, log, monkeypatch: pytest.MonkeyPatch):
    peer, outside = await Peer(PIPE, rcpt=LATER).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        monkeypatch.setattr(running.spool, "submit", lambda *_: Future())  # it comes to no end
        queue_id = await running.put(MEMBER, proven=True, expanded=(ALIAS,))
        await running.until(lambda: running.spool.folders["deferred"])
        await running.ask(command="delete", ids=[queue_id])
        await running.empty()
        moved = await running.put(MEMBER, proven=True, expanded=(ALIAS,))
        await running.until(lambda: running.spool.folders["deferred"])
        running.spool.hold(running.spool.get(moved), "on its way when it is removed")
        running.spool.remove(running.spool.get(moved))
        await running.empty()
    assert not list((tmp_path / "state/spool/deferred").iterdir())
    await peer.stop()
    await outside.stop()


async def test_the_poster_hears_of_the_list_and_the_owner_of_its_members(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=b"550 5.1.1 no\r\n").start(), await Peer(PIPE).start()
    member = QueuedRecipient("a@example.com", "example.com", "FAILURE", "", "list@gw.example.com", OWNER)
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        await running.put(member, proven=True, expanded=(LIST,), told={OWNER: ("boss@office.example",)})
        await running.until(lambda: len(outside.bodies) == 2)
        await running.empty()
    assert sorted(told(body)[0][0::2] for body in outside.bodies) == [
        ("a@example.com", "failed"),
        ("list@gw.example.com", "delivered"),
    ]
    assert sorted(sorted(to) for _, to in mails(outside)) == [["boss@office.example"], ["s@example.org"]]
    await peer.stop()
    await outside.stop()


async def test_what_a_filter_makes_of_it_is_not_told_again_and_keeps_its_owners(tmp_path: Path, log, inner: Inner):
    hop = f"smtp:[127.0.0.1]:{inner.port}"
    member = QueuedRecipient("b@example.com", "example.com", "NEVER", "", "list@gw.example.com", OWNER)
    async with both(tmp_path, python(EDIT), 'output = "message"', hop=hop) as stage:
        await stage.filtered(MEMBER, member, sender="boss@example.com", proven=True, expanded=(ALIAS, LIST))
        await stage.until(lambda: len(inner.messages) == 3)
        await stage.until(lambda: not len(stage.running.spool))
        await stage.clean()
    assert sorted((one.sender, one.recipients) for one in inner.messages) == [
        ("", ["boss@example.com"]),
        ("boss@example.com", ["a@example.com"]),
        (OWNER, ["b@example.com"]),
    ]
    assert len(log.of("delivery status notification")) == 1
