"""Generic maps: what envelope and header become when mail leaves, for which next hops, and when a table is away."""

import email
from pathlib import Path

import pytest

from appliance.mail.edits import Edit
from appliance.queue.envelope import QueuedRecipient
from tests.connectors.smtp_peer import Peer
from tests.daemons.delivery.harness import delivery, settings

MAP = b"""\
ann@corp.local       ann.smith@example.org
@corp.local          @example.org
root                 admin@example.org
multi@corp.local     one@example.org, two@example.org
zero@corp.local      <>
eai@corp.local       \xc3\xa4nn@example.org
"""
HEADER = (
    b'From: "Smith, Ann @corp.local" <ann@corp.local> (ann@corp.local)\r\n'
    b"To: team: bob+x@corp.local, Ann\r\n <ann@corp.local>;, root@gw.example.com\r\n"
    b"Cc: =?utf-8?q?ann=40corp.local?= <x@else.example>\r\n"
    b"Reply-To: multi@corp.local\r\nX-Other: ann@corp.local\r\nSubject: ann@corp.local\r\n\r\nann@corp.local\r\n"
)


def hop(peer: Peer) -> str:
    return f"{'lmtp' if peer.lmtp else 'smtp'}:[127.0.0.1]:{peer.port}"


def section(text: str) -> str:
    return f"[addresses]\n{text}\n"


def commands(peer: Peer) -> list[str]:
    return [line.partition(" SIZE")[0] for line in peer.commands if line[:4] in ("MAIL", "RCPT")]


SMTP = 'smtp_generic_maps = "texthash:generic"'


async def test_envelope_and_header_leave_as_the_map_says(tmp_path: Path, log):
    peer = await Peer("PIPELINING").start()
    text = settings(tmp_path, hop(peer), dns=section(SMTP))
    async with delivery(tmp_path, text, generic=MAP) as running:
        edits = (Edit("prepend", "Sender", "Bob <bob@corp.local>"),)
        queue_id = await running.put(
            "bob+x@example.com", "bob@example.com", sender="ann+list@corp.local", content=HEADER, edits=edits
        )
        await running.empty()
        await running.put_large(HEADER + b"x" * 70 + b"\r\n" + b"line\r\n" * 60_000)
        await running.empty()
    await peer.stop()
    assert commands(peer)[:3] == [
        "MAIL FROM:<ann.smith@example.org>",
        "RCPT TO:<bob+x@example.com>",
        "RCPT TO:<bob@example.com>",
    ]
    changed = (
        b'From: "Smith, Ann @corp.local" <ann.smith@example.org> (ann@corp.local)\r\n'
        b"To: team: bob+x@example.org, Ann\r\n <ann.smith@example.org>;, admin@example.org\r\n"
        b"Cc: =?utf-8?q?ann=40corp.local?= <x@else.example>\r\n"
        b"Reply-To: one@example.org\r\nX-Other: ann@corp.local\r\nSubject: ann@corp.local\r\n\r\nann@corp.local\r\n"
    )
    assert peer.bodies[0] == b"Sender: Bob <bob@example.org>\r\n" + changed
    assert peer.bodies[1].startswith(changed)
    assert log.of(queue_id, "smtp_generic_maps", "<ann+list@corp.local> -> <ann.smith@example.org>")
    assert log.of(queue_id, "to=<bob@example.com>", "status=sent")


async def test_recipients_records_and_notices_keep_their_names(tmp_path: Path, log):
    peer, outside = await Peer("PIPELINING", rcpt=b"550 5.1.1 no\r\n").start(), await Peer("PIPELINING").start()
    relay = f'routes = {{ "corp.local" = "{hop(peer)}" }}'
    text = settings(tmp_path, hop(outside), relay=relay, dns=section(f'{SMTP}\ngeneric_next_hops = "{hop(peer)}"'))
    async with delivery(tmp_path, text, generic=MAP) as running:
        ann = QueuedRecipient("ann@corp.local", "corp.local", orcpt="rfc822;a@b.example")
        await running.put(ann, sender="s@example.com", proven=True)
        await running.empty()
    await peer.stop()
    await outside.stop()
    assert commands(peer) == ["MAIL FROM:<s@example.com>", "RCPT TO:<ann.smith@example.org>"]
    fields = email.message_from_bytes(outside.bodies[0]).get_payload()[1].get_payload()[1]
    assert fields["Final-Recipient"] == "rfc822; ann@corp.local"
    assert log.of("to=<ann@corp.local>", "status=bounced")


