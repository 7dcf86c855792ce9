"""Members of a list with an owner: who sends, who is told, and that a restart knows it still."""

import asyncio
import email
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config.routes import Routes
from appliance.daemons.delivery.routing import Routing
from appliance.mail.edits import Edit
from appliance.queue.envelope import QueuedRecipient
from tests.connectors.smtp_peer import OK, Peer
from tests.daemons.delivery.harness import delivery, settings
from tests.daemons.delivery.test_delivery_outcomes import LATER, NO, PIPE, hop

OWNER, SECOND = "owner-list@gw.example.com", "owner-second@gw.example.com"
TOLD = {OWNER: ("boss@office.example", "deputy@office.example"), SECOND: ("other@office.example",)}


def member(name: str, owner: str = OWNER, notify: str = "") -> QueuedRecipient:
    return QueuedRecipient(f"{name}@example.com", "example.com", notify, "", "list@gw.example.com", owner)


def mails(peer: Peer) -> list[tuple[str, set[str]]]:
    """(sender, recipients) of each transaction."""
    found: list[tuple[str, set[str]]] = []
    for line in peer.commands:
        address = line.partition("<")[2].partition(">")[0]
        if line.startswith("MAIL"):
            found.append((address, set()))
        elif line.startswith("RCPT"):
            found[-1][1].add(address)
    return found


def outward(folder: Path, inner: Peer, outside: Peer, **more: str) -> str:
    """`outside` has everybody who may be told."""
    routes = ", ".join(f'"{domain}" = "{hop(outside)}"' for domain in ("example.org", "office.example"))
    return settings(folder, hop(inner), relay=f"routes = {{ {routes} }}", **more)


def reported(body: bytes) -> tuple[str, list[str]]:
    """To whom a notice is addressed, and whom it reports."""
    notice = email.message_from_bytes(body.replace(b"\r\n..", b"\r\n."))
    fields: Any = notice.get_payload()[1].get_payload()
    return notice["To"], [one["Final-Recipient"].removeprefix("rfc822; ") for one in fields[1:]]


async def test_each_sender_has_a_transaction_of_its_own(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put("x@example.com", member("a"), member("z", SECOND), member("b"), "y@example.com")
        await running.empty()
    await peer.stop()
    assert mails(peer) == [
        ("s@example.org", {"x@example.com", "y@example.com"}),
        (OWNER, {"a@example.com", "b@example.com"}),
        (SECOND, {"z@example.com"}),
    ]
    assert len(log.of(queue_id, "status=sent")) == 5
    assert log.of(queue_id, "to=<a@example.com>, orig_to=<list@gw.example.com>")
    assert len(log.of(queue_id, "removed")) == 1


async def test_the_owner_is_told_of_members_and_the_poster_of_others(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=NO).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        to = ("x@example.com", member("a"), member("z", SECOND), member("b"), member("q", notify="NEVER"))
        queue_id = await running.put(*to, proven=True, told=TOLD)
        await running.until(lambda: len(outside.bodies) == 3)
        await running.empty()
    await peer.stop()
    await outside.stop()
    assert sorted(map(reported, outside.bodies)) == [
        ("<owner-list@gw.example.com>", ["a@example.com", "b@example.com"]),
        ("<owner-second@gw.example.com>", ["z@example.com"]),
        ("<s@example.org>", ["x@example.com"]),
    ]
    assert {sender for sender, _ in mails(outside)} == {""}
    assert sorted(sorted(to) for _, to in mails(outside)) == [
        ["boss@office.example", "deputy@office.example"],
        ["other@office.example"],
        ["s@example.org"],
    ]
    assert log.of("to=<boss@office.example>, orig_to=<owner-list@gw.example.com>", "status=sent")
    assert len(log.of(queue_id, "removed")) == 1


@pytest.mark.parametrize("sender", ["s@example.org", ""])
async def test_the_owner_is_told_where_the_poster_may_not_be(tmp_path: Path, log, sender: str):
    """An unproven sender, or the null one: the owner is ours, and the rest is held."""
    peer, outside = await Peer(PIPE, rcpt=NO).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        queue_id = await running.put("x@example.com", member("a"), sender=sender, told=TOLD)
        await running.until(lambda: running.spool.folders["hold"] and len(outside.bodies) == 1)
        assert running.spool.folders["hold"][queue_id].failed == [0]  # the member is settled
    await peer.stop()
    await outside.stop()
    assert [reported(body) for body in outside.bodies] == [("<owner-list@gw.example.com>", ["a@example.com"])]


async def test_an_owner_without_anybody_behind_his_name_gets_it_himself(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=NO).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside)) as running:
        await running.put(member("a", "boss@office.example"), sender="")
        await running.empty()
    await peer.stop()
    await outside.stop()
    assert mails(outside) == [("", {"boss@office.example"})]


