"""The recipient check: lists first, then call-ahead, then what could not be verified."""

import inspect
from typing import Any

import msgspec
import pytest

from appliance.checks import recipient
from appliance.mail.context import Client, Context, Recipient
from appliance.mail.lookup import Found
from appliance.mail.ports import Ports, Probe, Site, Unavailable, Undeliverable
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address

LIST = "texthash:recipients"


class Table:
    pattern = False
    at_once = True

    def __init__(self, *entries: str) -> None:
        self.entries = entries

    def get(self, key: str) -> tuple[str, str] | None:
        return ("x", "recipients:1") if key.lower() in self.entries else None


class Broken:
    pattern = False
    at_once = True

    def get(self, key: str) -> tuple[str, str] | None:
        raise Unavailable("recipients: cannot be read")


class Inside:
    """Recipients by a dictionary of what a probe finds; `fresh` is what is cached."""

    def __init__(self, fresh: Probe | None = None, **probes: Probe) -> None:
        self.fresh, self.probes, self.asked = fresh, probes, 0

    def cached(self, address: Address) -> Probe | None:
        return self.fresh

    async def probe(self, address: Address) -> Probe:
        self.asked += 1
        return self.probes.get(address.local, Probe("unverifiable", "connection refused"))


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain, text) if domain and local else Address(text, "", text)


async def judge(to: str, *, table: Any = None, inside: Any = None, refused: Any = None, **knobs: Any) -> Verdict:
    policy = recipient.Policy(tables=[LIST] if table else [], **knobs)
    site = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")
    site = msgspec.structs.replace(site, undeliverable=refused) if refused else site
    ports = Ports(site=site, tables={LIST: table} if table else {}, recipients=inside)
    ctx = Context(stage="rcpt", client=Client(address="192.0.2.1"), recipient=Recipient(address=address(to)))
    found = recipient.check(ctx, policy, ports)
    return await found if inspect.isawaitable(found) else found  # type: ignore[return-value]


@pytest.mark.parametrize("to", ["postmaster@example.com", "PostMaster@example.com", "postmaster"])
async def test_postmaster_is_always_known(to: str) -> None:
    assert (await judge(to, table=Table("a@example.com"), callahead=False)).outcome == "known"


async def test_postmaster_elsewhere_is_not_ours() -> None:
    assert (await judge("postmaster@example.net")).outcome == "not_ours"


@pytest.mark.parametrize("to", ["bob@example.com", "Bob@example.com", "bob+x@example.com"])
async def test_listed(to: str) -> None:
    inside = Inside()
    verdict = await judge(to, table=Table("bob@example.com"), inside=inside)
    assert (verdict.outcome, verdict.evidence["place"], inside.asked) == ("known", "recipients:1", 0)


async def test_a_domain_can_be_taken_whole() -> None:
    assert (await judge("anybody@example.com", table=Table("@example.com"), callahead=False)).outcome == "known"


async def test_a_list_is_complete_when_call_ahead_is_off() -> None:
    verdict = await judge("x@example.com", table=Table("bob@example.com"), inside=Inside(), callahead=False)
    assert verdict.outcome == "unknown"


async def test_who_is_not_listed_is_asked_for() -> None:
    inside = Inside(x=Probe("known", "250 ok"), y=Probe("unknown", "550 5.1.1 no"), z=Probe("blind"))
    outcomes = [(await judge(f"{n}@example.com", table=Table(), inside=inside)).outcome for n in "xyzw"]
    assert outcomes == ["known", "unknown", "blind", "unverifiable"]


async def test_inside_away_known_ones_pass_and_others_are_put_off() -> None:
    inside = Inside()
    assert (await judge("bob@example.com", table=Table("bob@example.com"), inside=inside)).outcome == "known"
    assert (await judge("new@example.com", table=Table("bob@example.com"), inside=inside)).outcome == "unverifiable"


async def test_what_is_cached_is_answered_at_once() -> None:
    inside = Inside(Probe("unknown", "550 5.1.1 no"))
    verdict = await judge("x@example.com", inside=inside)
    assert (verdict.outcome, inside.asked) == ("unknown", 0)
    assert "550" in verdict.reason


async def test_neither_list_nor_call_ahead_is_said() -> None:
    assert (await judge("x@example.com", callahead=False)).outcome == "unchecked"
    assert (await judge("x@example.com")).outcome == "unchecked"


async def test_an_unreadable_list_is_never_unknown() -> None:
    with pytest.raises(Unavailable):
        await judge("x@example.com", table=Broken(), callahead=False)


def test_replies_hide_the_inside() -> None:
    verdict = recipient.decide(address("x@example.com"), Probe("unknown", "550 5.1.1 exch01.corp.local says no"))
    assert verdict.reply == ""
    assert "corp" not in " ".join(recipient.REPLIES.values())


