"""What becomes of a message: taken, put off, refused, expired, kept, each recipient by itself (threats Q3, Q4, Q7)."""

import asyncio
import email
import re
import socket
from pathlib import Path

import pytest

from appliance.mail.edits import Edit
from appliance.queue.envelope import QueuedRecipient
from tests.connectors.smtp_peer import CUT, SILENT, Peer
from tests.daemons.delivery.harness import BODY, FAST, PATIENT, delivery, settings

PIPE = "PIPELINING"
STUFFED = BODY.replace(b"\r\n.", b"\r\n..")
NO = b"550 5.1.1 <x>: no such user\r\n"
LATER = b"450 4.2.0 later\r\n"


def hop(peer: Peer) -> str:
    return f"{'lmtp' if peer.lmtp else 'smtp'}:[127.0.0.1]:{peer.port}"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


async def test_a_message_arrives_and_leaves_nothing(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put("a@example.com", "b@example.com")
        await running.empty()
    await peer.stop()
    assert peer.bodies == [STUFFED]
    assert log.of(queue_id, "status=sent (250 2.0.0 Ok: queued as PEER1)", "to=<a@example.com>", "dsn=2.0.0")
    assert log.of(queue_id, "to=<b@example.com>", f"relay=127.0.0.1[127.0.0.1]:{peer.port}")
    assert log.of(f"qmgr: {queue_id}: from=<s@example.org>, size={len(BODY)}, nrcpt=2 (queue active)")
    assert log.of(f"qmgr: {queue_id}: removed")
    assert [p.name for p in (tmp_path / "state/spool/deferred").iterdir()] == []


async def test_connections_are_kept_for_the_next_message(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer), queue="concurrency = 1")) as running:
        for _ in range(5):
            await running.put()
        await running.empty()
        await running.put()
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == 6 and peer.sessions == 1
    assert log.of("conn_use=6", "status=sent")


async def test_a_connection_is_used_for_at_most_100_messages(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer), queue="concurrency = 1")) as running:
        await asyncio.gather(*(running.put() for _ in range(150)))
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == 150 and peer.sessions == 2


async def test_concurrency_is_bounded(tmp_path: Path, log):
    peer = Peer(PIPE)
    peer.hold = asyncio.Event()
    await peer.start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer), queue="concurrency = 3")) as running:
        for _ in range(20):
            await running.put()
        await running.until(lambda: len(peer.bodies) == 3)
        await asyncio.sleep(0.1)
        assert peer.open == 3
        peer.hold.set()
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == 20 and peer.most_open == 3


async def test_a_slow_destination_does_not_hold_up_another(tmp_path: Path, log):
    slow, quick = Peer(PIPE), Peer(PIPE)
    slow.hold = asyncio.Event()
    await slow.start()
    await quick.start()
    routes = f'routes = {{ "b.example.com" = "{hop(quick)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(slow), relay=routes)) as running:
        for _ in range(50):
            await running.put("a@example.com")
        for _ in range(5):
            await running.put("a@b.example.com")
        await running.until(lambda: len(quick.bodies) == 5)
        assert len(slow.bodies) <= 20
        slow.hold.set()
        await running.empty()
    await slow.stop()
    await quick.stop()


async def test_recipients_of_two_destinations_are_one_message(tmp_path: Path, log):
    one, two = await Peer(PIPE).start(), await Peer(PIPE, rcpt=NO).start()
    routes = f'routes = {{ "b.example.com" = "{hop(two)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(one), relay=routes)) as running:
        queue_id = await running.put("a@example.com", "x@b.example.com", "c@example.com")
        await running.until(lambda: running.spool.folders["hold"])
        item = running.spool.get(queue_id)
        assert [item.results[i].status for i in range(3)] == ["done", "failed", "done"]
    await one.stop()
    await two.stop()
    assert [c for c in one.commands if c.startswith("RCPT")] == ["RCPT TO:<a@example.com>", "RCPT TO:<c@example.com>"]