async def test_a_restart_knows_whose_mail_is_left(tmp_path: Path, log):
    """Out of the intake, with what was sent marked; then out of a file of its own; and the notice still knows."""
    peer, outside = await Peer(PIPE, rcpt=[OK, LATER]).start(), await Peer(PIPE).start()
    text = outward(tmp_path, peer, outside, queue='retry_min = "1s"')
    async with delivery(tmp_path, text) as running:
        queue_id = await running.put(member("a"), member("b"), told=TOLD)
        await running.until(lambda: running.spool.folders["deferred"])
        assert running.result(queue_id, 1).status == "todo"
    async with delivery(tmp_path, text) as running:
        await running.until(lambda: len(mails(peer)) == 2)
        peer.says["RCPT"] = NO
        await running.ask(command="flush", all=True)
        await running.until(lambda: outside.bodies)
        await running.empty()
    await peer.stop()
    await outside.stop()
    sent = mails(peer)
    assert sent[0] == (OWNER, {"a@example.com", "b@example.com"}) and len(sent) > 2
    assert all(one == (OWNER, {"b@example.com"}) for one in sent[1:])
    assert [reported(body) for body in outside.bodies] == [("<owner-list@gw.example.com>", ["b@example.com"])]


async def test_a_message_that_grew_too_old_is_told_of_to_each_sender(tmp_path: Path, log):
    peer, outside = await Peer(PIPE, rcpt=LATER).start(), await Peer(PIPE).start()
    async with delivery(tmp_path, outward(tmp_path, peer, outside, queue='lifetime = "0s"')) as running:
        proven = await running.put("x@example.com", member("a"), proven=True, told=TOLD)
        await running.until(lambda: len(outside.bodies) == 2)
        await running.empty()
        assert log.of(proven, "status=expired, returned to sender")
        unproven = await running.put("x@example.com", member("a"), told=TOLD)
        await running.until(lambda: len(outside.bodies) == 3 and running.spool.folders["hold"])
        assert log.of(unproven, "status=expired, kept in hold")
    await peer.stop()
    await outside.stop()
    assert sorted(map(reported, outside.bodies)) == [
        ("<owner-list@gw.example.com>", ["a@example.com"]),
        ("<owner-list@gw.example.com>", ["a@example.com"]),
        ("<s@example.org>", ["x@example.com"]),
    ]


async def test_a_filter_hears_that_the_owner_is_ours(tmp_path: Path, log):
    """So that what comes back from it is answered to him, whoever posted it."""
    peer = await Peer("PIPELINING", "XFORWARD IDENT").start()
    more = f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{peer.port}"\n'
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9", dns=more)) as running:
        queue_id = await running.put("x@example.com", member("a"), filter="scan:")
        await running.empty()
    await peer.stop()
    idents = [line.partition("IDENT=")[2] for line in peer.commands if line.startswith("XFORWARD")]
    assert mails(peer) == [("s@example.org", {"x@example.com"}), (OWNER, {"a@example.com"})]
    assert idents == [queue_id, f"{queue_id}.proven"]


async def test_maps_of_what_leaves_rewrite_the_owner(tmp_path: Path, log):
    peer = await Peer(PIPE).start()
    more = '[addresses]\nsmtp_generic_maps = "texthash:generic"\n'
    async with delivery(
        tmp_path, settings(tmp_path, hop(peer), dns=more), generic=f"{OWNER} office@example.org\n".encode()
    ) as running:
        await running.put("x@example.com", member("a"), edits=(Edit("insert", "X-One", "two"),))
        await running.empty()
    await peer.stop()
    assert mails(peer) == [("s@example.org", {"x@example.com"}), ("office@example.org", {"a@example.com"})]


@pytest.mark.parametrize("table", ["inline", "later"])
async def test_next_hops_by_the_sender_are_those_of_the_owner(
    tmp_path: Path, log, table: str, monkeypatch: pytest.MonkeyPatch
):
    """At once, and by a table that has to be waited for."""
    ours, of_list = await Peer(PIPE).start(), await Peer(PIPE).start()
    relay = (
        f'sender_dependent_relayhost_maps = ["inline:{{ @example.org=[127.0.0.1]:{ours.port}, '
        f'@gw.example.com=[127.0.0.1]:{of_list.port} }}"]'
    )
    if table == "later":
        monkeypatch.setattr(Routes, "route", _later(Routes.route))
        monkeypatch.setattr(Routing, "hear", _asked(Routing.hear))
    async with delivery(tmp_path, settings(tmp_path, "smtp:[127.0.0.1]:9", relay=relay)) as running:
        to = msgspec.structs.replace(member("a"), address="a@far.example", domain="far.example")
        await running.put(QueuedRecipient("a@far.example", "far.example"), to)
        await running.empty()
    await ours.stop()
    await of_list.stop()
    assert mails(ours) == [("s@example.org", {"a@far.example"})]
    assert mails(of_list) == [(OWNER, {"a@far.example"})]


def _later(route: Any) -> Any:
    async def waiting(self: Routes, *asked: Any, **more: Any) -> Any:
        await asyncio.sleep(0)
        return route(self, *asked, **more)

    return waiting


def _asked(hear: Any) -> Any:
    def waiting(self: Routing, item: Any) -> Any:
        self._routes.at_once = False
        return hear(self, item)

    return waiting


async def test_operators_find_it_by_the_owner(tmp_path: Path, log):
    peer = await Peer(PIPE, rcpt=LATER).start()
    async with delivery(tmp_path, settings(tmp_path, hop(peer))) as running:
        queue_id = await running.put("x@example.com", member("a"))
        await running.put("y@example.com")
        await running.until(lambda: len(running.spool.folders["deferred"]) == 2)
        [found] = [one["message"] for one in await running.ask(command="list", sender="owner-*") if "message" in one]
        assert found["queue_id"] == queue_id and found["sender"] == "s@example.org"
        assert [one.get("sender") for one in found["recipients"]] == [None, OWNER]
    await peer.stop()
