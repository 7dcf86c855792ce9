"""What a transport table does to mail that is in the queue: ways, answers instead of ways, entries that are neither."""

import email
from pathlib import Path

import pytest

from tests.connectors.smtp_peer import Peer
from tests.daemons.delivery.harness import delivery, settings


def hop(peer: Peer) -> str:
    return f"smtp:[127.0.0.1]:{peer.port}"


def table(text: str) -> dict[str, bytes]:
    return {"transport": text.encode()}


ROUTES = 'routes = "texthash:transport"'


async def test_answers_instead_of_ways(tmp_path: Path, log):
    peer = await Peer("PIPELINING").start()
    text = f"""
gone@example.com error:5.1.6 moved: ask at the desk
plain@example.com error:mail for it is not deliverable
later@example.com retry:4.3.2 until Monday
hole@example.com discard:nobody reads it
example.org {hop(peer)}
"""
    async with delivery(tmp_path, settings(tmp_path, hop(peer), relay=ROUTES), **table(text)) as running:
        to = ("gone", "plain", "later", "hole", "here")
        queue_id = await running.put(*(f"{name}@example.com" for name in to), proven=True)
        await running.until(lambda: len(peer.bodies) == 3)
        await running.until(lambda: running.result(queue_id, 2) is not None)
        assert running.result(queue_id, 2).status == "todo"
        assert running.delivery.health()["degraded"] == []
    await peer.stop()
    assert log.of("error:", "to=<gone@", "relay=none", "dsn=5.1.6", "status=bounced (moved: ask at the desk)")
    assert log.of("error:", "to=<plain@", "dsn=5.0.0", "status=bounced (mail for it is not deliverable)")
    assert log.of("error:", "to=<later@", "relay=none", "dsn=4.3.2", "status=deferred (until Monday)")
    assert log.of("discard:", "to=<hole@", "relay=none", "dsn=2.0.0", "status=sent (nobody reads it)")
    assert log.of("smtp:", "to=<here@", "status=sent (250")
    notices = [found for found in map(email.message_from_bytes, peer.bodies) if found.is_multipart()]
    told = [part for notice in notices for part in notice.get_payload()[1].get_payload()[1:]]
    assert {(part["Final-Recipient"], part["Status"], part["Diagnostic-Code"]) for part in told} == {
        ("rfc822; gone@example.com", "5.1.6", "X-Postgate; moved: ask at the desk"),
        ("rfc822; plain@example.com", "5.0.0", "X-Postgate; mail for it is not deliverable"),
    }


@pytest.mark.parametrize(
    ("relay", "why"),
    [
        ('routes = "fail:nothing works"', "nothing works"),
        (ROUTES, "transport:1: "),
        ('routes = ["inline:{ x.example=smtp:x }", "fail:nothing works"]', "nothing works"),
        ('sender_dependent_relayhost_maps = "fail:nothing works"', "nothing works"),
    ],
)
async def test_a_table_that_cannot_answer_puts_off_and_is_named(tmp_path: Path, log, relay: str, why: str):
    peer = await Peer("PIPELINING").start()
    async with delivery(
        tmp_path, settings(tmp_path, hop(peer), relay=relay), **table("* local:$myhostname\n")
    ) as running:
        queue_id = await running.put("a@far.example", proven=True)
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        result = running.result(queue_id)
        assert result.status == "todo" and why in result.text and result.dsn.startswith("4.")
        await running.until(lambda: running.delivery.health()["degraded"])
        assert why in str(running.delivery.health()["degraded"])
        assert why in str(await running.ask(command="list"))
    await peer.stop()
    assert not peer.sessions and not log.of("status=bounced")


async def test_next_hops_by_the_sender(tmp_path: Path, log):
    inner, one, two = [await Peer("PIPELINING").start() for _ in range(3)]
    relay = f"""
sender_dependent_relayhost_maps = ["inline:{{ @example.com=[127.0.0.1]:{one.port} }}"]
sender_dependent_default_transport_maps = "texthash:transport"
"""
    text = f"boss@example.com {hop(two)}\n"
    async with delivery(tmp_path, settings(tmp_path, hop(inner), relay=relay), **table(text)) as running:
        await running.put("x@far.example", sender="ann@example.com")
        await running.put("x@far.example", sender="boss+x@example.com")
        await running.put("ann@b.example.com", sender="boss@example.com")
        await running.empty()
    for peer in (inner, one, two):
        await peer.stop()
    assert [len(peer.bodies) for peer in (inner, one, two)] == [1, 1, 1]
    assert "MAIL FROM:<boss+x@example.com>" in " ".join(two.commands)