@pytest.mark.parametrize(
    ("more", "lmtp", "changed"),
    [
        ("", False, True),
        ("", True, False),
        ('generic_next_hops = "outward"', False, False),
        ('generic_next_hops = "127.0.0.1"', False, True),
        ('generic_next_hops = "10.0.0.1"', False, False),
    ],
)
async def test_which_next_hops(tmp_path: Path, log, more: str, lmtp: bool, changed: bool):
    peer = await Peer("PIPELINING", lmtp=lmtp).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer), dns=section(f"{SMTP}\n{more}")), generic=MAP) as running:
        await running.put("a@example.com", sender="ann@corp.local")
        await running.empty()
    await peer.stop()
    assert ("MAIL FROM:<ann.smith@example.org>" in commands(peer)) == changed


async def test_lmtp_has_its_own_maps_and_extensions_go_on_where_asked(tmp_path: Path, log):
    peer = await Peer("PIPELINING", lmtp=True).start()
    told = section('lmtp_generic_maps = "texthash:generic"\npropagate_unmatched_extensions = ["generic"]')
    async with delivery(tmp_path, settings(tmp_path, hop(peer), dns=told), generic=MAP) as running:
        await running.put("a@example.com", sender="ann+list@corp.local")
        await running.empty()
    await peer.stop()
    assert commands(peer)[0] == "MAIL FROM:<ann.smith+list@example.org>"


@pytest.mark.parametrize(
    ("told", "sender", "to", "why"),
    [
        ('smtp_generic_maps = "fail:nothing works"', "s@example.org", "a@example.com", "nothing works"),
        (SMTP, "s@example.org", "zero@corp.local", "a recipient cannot be null"),
        ('smtp_generic_maps = "inline:{ x@example.org=a@b@c }"', "x@example.org", "a@example.com", "is no address"),
    ],
)
async def test_a_map_that_cannot_answer_puts_off_and_nobody_is_connected_to(tmp_path, log, told, sender, to, why):
    peer = await Peer("PIPELINING").start()
    text = settings(tmp_path, hop(peer), relay=f'routes = {{ "*" = "{hop(peer)}" }}', dns=section(told))
    async with delivery(tmp_path, text, generic=MAP) as running:
        queue_id = await running.put(to, sender=sender, proven=True)
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
        assert running.result(queue_id).dsn == "4.3.0" and why in running.result(queue_id).text
        assert why in str(running.delivery.health()["degraded"])
    await peer.stop()
    assert not peer.sessions and log.of(queue_id, "status=deferred", why)


async def test_an_address_that_becomes_internationalised_needs_smtputf8(tmp_path: Path, log):
    peer = await Peer("PIPELINING", "SMTPUTF8", "8BITMIME").start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer), dns=section(SMTP)), generic=MAP) as running:
        await running.put("a@example.com", sender="eai@corp.local", content=b"From: <eai@corp.local>\r\n\r\nx\r\n")
        await running.empty()
    await peer.stop()
    mail = next(line for line in peer.commands if line.startswith("MAIL"))
    assert "SMTPUTF8" in mail
    assert peer.bodies == ["From: <änn@example.org>\r\n\r\nx\r\n".encode()]


async def test_a_next_hop_that_is_our_own_listener_is_a_loop(tmp_path: Path, log):
    peer = await Peer("PIPELINING").start()
    listen = f'[[listen]]\nname = "public"\naddress = "0.0.0.0:{peer.port}"\n'
    relay = 'routes = "texthash:transport"'
    table = f"example.com smtp:[127.0.0.1]:{peer.port}\n".encode()
    text = settings(tmp_path, "smtp:[127.0.0.2]:9", relay=relay, dns=listen)
    async with delivery(tmp_path, text, transport=table) as running:
        queue_id = await running.put("a@example.com", proven=True)
        await running.until(lambda: queue_id in running.spool.folders["deferred"])
    await peer.stop()
    assert log.of(queue_id, "dsn=4.4.6", "status=deferred", f"mail for smtp:[127.0.0.1]:{peer.port} loops back to myself")
    assert not peer.sessions
