"""What status says of call-ahead: which next hop verifies nothing and why, how many messages that put off, which; and
when it is over."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from appliance.connectors import probing
from appliance.connectors.callahead import Callahead
from appliance.connectors.probing import Door
from appliance.connectors.target import Target, Timeouts
from appliance.mail.ports import Probe, Unavailable
from appliance.net.mx import NoPlace
from appliance.observe import metrics, trouble
from appliance.protocol import quota
from appliance.protocol.smtp.address import Address
from appliance.stores.callahead_cache import CallaheadCache
from tests.connectors.smtp_peer import CUT, SILENT, Peer

NAME = "smtp:[inner]:25"


@asynccontextmanager
async def ahead_of(doors: Callable[[Address], Awaitable[list[Door]]], **more: Any) -> AsyncIterator[Callahead]:
    made = Callahead(doors, CallaheadCache(None), hostname="mx.example.com", **more)
    try:
        yield made
    finally:
        await made.close()


async def asked(ahead: Callahead, message: str, local: str = "bob", domain: str = "example.com") -> Probe:
    """As the recipient check of that message asks."""
    before = quota.current.set(quota.Quota(message=message))
    try:
        return await ahead.probe(Address(local, domain, f"{local}@{domain}"))
    finally:
        quota.current.reset(before)


def said(ahead: Callahead) -> dict[str, Any]:
    return trouble.merged(ahead.health()["degraded"])


#: What the next hop does, and what status says of it.
TROUBLE: dict[str, tuple[dict[str, Any], str]] = {
    "421 for a greeting": ({"greeting": b"421 4.3.2 not now\r\n"}, "refused to talk to me: 421 4.3.2 not now"),
    "silent": ({"greeting": SILENT}, "timed out while receiving the initial server greeting"),
    "silent at MAIL": ({"mail": SILENT}, "timed out while sending MAIL FROM"),
    "cut at MAIL": ({"mail": CUT}, "lost connection"),
    "451 to MAIL": ({"mail": b"451 4.3.0 no disk\r\n"}, "said: 451 4.3.0 no disk (in reply to MAIL FROM command)"),
    "no probes": ({"mail": b"550 5.7.1 not <>\r\n"}, "said: 550 5.7.1 not <> (in reply to MAIL FROM command)"),
    "451 to RCPT": ({"rcpt": b"451 4.3.0 later\r\n"}, "said: 451 4.3.0 later (in reply to RCPT TO command)"),
}


@pytest.mark.parametrize("kind", TROUBLE)
async def test_who_verifies_nothing_is_named_with_the_messages_until_it_does(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    says, why = TROUBLE[kind]
    monkeypatch.setattr(probing, "REST", 0.0)
    peer = await Peer(**says).start()

    async def doors(_: Address) -> list[Door]:
        return [Door(NAME, Target(host="inner", address="127.0.0.1", port=peer.port))]

    async with ahead_of(doors, deadline=10.0) as ahead:
        patient, ahead._timeouts = ahead._timeouts, Timeouts.each(0.9) if SILENT in says.values() else ahead._timeouts
        found = await asyncio.gather(*(asked(ahead, message) for message in ("A1", "A2", "A1")))
        assert {probe.state for probe in found} == {"unverifiable"}
        assert list(said(ahead)) == [f"call-ahead: next hop {NAME} fails"]
        [one] = said(ahead).values()
        assert why in one["why"], one
        assert (one["touched"], one["last"]) == (2, ["A1", "A2"]) or (one["touched"], one["last"]) == (2, ["A2", "A1"])
        assert f'postgate_callahead_degraded{{next_hop="{NAME}"}} 1.0' in metrics.exposition().decode()
        assert ahead.health()["next hops"][NAME]["state"] == "in trouble"
        peer.says.clear()
        ahead._timeouts = patient
        assert (await asked(ahead, "A3")).state == "blind"
        assert list(said(ahead)) == ["call-ahead: the next hop of example.com accepts every address"]
        assert f'postgate_callahead_degraded{{next_hop="{NAME}"}} 0.0' in metrics.exposition().decode()
    await peer.stop()


async def test_messages_count_while_it_rests_but_not_where_an_older_answer_holds() -> None:
    peer = await Peer(rcpt=[b"550 5.1.1 no\r\n", b"250 ok\r\n"]).start()

    async def doors(_: Address) -> list[Door]:
        return [Door(NAME, Target(host="inner", address="127.0.0.1", port=peer.port))]

    async with ahead_of(doors) as ahead:
        assert (await asked(ahead, "A0")).state == "known"
        await peer.stop()
        for message in ("A1", "A2"):
            assert (await asked(ahead, message, "eve")).state == "unverifiable"
        assert (await asked(ahead, "A3")).state == "known"
        [one] = said(ahead).values()
        assert (one["touched"], one["last"]) == (2, ["A1", "A2"])


@pytest.mark.parametrize(
    "rcpt", [b"450 4.2.1 busy\r\n", b"452 4.2.2 full\r\n", b"450 busy\r\n", b"550 5.7.1 not for you\r\n"]
)
async def test_what_is_about_one_mailbox_is_no_trouble(rcpt: bytes) -> None:
    peer = await Peer(rcpt=[b"550 5.1.1 no\r\n", rcpt]).start()

    async def doors(_: Address) -> list[Door]:
        return [Door(NAME, Target(host="inner", address="127.0.0.1", port=peer.port))]

    async with ahead_of(doors) as ahead:
        assert (await asked(ahead, "A1")).state == "unverifiable"
        assert said(ahead) == {}
        assert ahead.health()["next hops"][NAME]["state"] == "well"
    await peer.stop()


async def test_an_address_that_needs_smtputf8_is_no_trouble_of_the_next_hop() -> None:
    peer = await Peer().start()

    async def doors(_: Address) -> list[Door]:
        return [Door(NAME, Target(host="inner", address="127.0.0.1", port=peer.port))]

    async with ahead_of(doors) as ahead:
        assert (await asked(ahead, "A1", "bäb")).state == "unverifiable"
        assert said(ahead) == {}
    await peer.stop()


@pytest.mark.parametrize("error", [Unavailable("DNS is away"), NoPlace("no such host", "5.4.4"), None])
async def test_a_domain_for_which_no_next_hop_is_found_is_named(error: Exception | None) -> None:
    peer = await Peer().start()
    lost = True

    async def doors(_: Address) -> list[Door]:
        if lost and error is not None:
            raise error
        return [] if lost else [Door(NAME, Target(host="inner", address="127.0.0.1", port=peer.port))]

    async with ahead_of(doors) as ahead:
        for message in ("A1", "A2"):
            assert (await asked(ahead, message)).state == "unverifiable"
        what, why = "call-ahead: no next hop is found for example.com", str(error or "no next hop is configured")
        assert said(ahead) == {what: trouble.said(what, why, 2, ["A1", "A2"])}
        lost = False
        await asked(ahead, "A3")
        assert what not in said(ahead)
    await peer.stop()
