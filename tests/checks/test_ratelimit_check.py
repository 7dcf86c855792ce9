"""The ratelimit check: who is counted where, and what is over."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from appliance.checks import ratelimit
from appliance.mail.context import Client, Context, Recipient
from appliance.mail.identity import Identity
from appliance.mail.ports import Ports, RateAsk, Site
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address
from appliance.stores import wire
from appliance.stores.remote import StateClient
from tests.stores.state_fakes import Direct, Time, state_at

SENDER, RECIPIENT = Address("A", "example.org", "A@example.org"), Address("b", "example.com", "b@example.com")
NULL = Address("", "", "")


def context(
    stage: Any,
    *,
    trusted_relay: bool = False,
    sender: Address = SENDER,
    address: str = "192.0.2.1",
    identity: Identity | None = None,
) -> Context:
    client = Client(address=address, trusted_relay=trusted_relay)
    return Context(
        stage=stage,
        client=client,
        identity=identity,
        sender=None if stage == "connect" else sender,
        recipient=Recipient(address=RECIPIENT) if stage == "rcpt" else None,
    )


def keys(ctx: Context, policy: ratelimit.Policy | None = None) -> list[str]:
    return [ask.key for ask in ratelimit.asks(ctx, policy or ratelimit.Policy())]


async def judge(ctx: Context, store: Any, policy: ratelimit.Policy) -> Verdict:
    ports = Ports(site=Site(hostname="mx.example.com", is_ours=lambda domain: True), rates=store)
    found = ratelimit.check(ctx, policy, ports)
    return await found if inspect.isawaitable(found) else found  # type: ignore[return-value]


def test_what_is_asked_at_each_stage() -> None:
    net, sender, recipient = "net:192.0.2.0/24", "from:a@example.org", "to:b@example.com"
    assert keys(context("connect")) == [f"{w}/{p}/{net}" for w in ("connections", "errors") for p in (60, 3600)]
    assert keys(context("mail")) == [f"messages/{p}/{who}" for who in (net, sender) for p in (60, 3600)]
    assert keys(context("rcpt")) == [
        *(f"recipients/{p}/{who}" for who in (net, sender) for p in (60, 3600)),
        *(f"messages/{p}/{recipient}" for p in (60, 3600)),
    ]


def test_nobody_counts_for_the_null_sender_and_no_network_for_a_trusted_relay() -> None:
    assert all("/from:" not in key for key in keys(context("mail", sender=NULL)))
    assert keys(context("connect", trusted_relay=True)) == []
    assert all("/net:" not in key for key in keys(context("rcpt", trusted_relay=True)))


def test_nought_is_no_limit() -> None:
    policy = ratelimit.Policy(network_connections=(0, 7), network_errors=(0, 0))
    assert list(ratelimit.asks(context("connect"), policy)) == [RateAsk("connections/3600/net:192.0.2.0/24", 1, 7, 3600)]


async def test_over_within_the_minute_and_again_within_afterwards(tmp_path: Path) -> None:
    time = Time()
    store = Direct(state_at(tmp_path / "x.db", time))
    policy = ratelimit.Policy(network_messages=(3, 0), sender_messages=(0, 0))
    outcomes = [(await judge(context("mail"), store, policy)).outcome for _ in range(4)]
    assert outcomes == ["within", "within", "within", "over"]
    verdict = await judge(context("mail"), store, policy)
    assert verdict.reason == "messages/60/net:192.0.2.0/24: more than 3"
    assert verdict.evidence["messages/60/net:192.0.2.0/24"]["left"] == -1
    time.pass_(21)
    assert (await judge(context("mail"), store, policy)).outcome == "within"


async def test_errors_that_the_session_reports_are_the_ones_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time()
    state = state_at(tmp_path / "x.db", time)
    policy = ratelimit.Policy(network_errors=(2, 0))
    told: list[Any] = []
    client = StateClient("/nonexistent")
    monkeypatch.setattr(client, "tell", told.append)
    client.errors("192.0.2.200", 2)
    [charge] = told
    assert isinstance(charge, wire.Charge)
    state.answer([charge], {})
    assert (await judge(context("connect"), Direct(state), policy)).outcome == "within"
    state.answer([charge], {})
    assert (await judge(context("connect"), Direct(state), policy)).outcome == "over"
    client.close()


async def test_without_a_store_nothing_is_counted() -> None:
    assert (await judge(context("mail"), None, ratelimit.Policy())).outcome == "within"


def test_shipped_in_monitor() -> None:
    assert ratelimit.MODE == "monitor"


US = Identity(name="example.org", proof="spf")


async def test_a_hundred_addresses_of_one_identity_are_one_sender(tmp_path: Path) -> None:
    store = Direct(state_at(tmp_path / "x.db", Time()))
    policy = ratelimit.Policy(identity_messages=(60, 0), sender_messages=(0, 0))
    outcomes = []
    for n in range(100):
        ctx = context("mail", address=f"10.{n}.0.1", identity=US)
        outcomes.append((await judge(ctx, store, policy)).outcome)
    assert outcomes == ["within"] * 60 + ["over"] * 40
    other = Identity(name="example.net", proof="name")
    assert (await judge(context("mail", address="10.0.0.1", identity=other), store, policy)).outcome == "within"


@pytest.mark.parametrize(
    "identity", [None, Identity(name="192.0.2.0/24"), Identity(name="gmail.com", proof="spf", shared=True)]
)
def test_a10_nobody_counts_for_a_shared_provider_or_an_unproven_identity(identity: Identity | None) -> None:
    for stage in ("mail", "rcpt"):
        assert keys(context(stage, identity=identity)) == keys(context(stage))
    assert "messages/60/id:example.org" in keys(context("mail", identity=US))
    assert "recipients/3600/id:example.org" in keys(context("rcpt", identity=US))
