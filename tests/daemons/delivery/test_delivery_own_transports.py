"""A transport table that names filters: mail into commands that deliver, through filters that hand back, and no loop."""

import asyncio
import contextlib
import email
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from appliance.queue.envelope import PROVEN, Origin, QueuedRecipient
from tests.connectors.smtp_peer import Peer
from tests.daemons.delivery.harness import Log, Running, delivery, settings, snapshot
from tests.daemons.delivery.piped import Inside, python

TELL = (
    "import sys, json, re, os\n"
    "text = sys.stdin.read()\n"
    "with open({file!r}, 'a') as file: file.write(json.dumps([sys.argv[1:], text]) + '\\n')\n"
    "found = re.search('^X-End: ([0-9]+) (.*)', text, re.M)\n"
    "print(found[2] if found else 'taken'); sys.exit(int(found[1]) if found else 0)\n"
)
WORDS = ("${nexthop}", "${sender}", "--", "${user}")


def hop(peer: Peer) -> str:
    return f"{'lmtp' if peer.lmtp else 'smtp'}:[127.0.0.1]:{peer.port}"


def program(folder: Path, *words: str) -> str:
    return json.dumps(python(TELL.format(file=str(folder / "told")), *words))


def told(folder: Path) -> list[tuple[list[str], str]]:
    file = folder / "told"
    return [(argv, text) for argv, text in map(json.loads, file.read_text().splitlines())] if file.exists() else []


def wiring(folder: Path, peer: Peer, filters: str, relay: str = 'routes = "texthash:transport"') -> str:
    return settings(folder, hop(peer), relay=relay, queue='retry_min = "1s"') + filters


@contextlib.asynccontextmanager
async def gateway(folder: Path, text: str, table: str) -> AsyncIterator[Running]:
    """A delivery and the runner that it asks."""
    path = {"runner": str(folder / "state" / "run" / "runner.sock")}
    async with delivery(folder, text, more_rendezvous=path, transport=table.encode()) as running:
        runner = Inside(folder / "state", folder, text.replace('routes = "texthash:transport"', ""))
        await runner.start()
        try:
            yield running
        finally:
            await runner.stop()


@pytest.mark.parametrize(
    ("more", "action"), [('flags = "RX"', "delivered"), ("delivers = true", "delivered"), ("", "relayed")]
)
async def test_a_command_takes_the_mail_of_its_domain(tmp_path: Path, log: Log, more: str, action: str) -> None:
    peer = await Peer("PIPELINING").start()
    filters = f"[filters.mailman]\ncommand = {program(tmp_path, *WORDS)}\n{more}\n"
    table = "lists.example.com mailman:\nnews.example.com mailman:other.example\n"
    async with gateway(tmp_path, wiring(tmp_path, peer, filters), table) as running:
        to = QueuedRecipient("talk@lists.example.com", "lists.example.com", notify="SUCCESS")
        queue_id = await running.put(to, "b@news.example.com", sender="s@example.com", proven=True)
        await running.until(lambda: len(peer.bodies) == 1)
        await running.empty()
    await peer.stop()
    runs = sorted(told(tmp_path))
    assert [argv for argv, _ in runs] == [
        ["lists.example.com", "s@example.com", "--", "talk"],
        ["other.example", "s@example.com", "--", "b"],
    ]
    assert runs[0][1].startswith("Return-Path: <s@example.com>\n") == ("R" in more)
    sent = log.of(f"{queue_id}: to=<talk@lists.example.com>, relay=mailman, ", "dsn=2.0.0, status=sent")
    assert len(sent) == 1 and sent[0].startswith("pipe: ") and "delivered via mailman service (taken)" in sent[0]
    parts = email.message_from_bytes(peer.bodies[0]).get_payload()
    notice = parts[1].get_payload()[1]
    assert "delivered via mailman service" in parts[0].get_payload()
    assert (notice["Final-Recipient"], notice["Action"], notice["Status"]) == (
        "rfc822; talk@lists.example.com", action, "2.0.0",
    )  # fmt: skip


