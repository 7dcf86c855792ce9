"""Lists with an owner in a session: one entry in the queue for all senders, so that all of it is kept or none."""

from typing import Any

import pytest

from appliance.queue.envelope import Expanded, QueuedRecipient
from appliance.queue.errors import SpoolError
from tests.addresses.test_addresses_owner import rewriter
from tests.connectors.smtp_peer import Peer
from tests.daemons.smtpd.stage import Stage
from tests.daemons.smtpd.test_smtpd_addresses import send
from tests.daemons.smtpd.test_smtpd_proxied import EVERYTHING

OWNER = "owner-list@mx.example.com"


def staged(listen: dict[str, Any] | None = None, **told: Any) -> Stage:
    stage = Stage(**({"listen": listen} if listen else {}))
    stage.rewriter_ = rewriter(**told)
    return stage


async def test_members_are_kept_with_their_owner_in_one_entry() -> None:
    async with staged() as stage:
        assert (await send(stage, "list@mx.example.com", "x@example.com", "plain@mx.example.com")).startswith("250")
        [kept] = stage.intake.kept
        assert [(one.address, one.original, one.owner, one.orcpt) for one in kept.trailer.recipients] == [
            ("a@example.com", "list@mx.example.com", OWNER, ""),
            ("b@example.com", "list@mx.example.com", OWNER, ""),
            ("x@example.com", "", "", ""),
            ("a@example.com", "plain@mx.example.com", "", "rfc822;plain@mx.example.com"),
            ("b@example.com", "plain@mx.example.com", "", "rfc822;plain@mx.example.com"),
        ]
        assert kept.trailer.sender == "x@host.example.com"
        assert kept.trailer.told == {OWNER: ("boss@example.com", "second@example.com")}


async def test_what_the_disk_refuses_is_kept_for_nobody() -> None:
    async with staged() as stage:
        stage.intake.error = SpoolError("no")
        assert (await send(stage, "list@mx.example.com", "x@example.com")).startswith("451")
        assert stage.intake.kept == []


@pytest.mark.parametrize(
    ("said", "kept"),
    [("", ""), ("NEVER", "NEVER"), ("FAILURE", "FAILURE"), ("SUCCESS,FAILURE", "FAILURE"), ("SUCCESS", "NEVER")],
)
async def test_the_poster_hears_of_the_list_alone(said: str, kept: str) -> None:
    """What a member's report would say is the owner's to know."""
    async with staged({"role": "outbound"}) as stage:
        notify = f" NOTIFY={said}" if said else ""
        ask = f"{notify} ORCPT=rfc822;first@else.example"
        assert (await send(stage, "list@mx.example.com", **{"list@mx.example.com": ask})).startswith("250")
        trailer = stage.intake.kept[0].trailer
        assert {(one.notify, one.orcpt) for one in trailer.recipients} == {(kept, "")}
        report = Expanded("list@mx.example.com", "rfc822;first@else.example", "delivered")
        assert trailer.expanded == ((report,) if "SUCCESS" in said else ())


async def test_what_leads_to_a_list_is_expanded() -> None:
    async with staged({"role": "outbound"}) as stage:
        await send(stage, "mixed@mx.example.com", **{"mixed@mx.example.com": " NOTIFY=SUCCESS"})
        assert [one.action for one in stage.intake.kept[0].trailer.expanded] == ["expanded"]


async def test_an_owner_beyond_ascii_needs_smtputf8() -> None:
    aliases = "list: a@example.com\nowner-list: b\u00f6ss@example.com\n"
    async with staged(aliases=aliases, expand_owner_alias=True) as stage:
        await send(stage, "list@mx.example.com")
        trailer = stage.intake.kept[0].trailer
        assert trailer.smtputf8
        assert trailer.recipients[0].owner == "b\u00f6ss@example.com"


def test_copies_from_two_senders_are_two() -> None:
    one, other = (QueuedRecipient("a@example.com", "example.com", owner=owner) for owner in (OWNER, ""))
    assert one.copy != other.copy
    assert one.copy == QueuedRecipient("A@example.com", "example.com", owner=OWNER.upper()).copy


async def test_a_copy_for_a_list_comes_from_its_owner() -> None:
    async with staged(always_bcc="list@mx.example.com") as stage:
        await send(stage, "x@example.com")
        recipients = stage.intake.kept[0].trailer.recipients
        assert [(one.address, one.owner, one.notify) for one in recipients] == [
            ("x@example.com", "", ""),
            ("a@example.com", OWNER, "NEVER"),
            ("b@example.com", OWNER, "NEVER"),
        ]


async def test_a_filter_before_the_queue_gets_it_from_the_queue() -> None:
    """One transaction has one sender, and two would not be taken together or not at all."""
    peer = await Peer(*EVERYTHING).start()
    listen = {"role": "outbound", "proxy_filter": "scan"}
    stage = Stage(listen=listen, filters={"scan": {"next_hop": f"smtp:[127.0.0.1]:{peer.port}"}})
    stage.rewriter_ = rewriter()
    async with stage:
        assert (await send(stage, "list@mx.example.com", "x@example.com")).startswith("250")
        assert peer.bodies == []
        assert [kept.trailer.filter for kept in stage.intake.kept] == ["proxy:scan"]
        assert (await send(stage, "plain@mx.example.com", "x@example.com")).startswith("250")
        assert len(peer.bodies) == 1
        assert len(stage.intake.kept) == 1
        # A report that is owed is queued with the message.
        notify = {"plain@mx.example.com": " NOTIFY=SUCCESS"}
        assert (await send(stage, "plain@mx.example.com", "x@example.com", **notify)).startswith("250")
        assert [len(kept.trailer.expanded) for kept in stage.intake.kept] == [0, 1]
        assert len(peer.bodies) == 1
    await peer.stop()


@pytest.mark.parametrize("role", ["outbound", "reinject"])
async def test_notices_for_a_sender_who_is_an_alias_go_where_it_leads(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody carries mail to one of our own names: what comes back from a filter has the owner as its sender."""
    monkeypatch.setattr("appliance.daemons.smtpd.trailer._proven", lambda *_: True)
    async with staged({"role": role}) as stage:
        assert (await send(stage, "x@example.com", sender=OWNER)).startswith("250")
        assert stage.intake.kept[0].trailer.told == {OWNER: ("boss@example.com", "second@example.com")}
        assert (await send(stage, "x@example.com", sender="nobody@mx.example.com")).startswith("250")
        assert (await send(stage, "x@example.com", sender="y@example.com")).startswith("250")
        assert [kept.trailer.told for kept in stage.intake.kept[1:]] == [{}, {}]
        monkeypatch.setattr("appliance.daemons.smtpd.trailer._proven", lambda *_: False)
        await send(stage, "x@example.com", sender=OWNER)
        assert stage.intake.kept[3].trailer.told == {}  # nobody is told