@pytest.mark.parametrize(
    "says",
    [{"mail": LATER}, {"rcpt": LATER}, {"data": LATER}, {"end": LATER}, {"mail": CUT}, {"mail": SILENT}, {"end": CUT}],
)
async def test_what_is_put_off_waits_in_deferred_and_arrives_later(tmp_path: Path, log, says):
    peer = await Peer(PIPE, **says).start()
    timeouts = FAST if SILENT in says.values() else PATIENT
    async with delivery(tmp_path, settings(tmp_path, hop(peer)), timeouts) as running:
        queue_id = await running.put()
        await running.until(lambda: running.spool.folders["deferred"])
        item = running.spool.get(queue_id)
        assert item.attempts == 1 and running.result(queue_id).status == "todo"
        (job,) = running.dispatch.schedule.jobs(queue_id)
        assert 55 < job.due - asyncio.get_running_loop().time() < 70
        assert log.of(queue_id, "status=deferred") and not log.of("removed")
        before = len(peer.bodies)
        peer.says.clear()
        await running.ask(command="flush", all=True)
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == before + 1 and peer.bodies[-1] == STUFFED


async def test_a_lost_answer_after_the_dot_is_tried_again_and_logged_as_unknown(tmp_path: Path, log):
    peer = await Peer(PIPE, end=[CUT, b"250 ok\r\n"]).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put()
        await running.until(lambda: running.spool.folders["deferred"])
        assert log.of(queue_id, "status=deferred", "message may be sent more than once")
        await running.ask(command="flush", ids=[queue_id])
        await running.empty()
    await peer.stop()
    assert peer.bodies == [STUFFED, STUFFED]


async def test_a_dead_next_hop_defers_without_an_attempt_counted_against_others(tmp_path: Path, log):
    port = closed_port()
    async with delivery(tmp_path, settings(tmp_path, f"smtp:[127.0.0.1]:{port}", queue='dead_probe = "1s"')) as running:
        ids = [await running.put() for _ in range(20)]
        await running.until(lambda: any(s.dead for s in running.dispatch.schedule.sites.values()))
        assert log.of("relay=none", "Connection refused", "status=deferred", "dsn=4.4.1")
        facts = running.delivery.health()["next hops"][f"smtp:[127.0.0.1]:{port}"]
        assert facts["state"] == "in trouble" and "Connection refused" in facts["last trouble"]
        peer = await Peer(PIPE).start(port=port)
        await running.empty(15)
        assert running.delivery.health()["degraded"] == []
        assert running.delivery.health()["next hops"][f"smtp:[127.0.0.1]:{port}"]["state"] == "well"
    await peer.stop()
    assert len(peer.bodies) == len(ids)


async def test_the_next_hops_are_tried_in_order(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    hops = [f"smtp:[127.0.0.1]:{closed_port()}", hop(peer)]
    async with delivery(tmp_path, settings(tmp_path, *hops)) as running:
        await running.put()
        await running.empty()
    await peer.stop()
    assert peer.bodies == [STUFFED]


@pytest.mark.parametrize("says", [{"greeting": b"421 busy\r\n"}, {"greeting": CUT}, {"mail": LATER}, {"rcpt": LATER}])
async def test_a_next_hop_that_puts_off_is_passed_over_for_the_other(tmp_path: Path, log, says):
    first, second = await Peer(PIPE, **says).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(first), hop(second))) as running:
        await running.put("a@example.com", "b@example.com")
        await running.empty()
    await first.stop()
    await second.stop()
    assert second.bodies == [STUFFED] and not any(first.bodies)


async def test_a_refusal_is_not_shopped_around(tmp_path: Path, log):
    first, second = await Peer(PIPE, rcpt=NO).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(first), hop(second))) as running:
        await running.put()
        await running.until(lambda: running.spool.folders["hold"])
    await first.stop()
    await second.stop()
    assert second.sessions == 0


# ---------------------------------------------------------------------- refused for good