async def test_what_its_exit_codes_mean(tmp_path: Path, log: Log) -> None:
    peer = await Peer("PIPELINING").start()
    filters = f'[filters.mailman]\ncommand = {program(tmp_path, *WORDS)}\nflags = "X"\n'
    async with gateway(tmp_path, wiring(tmp_path, peer, filters), "lists.example.com mailman:\n") as running:
        for codes in (((67, "no such list"), (77, "5.7.1 members only")), ((75, "later"), (1, "died"))):
            for code, text in codes:
                content = b"X-End: %d %s\r\n\r\nx\r\n" % (code, text.encode())
                await running.put(f"u{code}@lists.example.com", sender="s@example.com", proven=True, content=content)
            await running.until(lambda codes=codes: all(log.of(f"to=<u{code}@", "relay=mailman") for code, _ in codes))
        await running.until(lambda: len(peer.bodies) == 2)
        [one] = running.delivery.health()["degraded"]
        assert one["what"] == "next hop pipe:mailman:lists.example.com fails"
        listed = await running.ask(command="list", next_hop="pipe:mailman:lists.example.com")
        waiting = [message["message"]["recipients"][0]["address"] for message in listed if "message" in message]
        assert sorted(waiting) == ["u1@lists.example.com", "u75@lists.example.com"]
        names = [site["name"] for site in running.delivery.health()["destinations"]]
        assert names == ["pipe:mailman:lists.example.com"]
    await peer.stop()
    assert log.of("to=<u67@", "dsn=5.1.1, status=bounced (user unknown", "no such list")
    assert log.of("to=<u77@", "dsn=5.7.1, status=bounced", "members only")
    assert log.of("to=<u75@", "dsn=4.3.0, status=deferred", "later")
    assert log.of("to=<u1@", "dsn=4.3.0, status=deferred", "died")


@pytest.mark.parametrize("override", [False, True])
async def test_mail_goes_through_a_filter_and_what_comes_back_goes_on(tmp_path: Path, log: Log, override: bool) -> None:
    peer, scan, other = [await Peer("PIPELINING", "XFORWARD NAME ADDR PROTO HELO IDENT").start() for _ in range(3)]
    filters = f'[filters.scan]\nnext_hop = "{hop(scan)}"\nconcurrency = 2\n'
    entry = f"scan:[127.0.0.1]:{other.port}" if override else "scan:"
    async with gateway(tmp_path, wiring(tmp_path, peer, filters), f"example.com {entry}\n") as running:
        first = await running.put("a@example.com", proven=True)
        await running.empty()
        back = Origin(client_address="127.0.0.1", role="reinject")
        await running.put("a@example.com", origin=back, content=b"Subject: back\r\n\r\nx\r\n")
        await running.empty()
    for one in (peer, scan, other):
        await one.stop()
    through = other if override else scan
    assert len(scan.bodies) + len(other.bodies) == 1 and any(first + PROVEN in line for line in through.commands)
    assert len(peer.bodies) == 1 and b"Subject: back" in peer.bodies[0]


@pytest.mark.parametrize("delivers", [True, False])
async def test_a_filter_takes_no_more_at_once_than_it_may(tmp_path: Path, log: Log, delivers: bool) -> None:
    scan = Peer("PIPELINING")
    scan.hold = asyncio.Event()
    await scan.start()
    filters = f'[filters.scan]\nnext_hop = "{hop(scan)}"\nconcurrency = 2\ndelivers = {json.dumps(delivers)}\n'
    async with gateway(tmp_path, wiring(tmp_path, scan, filters), "example.com scan:\n") as running:
        for _ in range(8):
            await running.put("a@example.com")
        await running.until(lambda: len(scan.bodies) == 2)
        scan.hold.set()
        await running.empty()
    await scan.stop()
    assert len(scan.bodies) == 8 and scan.most_open == 2


async def test_mail_waits_for_a_filter_that_is_away(tmp_path: Path, log: Log) -> None:
    peer = await Peer("PIPELINING").start()
    filters = '[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:9"\n'
    async with gateway(tmp_path, wiring(tmp_path, peer, filters), "example.com scan:\n") as running:
        queue_id = await running.put("a@example.com", proven=True)
        await running.until(lambda: running.delivery.health()["degraded"])
        [one] = running.delivery.health()["degraded"]
        assert one["what"] == "filter smtp:[127.0.0.1]:9 puts mail off" and one["last"] == [queue_id]
    await peer.stop()
    assert not peer.bodies


async def test_what_a_command_made_goes_on_once(tmp_path: Path, log: Log) -> None:
    peer = await Peer("PIPELINING").start()
    edit = json.dumps(python("import sys; sys.stdout.write('X-Edited: yes\\n' + sys.stdin.read())"))
    filters = f'[filters.edit]\ncommand = {edit}\noutput = "message"\n'
    async with gateway(tmp_path, wiring(tmp_path, peer, filters), "example.com edit:\n") as running:
        await running.put("a@example.com")
        await running.until(lambda: len(peer.bodies) == 1)
        await running.empty()
    await peer.stop()
    assert peer.bodies[0].count(b"X-Edited: yes") == 1 and len(log.of("relay=edit")) == 1