class Unfetched(Table):
    absent = "x was never fetched"

    def get(self, key: str) -> tuple[str, str] | None:
        raise Unavailable(self.absent)


async def test_while_a_fetched_list_is_not_there_nobody_is_unknown() -> None:
    verdict = await judge("bob@example.com", table=Unfetched(), callahead=False)
    assert (verdict.outcome, verdict.reason) == ("unverifiable", "x was never fetched")


async def test_while_a_fetched_list_is_not_there_the_next_hop_is_asked() -> None:
    inside = Inside(bob=Probe("known", "250 ok"), eve=Probe("unknown", "550 no"))
    assert (await judge("bob@example.com", table=Unfetched(), inside=inside)).outcome == "known"
    assert (await judge("eve@example.com", table=Unfetched(), inside=inside)).outcome == "unknown"


async def test_another_list_knows_whom_one_that_is_not_there_may_lack() -> None:
    lists = {"synced:a": Unfetched(), "synced:b": Table("bob@example.com")}
    site = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")
    policy = recipient.Policy(tables=list(lists), callahead=False)

    def outcome(to: str) -> str:
        ctx = Context(stage="rcpt", client=Client(address="192.0.2.1"), recipient=Recipient(address=address(to)))
        found = recipient.check(ctx, policy, Ports(site=site, tables=lists))
        assert isinstance(found, Verdict)
        return found.outcome

    assert outcome("bob@example.com") == "known"
    assert outcome("eve@example.com") == "unverifiable"


# ---------------------------------------------------------------------- maps that rewrite recipients


class Aliases:
    """Maps, played: known ones, a domain of aliases; `late`: the answers are to be awaited."""

    def __init__(self, late: bool) -> None:
        self._late = late

    def covers(self, address: Address) -> Any:
        known = address.local in ("alias", "both")
        return self._given(Found(f"{address.local}@", "x@example.com", "virtual:3") if known else None)

    def only_aliases(self, domain: str) -> Any:
        return self._given(domain == "alias.example")

    def _given(self, value: Any) -> Any:
        async def later() -> Any:
            return value

        return later() if self._late else value


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("to", "outcome", "asked"),
    [
        ("alias@example.com", "known", 0),
        ("alias@alias.example", "known", 0),
        ("nobody@alias.example", "unknown", 0),
        ("bob@example.com", "known", 0),
        ("x@example.com", "unknown", 1),
        ("postmaster@alias.example", "known", 0),
        ("postmaster@mx.example.com", "known", 0),
        ("alias@other.example", "not_ours", 0),
    ],
)
async def test_who_has_an_entry_in_a_map_is_known(to: str, outcome: str, asked: int, late: bool) -> None:
    inside = Inside(x=Probe("unknown", "550 5.1.1 no"))
    site = Site(hostname="mx.example.com", is_ours=lambda domain: domain in ("example.com", "alias.example"))
    ports = Ports(site=site, tables={LIST: Table("bob@example.com")}, recipients=inside, aliases=Aliases(late))
    ctx = Context(stage="rcpt", client=Client(address="192.0.2.1"), recipient=Recipient(address=address(to)))
    found = recipient.check(ctx, recipient.Policy(tables=[LIST]), ports)
    verdict = await found if inspect.isawaitable(found) else found
    assert (verdict.outcome, inside.asked) == (outcome, asked)
    if to.startswith("alias@") and outcome == "known":
        assert verdict.evidence["place"] == "virtual:3"


async def test_a_map_that_cannot_answer_is_no_verdict() -> None:
    class Away(Aliases):
        def covers(self, address: Address) -> Any:
            raise Unavailable("virtual is away")

    site = Site(hostname="mx.example.com", is_ours=lambda domain: True)
    ports = Ports(site=site, aliases=Away(False))
    ctx = Context(stage="rcpt", client=Client(address="192.0.2.1"), recipient=Recipient(address=address("a@example.com")))
    with pytest.raises(Unavailable):  # the engine makes it `temperror`
        recipient.check(ctx, recipient.Policy(), ports)


GONE = Undeliverable("550 5.1.6 moved", "transport:3")


@pytest.mark.parametrize(("to", "outcome"), [("gone@example.com", "unknown"), ("gone@far.example", "unknown")])
async def test_who_is_refused_by_the_transport_table_is_unknown_with_its_text(to: str, outcome: str) -> None:
    async def later(address: Address) -> Undeliverable | None:
        return GONE

    for refused in (lambda address: GONE, later):
        found = await judge(to, table=Table("gone@example.com"), refused=refused)
        assert (found.outcome, found.reply, found.evidence["place"]) == (outcome, "550 5.1.6 moved", "transport:3")
    kept = await judge("postmaster@example.com", refused=lambda address: GONE)
    assert kept.outcome == "known"