async def test_a_proven_sender_gets_a_notice(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=[NO, b"250 ok\r\n"]).start(), await Peer(PIPE).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        queue_id = await running.put(
            QueuedRecipient("x@example.com", "example.com", orcpt="rfc822;orig@example.com"),
            "b@example.com",
            proven=True,
            envid="env1",
        )
        await running.until(lambda: outside.bodies)
        await running.empty()
    await peer.stop()
    await outside.stop()
    assert "MAIL FROM:<>" in " ".join(outside.commands) and "RCPT TO:<s@example.org>" in " ".join(outside.commands)
    notice = email.message_from_bytes(outside.bodies[0].replace(b"\r\n..", b"\r\n."))
    fields = notice.get_payload()[1].get_payload()
    assert fields[0]["Original-Envelope-Id"] == "env1" and fields[0]["X-Postgate-Queue-ID"] == queue_id
    assert fields[1]["Final-Recipient"] == "rfc822; x@example.com"
    assert fields[1]["Original-Recipient"] == "rfc822; orig@example.com"
    assert fields[1]["Remote-MTA"] == "dns; 127.0.0.1"
    assert fields[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 <x>: no such user"
    assert len(fields) == 2  # the recipient that was taken is not in it
    assert notice.get_payload()[2].get_payload()[0]["Subject"] == "hi"
    assert log.of(queue_id, "to=<x@example.com>", "status=bounced (host 127.0.0.1[127.0.0.1] said: 550 5.1.1")
    assert log.of(f"bounce: {queue_id}: sender non-delivery notification: ")
    assert log.of(f"{queue_id}: removed")


@pytest.mark.parametrize(("sender", "proven"), [("s@example.org", False), ("", True), ("", False)])
async def test_without_proof_the_message_is_held_with_an_alarm(tmp_path: Path, log, sender, proven):
    peer = await Peer(PIPE, end=b"554 5.6.0 no\r\n").start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put("a@example.com", sender=sender, proven=proven)
        await running.until(lambda: queue_id in running.spool.folders["hold"])
        await running.until(lambda: running.delivery.health()["degraded"])
        assert "hold" in running.delivery.health()["degraded"][0]
        assert len(running.spool) == 1
        assert log.of(queue_id, "to hold: undeliverable")
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:  # the alarm lasts until somebody acts
        await running.until(lambda: running.spool.folders["hold"])
        assert "1 undeliverable" in running.delivery.health()["degraded"][0]
        await running.ask(command="delete", ids=[queue_id])
        assert running.delivery.health()["degraded"] == []
    await peer.stop()
    assert len(peer.bodies) == 1


async def test_those_who_want_no_notice_get_none(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=NO).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        await running.put(QueuedRecipient("x@example.com", "example.com", notify="NEVER"), proven=True)
        await running.empty()
    await peer.stop()
    assert log.of("removed") and not log.of("bounce:")


async def test_our_own_notice_that_nobody_takes_is_dropped(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=NO).start(), await Peer(PIPE, rcpt=NO).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        await running.put(proven=True)
        await running.until(lambda: log.of("dropped"))
        await running.empty()
        assert not running.spool.folders["hold"]
    await peer.stop()
    await outside.stop()
    assert outside.sessions == 1


async def test_header_only_where_asked_or_large(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=NO).start(), await Peer(PIPE).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        await running.put(proven=True, ret="HDRS")
        await running.put(proven=True, content=BODY + b"x" * 60 + b"\r\n" + b"y" * 60000 + b"\r\n")
        await running.until(lambda: len(outside.bodies) == 2)
    await peer.stop()
    await outside.stop()
    for body in outside.bodies:
        part = email.message_from_bytes(body).get_payload()[2]
        assert part.get_content_type() == "text/rfc822-headers" and b"yyyy" not in body


async def test_success_is_reported_where_the_server_does_not(tmp_path: Path, log):
    peer, outside = await Peer(PIPE).start(), await Peer(PIPE).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes)) as running:
        await running.put(QueuedRecipient("x@example.com", "example.com", notify="SUCCESS,FAILURE"), proven=True)
        await running.until(lambda: outside.bodies)
        await running.empty()
        peer.features.append("DSN")
        await running.until(lambda: not running.dispatch._runners)
        await running.put(QueuedRecipient("x@example.com", "example.com", notify="SUCCESS"), proven=True, ret="FULL")
        await running.empty()
    await peer.stop()
    await outside.stop()
    assert b"Action: relayed" in outside.bodies[0] and len(outside.bodies) == 1
    assert "RCPT TO:<x@example.com> NOTIFY=SUCCESS" in peer.commands
    assert any(re.match("MAIL FROM:<s@example.org> .*RET=FULL", command) for command in peer.commands)


async def test_soft_bounce_puts_off_what_is_refused(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=NO).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer), more="soft_bounce = true")) as running:
        queue_id = await running.put(proven=True)
        await running.until(lambda: running.spool.folders["deferred"])
        assert running.result(queue_id).status == "todo"
        assert log.of(queue_id, "status=deferred", "dsn=4.1.1")
    await peer.stop()


