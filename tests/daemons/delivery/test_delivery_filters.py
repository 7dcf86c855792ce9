"""A content filter behind the queue: how many messages at once, how long it has, and what a broken one does."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.connectors.target import Timeouts
from appliance.observe import metrics, trouble
from tests.connectors.smtp_peer import CUT, OK, SILENT, Peer
from tests.daemons.delivery.harness import delivery, settings, snapshot

PIPE = "PIPELINING"
_GOOD = {"greeting": b"220 x\r\n", "data": b"354 x\r\n"}


def filtered(folder: Path, peer: Peer, **more: Any) -> str:
    keys = "".join(f"{key} = {value!r}\n" for key, value in more.items())
    named = f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{peer.port}"\n{keys}'
    return settings(folder, "smtp:[127.0.0.1]:9", queue="concurrency = 10\nretry_min = '1s'", dns=named)


@pytest.mark.parametrize("text", ["scan:", "proxy:scan"])
async def test_a_filter_has_no_more_messages_at_once_than_it_takes(tmp_path: Path, log, text):
    peer = Peer(PIPE)
    peer.hold = asyncio.Event()
    await peer.start()
    async with delivery(tmp_path, filtered(tmp_path, peer, concurrency=2)) as running:
        for _ in range(12):
            await running.put(filter=text)
        await running.until(lambda: len(peer.bodies) == 2)
        peer.hold.set()
        await running.empty()
    await peer.stop()
    assert len(peer.bodies) == 12 and peer.most_open == 2


async def test_a_reload_counts_for_mail_that_waits(tmp_path: Path, log):
    peer = await Peer(PIPE, mail=b"450 4.3.0 later\r\n").start()
    async with delivery(tmp_path, filtered(tmp_path, peer, concurrency=8)) as running:
        for _ in range(6):
            await running.put(filter="scan:")
        await running.until(lambda: len(log.of("status=deferred")) == 6)
        made = snapshot(tmp_path, filtered(tmp_path, peer, concurrency=1))
        running.delivery.prepare(made)
        running.delivery.commit(made)
        peer.says.clear()
        while peer.open:
            await asyncio.sleep(0.01)
        peer.most_open = 0
        await running.empty()
    await peer.stop()
    assert len([body for body in peer.bodies if body]) == 6 and peer.most_open == 1


@pytest.mark.parametrize("verb", ["greeting", "ehlo", "mail", "rcpt", "data", "end"])
async def test_a_filter_that_hangs_is_given_up_in_its_own_time(tmp_path: Path, log, verb, capfd):
    peer = await Peer(PIPE, **{verb: [SILENT, _GOOD.get(verb, OK)]}).start()
    timeouts = Timeouts()  # minutes, where the filter has a second
    async with delivery(tmp_path, filtered(tmp_path, peer, timeout="1s"), timeouts=timeouts) as running:
        queue_id = await running.put(filter="scan:")
        await running.until(lambda: log.of("status=deferred", "timed out"), 5)
        heard = [capfd.readouterr().err]
        await running.until(lambda: heard.append(capfd.readouterr().err) or "puts mail off" in "".join(heard), 5)
        line = rf"content filter puts mail off: .*\b{peer.port} id={queue_id} seconds=([\d.]+) why=(.*)"
        said = re.findall(line, "".join(heard))
        assert len(said) == 1 and 0.9 < float(said[0][0]) < 3 and "timed out" in said[0][1], said
        assert len(running.spool) == 1 and not log.of("status=bounced")
        gauge = f'postgate_filter_degraded{{filter="filter smtp:[127.0.0.1]:{peer.port}"}}'
        assert f"{gauge} 1.0" in metrics.exposition().decode()
        await running.ask(command="flush", all=True)
        await running.empty()
        assert f"{gauge} 0.0" in metrics.exposition().decode()
    await peer.stop()


@pytest.mark.parametrize(
    "said",
    [
        {"greeting": b"554 5.3.2 out of order\r\n"},
        {"mail": b"503 5.5.1 EHLO first\r\n"},
        {"mail": b"555 5.5.4 Unsupported option: SIZE\r\n"},
        {"rcpt": b"500 5.5.2 what?\r\n"},
        {"data": b"502 5.5.1 not implemented\r\n"},
        {"end": b"554 5.5.0 out of sequence\r\n"},
        {"end": b"421 4.3.2 shutting down\r\n"},
        {"end": CUT},
    ],
)
async def test_a_filter_that_lost_the_thread_does_not_make_mail_come_back(tmp_path: Path, log, said):
    peer = await Peer(PIPE, **said).start()
    async with delivery(tmp_path, filtered(tmp_path, peer)) as running:
        await running.put(filter="scan:", proven=True)
        await running.until(lambda: log.of("status=deferred"), 5)
        assert len(running.spool) == 1 and not log.of("status=bounced") and not log.of("notification")
    await peer.stop()


async def test_all_messages_that_a_filter_puts_off_are_counted_until_none_waits_for_it(tmp_path: Path, log):
    peer = await Peer(PIPE, mail=b"450 4.3.0 later\r\n").start()
    async with delivery(tmp_path, filtered(tmp_path, peer)) as running:
        ids = [await running.put(filter="scan:") for _ in range(25)]
        await running.until(lambda: len(log.of("status=deferred")) == 25)
        [one] = trouble.merged(running.delivery.health()["degraded"]).values()
        assert one["what"] == f"filter smtp:[127.0.0.1]:{peer.port} puts mail off"
        assert one["why"].endswith("450 4.3.0 later (25 tries)")
        assert one["touched"] == 25 and len(one["last"]) == 20 and set(one["last"]) <= set(ids)
        await running.ask(command="flush", ids=ids[:1])
        await running.until(lambda: len(log.of("status=deferred")) == 26)
        [one] = running.delivery.health()["degraded"]
        assert one["touched"] == 25 and one["last"][-1] == ids[0], "none counts twice"
        await running.until(lambda: len(running.spool.folders["deferred"]) == 25)  # what moves is not deleted
        assert len(await running.ask(command="delete", all=True)) >= 25
        await running.until(lambda: not running.dispatch.schedule.sites)
        later = time.monotonic() + trouble.RECENT
        running.dispatch.filtering.troubles._clock = lambda: later
        assert running.delivery.health()["degraded"] == [], "nobody knows, now"
    await peer.stop()


async def test_what_a_filter_refuses_is_a_failure(tmp_path: Path, log):
    peer = await Peer(PIPE, end=b"554 5.7.1 spam\r\n").start()
    async with delivery(tmp_path, filtered(tmp_path, peer)) as running:
        await running.put(filter="scan:")
        await running.until(lambda: log.of("status=bounced"), 5)
    await peer.stop()
