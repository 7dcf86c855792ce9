"""What status says of next hops: which fails and why, how many messages it put off, which; and when it is over."""

import re
from pathlib import Path
from typing import Any

import pytest

from appliance.config.values import NextHop
from appliance.daemons.delivery.next_hops import NextHops
from appliance.daemons.delivery.routing import NOWHERE, Destination
from appliance.daemons.delivery.way import NoWay
from appliance.observe import metrics, trouble
from appliance.protocol.smtp.outgoing import Result
from appliance.queue.schedule import Limits, Schedule
from tests.connectors.smtp_peer import CUT, SILENT, Peer
from tests.daemons.delivery.harness import FAST, PATIENT, Running, delivery, settings
from tests.daemons.delivery.test_delivery_outcomes import closed_port, hop

PIPE = "PIPELINING"
BUSY = b"451 4.3.0 no disk\r\n"


def said(running: Running) -> dict[str, Any]:
    return trouble.merged(running.delivery.health()["degraded"])


async def tried(running: Running, queue_id: str, times: int = 1) -> None:
    """Until it was, so often."""
    await running.until(lambda: (item := running.spool.get(queue_id)) is not None and item.attempts == times)


async def put_off(running: Running, count: int) -> list[str]:
    """So many messages, one after the other, each tried once."""
    ids = []
    for _ in range(count):
        ids.append(await running.put())
        await tried(running, ids[-1])
    return ids


#: What the next hop does, and what status says of it.
TROUBLE: dict[str, tuple[dict[str, Any], str]] = {
    "421 for a greeting": ({"greeting": b"421 4.3.2 not now\r\n"}, "refused to talk to me: 421 4.3.2 not now"),
    "cut at once": ({"greeting": CUT}, "lost connection"),
    "silent": ({"greeting": SILENT}, "timed out"),
    "451 to MAIL": ({"mail": BUSY}, "said: 451 4.3.0 no disk (in reply to MAIL FROM command)"),
    "451 to every RCPT": ({"rcpt": BUSY}, "said: 451 4.3.0 no disk (in reply to RCPT TO command)"),
    "451 to DATA": ({"data": BUSY}, "said: 451 4.3.0 no disk (in reply to DATA command)"),
    "452 to the dot": ({"end": b"452 4.3.1 full\r\n"}, "said: 452 4.3.1 full (in reply to end of DATA command)"),
    "cut behind the dot": ({"end": CUT}, "lost connection"),
    "silent behind the dot": ({"end": SILENT}, "timed out while sending end of data"),
}


@pytest.mark.parametrize("kind", TROUBLE)
async def test_who_puts_mail_off_is_named_with_the_messages_until_it_takes_them(
    tmp_path: Path, log, capfd: pytest.CaptureFixture[str], kind: str
):
    says, why = TROUBLE[kind]
    peer = await Peer(PIPE, **says).start()
    name = hop(peer)
    timeouts = FAST if SILENT in says.values() else PATIENT
    async with delivery(tmp_path, settings(tmp_path, name), timeouts) as running:
        ids = await put_off(running, 2)
        found = said(running)
        assert list(found) == [f"next hop {name} fails"]
        [one] = found.values()
        assert why in one["why"] and one["why"].endswith("; 2 messages wait for it"), one
        assert (one["touched"], one["last"]) == (2, ids)
        facts = running.delivery.health()["next hops"][name]
        assert facts["state"] == "in trouble" and facts["put off"] == f"2 (last: {ids[0]}, {ids[1]})"
        assert log.of(ids[0], "status=deferred", "delays=", why)
        running.delivery.upkeep.tick()
        assert f'postgate_next_hop_degraded{{next_hop="{name}"}} 1.0' in metrics.exposition().decode()
        peer.says.clear()
        await running.ask(command="flush", all=True)
        await running.empty()
        assert said(running) == {}
        facts = running.delivery.health()["next hops"][name]
        assert facts["state"] == "well" and facts["put off"].startswith("2 ")
        running.delivery.upkeep.tick()
        assert f'postgate_next_hop_degraded{{next_hop="{name}"}} 0.0' in metrics.exposition().decode()
    begins, ends = (line.partition(": ")[2] for line in capfd.readouterr().err.splitlines() if "next hop" in line)
    who = re.escape(f"error: next hop fails: next_hop={name} id={ids[0]}")
    took = re.match(rf"{who} seconds=([0-9]+\.[0-9][0-9]) why=", begins)
    assert took and 0 <= float(took[1]) < 10 and why in begins
    assert ends == f"warning: next hop well again: next_hop={name} messages_touched=2"
    await peer.stop()


async def test_a_dead_one_is_named_at_its_first_message_and_a_message_counts_once(tmp_path: Path, log):
    port = closed_port()
    name = f"smtp:[127.0.0.1]:{port}"
    async with delivery(tmp_path, settings(tmp_path, name)) as running:
        [queue_id] = await put_off(running, 1)
        for attempts in (2, 3):
            await running.ask(command="flush", ids=[queue_id])
            await tried(running, queue_id, attempts)
        one = said(running)[f"next hop {name} fails"]
        assert one["why"] == f"connect to 127.0.0.1[127.0.0.1]:{port}: Connection refused; 1 message waits for it"
        assert (one["touched"], one["last"]) == (1, [queue_id])
        peer = await Peer(PIPE).start(port=port)
        await running.ask(command="flush", all=True)
        await running.empty()
        assert said(running) == {}
    await peer.stop()


@pytest.mark.parametrize("rcpt", [b"450 4.2.1 mailbox busy\r\n", b"452 mailbox full\r\n", b"450 busy\r\n"])
async def test_a_busy_mailbox_is_no_trouble_of_the_next_hop(tmp_path: Path, log, rcpt: bytes):
    peer = await Peer(PIPE, rcpt=rcpt).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        await put_off(running, 1)
        assert said(running) == {}
        assert running.delivery.health()["next hops"][hop(peer)]["state"] == "well"
    await peer.stop()