async def test_a_name_that_disappears_keeps_the_mail_with_the_reason(tmp_path: Path, log: Log) -> None:
    peer = await Peer("PIPELINING", mail=b"450 4.3.0 later\r\n").start()
    filters = f'[filters.archive]\nnext_hop = "{hop(peer)}"\ndelivers = true\n'
    async with gateway(tmp_path, wiring(tmp_path, peer, filters), "example.com archive:\n") as running:
        queue_id = await running.put("a@example.com", proven=True)
        await running.until(lambda: log.of("status=deferred", "450 4.3.0 later"))
        assert running.dispatch.schedule.jobs(queue_id)[0].destination == f"archive: {hop(peer)}"
        gone = snapshot(tmp_path, wiring(tmp_path, peer, ""), transport=b"example.com archive:\n")
        running.delivery.prepare(gone)
        running.delivery.commit(gone)
        await running.ask(command="flush", all=True)
        await running.until(lambda: running.result(queue_id).text.find("no transport is called") > 0)
        assert "transport:1" in running.result(queue_id).text and running.result(queue_id).status == "todo"
        assert "transport:1" in str(running.delivery.health()["degraded"])
        peer.says.clear()
        back = snapshot(tmp_path, wiring(tmp_path, peer, filters), transport=b"example.com archive:\n")
        running.delivery.prepare(back)
        running.delivery.commit(back)
        await running.ask(command="flush", all=True)
        await running.empty()
    await peer.stop()
    assert len([body for body in peer.bodies if body]) == 1 and not log.of("status=bounced")


async def test_a_written_route_to_a_filter_that_disappears_waits_too(tmp_path: Path, log: Log) -> None:
    peer = await Peer("PIPELINING").start()
    filters = f'[filters.archive]\nnext_hop = "{hop(peer)}"\n'
    text = wiring(tmp_path, peer, filters, relay='routes = { "example.com" = "archive:" }')
    async with gateway(tmp_path, text, "") as running:
        made = running.delivery._snapshot
        wiring_now = made.wiring.model_copy(update={"filters": {}})
        gone = msgspec.structs.replace(made, wiring=wiring_now)
        running.delivery.prepare(gone)
        running.delivery.commit(gone)
        queue_id = await running.put("a@example.com")
        await running.until(lambda: running.result(queue_id) is not None)
        assert 'no filter is called "archive"' in running.result(queue_id).text
    await peer.stop()
    assert not peer.bodies


@pytest.mark.parametrize("delivers", [True, False])
async def test_generic_maps_are_for_what_leaves(tmp_path: Path, log: Log, delivers: bool) -> None:
    """What a filter hands back is rewritten when it leaves, behind it."""
    peer, archive = await Peer("PIPELINING").start(), await Peer("PIPELINING", lmtp=True).start()
    filters = f'[filters.archive]\nnext_hop = "{hop(archive)}"\ndelivers = {json.dumps(delivers)}\n'
    filters += '[addresses]\nlmtp_generic_maps = "inline:{ s@example.org=out@example.net }"\n'
    async with gateway(tmp_path, wiring(tmp_path, peer, filters), "example.com archive:\n") as running:
        await running.put("a@example.com")
        await running.empty()
    await peer.stop()
    await archive.stop()
    assert [line.partition(" SIZE")[0] for line in archive.commands if line.startswith("MAIL")] == [
        f"MAIL FROM:<{'out@example.net' if delivers else 's@example.org'}>"
    ]


async def test_one_that_sends_to_the_recipients_own_domain(tmp_path: Path, log: Log) -> None:
    """No such domain is final there, and each domain is a destination of its own."""
    zone = b"$TTL 60\nnull.example. MX 0 .\nfar.example. MX 10 mx.far.example.\nmx.far.example. A 127.0.0.9\n"
    filters = '[filters.slow]\nnext_hop = "smtp:"\nconcurrency = 3\n'
    peer = await Peer("PIPELINING").start()
    text = wiring(tmp_path, peer, "", relay="").replace("[dns]\n", '[dns]\nzone = "zone"\n') + filters
    text = text.replace(
        "[relay]\n", '[relay]\nroutes = "inline:{ .example=slow:, far.example=slow:, null.example=slow: }"\n'
    )
    async with delivery(tmp_path, text, zone=zone) as running:
        first = await running.put("a@null.example", proven=True)
        second = await running.put("a@far.example")
        await running.until(lambda: log.of(f"{first}: to=<a@null.example>") and log.of(f"{second}: to=<a@far.example>"))
        destination = running.dispatch._destinations["slow: smtp:far.example"]
        assert destination.outward and destination.most == 3 and not destination.filtering
    await peer.stop()
    assert log.of("to=<a@null.example>", "dsn=5.1.10, status=bounced")
    assert log.of("to=<a@far.example>", "status=deferred (connect to mx.far.example[127.0.0.9]:25: Connection refused)")