async def test_after_its_lifetime_a_message_is_returned(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=LATER).start(), await Peer(PIPE).start()
    routes = f'routes = {{ "example.org" = "{hop(outside)}" }}'
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=routes, queue='lifetime = "0s"')) as running:
        proven = await running.put(proven=True)
        unproven = await running.put()
        await running.until(lambda: outside.bodies and running.spool.folders["hold"])
        assert list(running.spool.folders["hold"]) == [unproven]
    await peer.stop()
    await outside.stop()
    assert log.of(proven, "status=expired, returned to sender") and log.of(unproven, "status=expired, kept in hold")
    fields = email.message_from_bytes(outside.bodies[0]).get_payload()[1].get_payload()[1]
    assert (fields["Action"], fields["Status"]) == ("failed", "5.2.0")


# ---------------------------------------------------------------------- what is sent


async def test_edits_are_applied_and_the_rest_is_untouched(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    edits = (Edit("prepend", "X-Postgate-Mark", "helo:malformed"), Edit("change", "Subject", "[mark] hi", 1))
    large = BODY + b"z" * 70 + b"\r\n" + b".dot at a line start\r\n" * 20000
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        await running.put(edits=edits)
        await running.empty()
        await running.put_large(large)
        await running.empty()
    await peer.stop()
    assert peer.bodies[0] == b"X-Postgate-Mark: helo:malformed\r\n" + STUFFED.replace(
        b"Subject: hi", b"Subject: [mark] hi"
    )
    assert peer.bodies[1] == large.replace(b"\r\n.", b"\r\n..")


async def test_lmtp_gives_each_recipient_its_own_answer(tmp_path: Path, log):
    path = tmp_path / "lmtp.sock"
    peer = await Peer(PIPE, lmtp=True, end=[b"250 2.1.5 a\r\n", b"452 4.2.2 full\r\n", NO]).start(path)
    async with delivery(tmp_path, settings(tmp_path, f"lmtp:unix:{path}")) as running:
        queue_id = await running.put("a@example.com", "b@example.com", "c@example.com")
        await running.until(lambda: running.spool.folders["deferred"])
        assert [running.result(queue_id, i).status for i in range(3)] == ["done", "todo", "failed"]
        assert log.of("lmtp: ", f"relay=lmtp.sock[{path}]", "status=sent (250 2.1.5 a)")
        peer.says["END"] = b"250 2.1.5 b\r\n"
        await running.ask(command="flush", all=True)
        await running.until(lambda: queue_id in running.spool.folders["hold"])
    await peer.stop()
    assert [c for c in peer.commands if c.startswith("RCPT")][3:] == ["RCPT TO:<b@example.com>"]


async def test_mail_that_policy_keeps_is_not_delivered(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        held = await running.put(keep="hold", keep_reason="access: HOLD")
        quarantined = await running.put(keep="quarantine", keep_reason="antivirus: suspicious")
        await running.until(lambda: running.spool.folders["hold"] and running.spool.folders["quarantine"])
        assert held in running.spool.folders["hold"] and quarantined in running.spool.folders["quarantine"]
        await asyncio.sleep(0.1)
        assert peer.sessions == 0
    await peer.stop()


async def test_a_route_table_and_the_mx_of_outside_domains(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    zone = b"$TTL 60\nexample.net. MX 10 mx.example.net.\nmx.example.net. A 127.0.0.9\nnull.example. MX 0 .\n"
    table = f"example.com {hop(peer)}\n".encode()
    config = settings(tmp_path, "smtp:[127.0.0.1]:9", dns='zone = "zone"')
    async with delivery(tmp_path, config, zone=zone, routes=table) as running:
        await running.put("a@example.com")
        await running.empty()
        queue_id = await running.put("b@example.net", "c@null.example")
        await running.until(lambda: log.of(queue_id, "example.net>") and log.of(queue_id, "null.example>"))
    await peer.stop()
    assert len(peer.bodies) == 1
    assert log.of("to=<b@example.net>", "relay=none", "connect to mx.example.net[127.0.0.9]:25: Connection refused")
    assert log.of("to=<c@null.example>", "status=bounced", "nullMX", "dsn=5.1.10")