async def test_who_takes_one_recipient_of_a_message_takes_mail(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=[BUSY, b"250 ok\r\n"]).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        await running.put("a@example.com", "b@example.com")
        await running.until(lambda: running.spool.folders["deferred"])
        assert said(running) == {}
    await peer.stop()


async def test_a_refused_recipient_does_not_tell_whether_data_is_taken_again(tmp_path: Path, log):
    peer = await Peer(PIPE, data=BUSY).start()
    name = f"next hop {hop(peer)} fails"
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        await put_off(running, 1)
        peer.says["RCPT"] = b"550 5.1.1 no such user\r\n"
        await running.put("x@example.com")
        await running.until(lambda: running.spool.folders["hold"])
        assert name in said(running)
        peer.says["DATA"], peer.says["RCPT"] = b"554 5.7.1 never\r\n", b"250 ok\r\n"
        await running.put("y@example.com")
        await running.until(lambda: len(running.spool.folders["hold"]) == 2)
        assert name not in said(running)
    await peer.stop()


async def test_where_the_second_place_helps_nothing_is_in_trouble(tmp_path: Path, log, capfd: pytest.CaptureFixture[str]):
    first, second = await Peer(PIPE, data=BUSY).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(first), hop(second))) as running:
        await running.put()
        await running.empty()
        assert said(running) == {} and first.bodies == [] and len(second.bodies) == 1
        assert "next hop fails" not in capfd.readouterr().err, "not with each message"
        second.says["END"] = BUSY
        queue_id = await running.put()
        await running.until(lambda: "(in reply to end of DATA command)" in str(said(running)))
        await second.stop()
        await running.ask(command="flush", ids=[queue_id])
        await running.until(lambda: "(in reply to DATA command)" in str(said(running)))
        [one] = said(running).values()
        assert (one["touched"], one["last"]) == (1, [queue_id])
    await first.stop()


# ---------------------------------------------------------------------- one by one


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Mail:
    """All that is looked at of an Item."""

    queue_id = "A1"


INSIDE = Destination("smtp:[10.0.0.25]:25", ((NextHop("smtp", "10.0.0.25", 25, False), "none"),))
STRANGER = Destination("smtp:example.net:25", ((NextHop("smtp", "example.net", 25, True), "none"),), outward=True)
LATER = Result("deferred", 451, "4.7.1", "451 4.7.1 greylisted", "RCPT TO")
GONE = NoWay("connect to x: Connection refused", "4.4.1")


def named(hops: NextHops) -> list[str]:
    return list(trouble.merged(hops.degraded()))


def test_trouble_lasts_while_mail_waits_and_a_minute_longer(capfd: pytest.CaptureFixture[str]) -> None:
    clock, schedule = Clock(), Schedule(Limits())
    hops = NextHops(schedule, clock)
    schedule.add("A1", INSIDE.name, clock.now, clock.now + 3600)
    hops.not_reached(INSIDE, Mail(), GONE, 0.5)  # type: ignore[arg-type]
    clock.now += 3600
    assert named(hops) == ["next hop smtp:[10.0.0.25]:25 fails"]
    hops.measure()
    schedule.remove("A1")
    assert named(hops) == []
    capfd.readouterr()
    hops.not_reached(INSIDE, Mail(), GONE, 0.5)  # type: ignore[arg-type]
    assert "next hop fails" not in capfd.readouterr().err
    clock.now += trouble.RECENT
    hops.measure()
    schedule.add("A2", INSIDE.name, clock.now)
    assert named(hops) == [], "nobody knows, now"
    hops.not_reached(INSIDE, Mail(), GONE, 0.5)  # type: ignore[arg-type]
    logged = capfd.readouterr().err
    assert "next hop fails" in logged and " seconds=0.50 why=" in logged, "it is new trouble"


def test_strangers_are_told_only_while_they_are_dead() -> None:
    schedule = Schedule(Limits(initial=1))
    hops = NextHops(schedule)
    schedule.add("A1", STRANGER.name, 0.0)
    hops.answered(STRANGER, Mail(), [LATER], "example.net[192.0.2.1]", 0.5)  # type: ignore[arg-type]
    hops.not_reached(STRANGER, Mail(), NoWay("no such domain", "5.4.4", final=True), 0.5)  # type: ignore[arg-type]
    assert named(hops) == [], "greylisting and forged domains are daily bread"
    job = schedule.take(1.0)
    assert job is not None
    schedule.site_failed(job, 1.0)
    hops.not_reached(STRANGER, Mail(), GONE, 0.5)  # type: ignore[arg-type]
    assert named(hops) == ["next hop smtp:example.net:25 fails"]
    hops.answered(INSIDE, Mail(), [LATER], "10.0.0.25[10.0.0.25]", 0.5)  # type: ignore[arg-type]
    assert len(named(hops)) == 2, "an inner one that greylists its own gateway is in trouble"


def test_mail_without_a_way_and_mail_of_a_table_that_is_away() -> None:
    hops = NextHops(Schedule(Limits()))
    hops.not_reached(NOWHERE, Mail(), NoWay("no next hop is configured for this recipient", "4.3.5"), 0.5)  # type: ignore[arg-type]
    lost = Destination("unroutable", (), lacks="table x: away")
    hops.not_reached(lost, Mail(), NoWay("table x: away", "4.3.5"), 0.5)  # type: ignore[arg-type]
    assert [trouble.words(one) for one in trouble.merged(hops.degraded()).values()] == [
        "mail waits that has no next hop: no next hop is configured for this recipient; messages touched: 1, last: A1"
    ]
