"""The greylist check: who is suspicious, who is exempt, what is remembered, and the pool of a hundred addresses (T1)."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.checks import greylist
from appliance.checks.knobs_reasons import REASONS, suspicion
from appliance.mail.context import Client, Context, Recipient
from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.mail.identity import Identity
from appliance.mail.ports import Ports, Site, Unavailable
from appliance.mail.subscribers import dynamic_name
from appliance.mail.triplet import sender_key
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table
from tests.stores.state_fakes import Direct, Time, state_at

EXAMPLE = Identity(name="example.org", proof="spf")
EXEMPT = ("postgrey_clients:exempt/clients", "postgrey_recipients:exempt/recipients")


class Dictionary:
    """A white list as a dictionary of what it matches."""

    pattern = True
    at_once = True

    def __init__(self, entries: Mapping[str, str] | None = None) -> None:
        self.entries = entries or {}

    def get(self, key: str) -> tuple[str, str] | None:
        return (self.entries[key], "list:1") if key in self.entries else None


class Away:
    async def step(self, ask: GreylistAsk) -> GreylistAnswer:
        raise Unavailable("stated: away")


def address(text: str) -> Address:
    local, at, domain = text.rpartition("@")
    return Address(local, domain, text) if at else Address(text, "", text)


def context(sender: str = "a@example.org", recipient: str = "b@example.com", **more: Any) -> Context:
    given = {"address": "192.0.2.1", "name": "unknown", "proof": "none"}
    client = Client(**{**given, **{k: more.pop(k) for k in list(more) if k in (*given, "trusted_relay")}})
    return Context(
        stage="rcpt", client=client, sender=address(sender), recipient=Recipient(address=address(recipient)), **more
    )


def ports(store: Any = None, clients: Mapping[str, str] | None = None, recipients: Any = None) -> Ports:
    site = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")
    lists = {EXEMPT[0]: Dictionary(clients), EXEMPT[1]: Dictionary(recipients)}
    return Ports(site=site, greylist=store, tables=lists)


async def judge(ctx: Context, given: Ports, policy: greylist.Policy | None = None) -> Verdict:
    found = greylist.check(ctx, policy or greylist.Policy(), given)
    return await found if inspect.isawaitable(found) else found  # type: ignore[return-value]


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def store(tmp_path: Path, time: Time) -> Direct:
    return Direct(state_at(tmp_path / "x.db", time))


async def test_stranger_waits_and_passes(store: Direct, time: Time) -> None:
    given = ports(store)
    outcomes = []
    for _ in range(4):
        verdict = await judge(context(now=time.wall_now), given)
        outcomes.append(verdict.outcome)
        time.pass_(60)
    assert outcomes == ["early", "early", "pass", "known"]
    assert "no_confirmed_name" in verdict.reason
    assert verdict.evidence["attempts"] >= 3
    assert verdict.evidence["not_exempt"] == ["192.0.2.1", "b@example.com"]


async def test_a_pool_of_a_hundred_addresses_is_let_in(store: Direct, time: Time) -> None:
    """T1: every retry from another network; without the loop detector none of them would ever pass."""
    given = ports(store)
    outcomes = []
    for n in range(100):
        outcomes.append((await judge(context(address=f"10.{n}.0.1", now=time.wall_now), given)).outcome)
        time.pass_(60)
    assert outcomes[:5] == ["early", "early", "early", "early", "loop"]
    assert set(outcomes[5:]) == {"known"}


async def test_a_pool_with_one_identity_passes_at_the_second_attempt(store: Direct, time: Time) -> None:
    given = ports(store)
    first = await judge(context(address="10.1.0.1", identity=EXAMPLE, now=time.wall_now), given)
    time.pass_(90)
    second = await judge(context(address="10.2.0.1", identity=EXAMPLE, now=time.wall_now), given)
    assert (first.outcome, second.outcome) == ("early", "pass")


async def test_client_without_a_reason_is_not_asked_for(store: Direct) -> None:
    honest = context(name="mx1.example.org", proof="pass")
    assert (await judge(honest, ports(store))).outcome == "not_suspicious"
    always = greylist.Policy(when="always")
    assert (await judge(honest, ports(store), always)).outcome == "early"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"proof": "none"}, "no_confirmed_name"),
        ({"proof": "fail"}, "no_confirmed_name"),
        ({"proof": "pass", "name": "host-192-0-2-1.example.net"}, "dynamic_name"),
        ({"proof": "pass", "name": "mx.example.net", "signs": frozenset({"bare_lf"})}, "bare_lf"),
        ({"proof": "pass", "name": "mx.example.net", "signs": frozenset({"early_talk"})}, "early_talk"),
        ({"proof": "pass", "name": "mx.example.net", "signs": frozenset({"lenient_syntax"})}, "lenient_syntax"),
        (
            {"proof": "pass", "name": "mx.example.net", "trail": (Verdict(check="helo", outcome="malformed"),)},
            "odd_helo",
        ),
    ],
)
def test_reasons(more: dict[str, Any], reason: str) -> None:
    assert suspicion(context(**more)) == (reason,)


@pytest.mark.parametrize("proof", ["pass", "temperror", "unknown"])
def test_what_could_not_be_looked_up_is_no_reason(proof: str) -> None:
    trail = (Verdict(check="helo", outcome="temperror"), Verdict(check="helo", outcome="ok"))
    assert suspicion(context(proof=proof, trail=trail)) == ()


@pytest.mark.parametrize(
    ("name", "client", "dynamic"),
    [
        ("unknown", "192.0.2.1", False),
        ("mx1.example.org", "192.0.2.1", False),
        ("mail-192-0-2-1.example.org", "192.0.2.1", False),
        ("smtp-out3.dsl.example.org", "192.0.2.1", False),
        ("192-0-2-1.example.net", "192.0.2.1", True),
        ("host1.2.0.192.example.net", "192.0.2.1", True),
        ("ip-192-000-002-001.example.net", "192.0.2.1", True),
        ("c0000201.example.net", "192.0.2.1", True),
        ("p54a1b2c3.dip0.example.net", "84.161.178.195", True),
        ("dyn-17.example.net", "192.0.2.1", True),
        ("adsl.example.net", "192.0.2.1", True),
        ("pool-9.city.example.net", "192.0.2.1", True),
        ("homer.example.net", "192.0.2.1", False),
        ("liverpool.example.net", "192.0.2.1", False),
        ("static.1.example.net", "1.1.1.1", False),
        ("customer-5.example.net", "2001:db8::1", True),
    ],
)
def test_dynamic_names(name: str, client: str, dynamic: bool) -> None:
    assert dynamic_name(name, client) is dynamic


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("User@example.org", "user@example.org"),
        ("user+a@example.org", "user+b@example.org"),
        ("list-return-17-bob=example.com@example.org", "list-return-18-bob=example.com@example.org"),
        ("prvs=1234abcdef=user@example.org", "prvs=9876fedcba=user@example.org"),
        ("prvs=1234abcdef=user@example.org", "user@example.org"),
        ("prvs=user/1234abcdef@example.org", "user@example.org"),
        ("btv1==0123456789==user@example.org", "user@example.org"),
        ("SRS0=HHHH=TT=example.net=user@example.org", "SRS0=ABCD=ZZ=example.net=user@example.org"),
        ("SRS0+Ab+/=TT=example.net=user@example.org", "srs0=abcd=zz=example.net=user@example.org"),
        ("SRS1=AAAA=f.example==HHH=TT=example.net=u@e.org", "SRS1=BBBB=f.example==III=UU=example.net=u@e.org"),
        ("0100018c2f5a8b1a-1b2c3d4e5f60718a@example.org", "0100018d3e6b9c2b-2c3d4e5f60718a9b@example.org"),
    ],
)  # fmt: skip
def test_senders_that_are_one(first: str, second: str) -> None:
    assert sender_key(address(first)) == sender_key(address(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("john1@example.org", "john2@example.org"),
        ("user@example.org", "user@example.net"),
        ("a-user@example.org", "b-user@example.org"),
        ("SRS0=HHHH=TT=example.net=user@example.org", "SRS0=HHHH=TT=example.net=other@example.org"),
        ("SRS1=AAAA=fwd.example==HHH=TT=example.net=u@e.org", "SRS1=AAAA=fwd.example==HHH=TT=example.net=v@e.org"),
        ("prvs=1234abcdef=user@example.org", "prvs=1234abcdef=other@example.org"),
        ("deadbeefcafe@example.org", "feedfacecafe@example.org"),
    ],
)
def test_senders_that_are_not(first: str, second: str) -> None:
    assert sender_key(address(first)) != sender_key(address(second))


def test_recipient_is_remembered_without_case_and_extension() -> None:
    assert greylist.recipient_key(address("Bob+x@example.com"), "+") == "bob@example.com"
    assert greylist.recipient_key(address("bob-x@example.com"), "+-") == "bob@example.com"
    assert greylist.recipient_key(address("bob+x@example.com"), "") == "bob+x@example.com"


@pytest.mark.parametrize("client", ["192.0.2.1", "192.0.2.254", "::ffff:192.0.2.9"])
def test_network_key(client: str) -> None:
    asked = greylist.question(
        context(address=client), address("a@b.example"), address("c@d.example"), greylist.Policy(), "+"
    )
    assert asked.keys == ("net:192.0.2.0/24",)


def test_ipv6_network_and_knobs() -> None:
    policy = greylist.Policy(ipv6_prefix=48, delay="5m", auto_accept=0)
    ctx = context(address="2001:db8:1:2::3", identity=EXAMPLE, now=5.0)
    asked = greylist.question(ctx, address("a@b.example"), address("c@d.example"), policy, "+")
    assert asked.keys == ("id:example.org", "net:2001:db8:1::/48")
    assert (asked.delay, asked.window, asked.remember, asked.auto_accept) == (300, 172800, 3110400, 0)


@pytest.mark.parametrize(
    "more",
    [
        {"sender": ""},
        {"recipient": "postmaster@example.com"},
        {"recipient": "Abuse@example.com"},
        {"recipient": "postmaster"},
        {"trusted_relay": True},
    ],
)
async def test_nobody_waits_for_these(store: Direct, more: dict[str, Any]) -> None:
    assert (await judge(context(**more), ports(store), greylist.Policy(when="always"))).outcome == "exempt"


async def test_exempt_lists_name_their_entry(store: Direct) -> None:
    given = ports(store, clients={"192.0.2.1": "192.0.2.0/24"}, recipients={"vip@example.com": "vip@"})
    verdict = await judge(context(), given)
    assert (verdict.outcome, verdict.reason) == ("exempt", "192.0.2.1 matches 192.0.2.0/24 (list:1)")
    assert (await judge(context(address="10.0.0.1", recipient="vip@example.com"), given)).outcome == "exempt"
    assert (await judge(context(address="10.0.0.1"), given)).outcome == "early"


async def test_a_claimed_name_is_not_looked_up(store: Direct) -> None:
    """postgrey#67: a name in the white list must be confirmed."""
    given = ports(store, clients={"mail.example.org": "example.org"})
    client = Client(address="192.0.2.1", name="unknown", reverse_name="mail.example.org", proof="fail")
    ctx = Context(
        stage="rcpt", client=client, sender=address("a@b.example"), recipient=Recipient(address=address("b@example.com"))
    )
    assert (await judge(ctx, given)).outcome == "early"


async def test_store_away_is_unavailable_and_none_is_skipped() -> None:
    with pytest.raises(Unavailable):
        await judge(context(), ports(Away()))
    assert (await judge(context(), ports(None))).outcome == "skipped"


def test_every_answer_of_the_store_has_an_outcome() -> None:
    asked = greylist.question(context(), address("a@b.example"), address("c@d.example"), greylist.Policy(), "+")
    for state in ("new", "early", "passed", "known", "auto", "loop"):
        answer = GreylistAnswer(state=state, first=0.0, attempts=1)
        assert greylist.decide(asked, answer, (), address("c@d.example")).outcome in greylist.OUTCOMES


async def test_the_shipped_lists_are_sound_and_say_when_they_were_made(store: Direct) -> None:
    folder = Path(__file__).parents[2] / "policies"
    opened = {spec: open_table(spec, lambda name: (folder / name).read_bytes()) for spec in EXEMPT}
    assert [table.source.flaws for table in opened.values()] == [(), ()]
    assert all("2026-" in (folder / spec.partition(":")[2]).read_text() for spec in EXEMPT)
    assert opened[EXEMPT[1]].get("abuse@example.net") == ("abuse@", "exempt/recipients:10")
    given = Ports(site=ports().site, greylist=store, tables=opened)
    assert (await judge(context(recipient="abuse+x@example.com"), given)).outcome == "exempt"
    assert (await judge(context(), given)).outcome == "early"


# ---------------------------------------------------------------------- what other checks found, and who is well known


def found(check: str, outcome: str) -> Verdict:
    return Verdict(check=check, outcome=outcome, stage="mail")


GOOD: dict[str, Any] = {"name": "mx1.example.org", "proof": "pass"}
DAY = 86400.0


@pytest.mark.parametrize(
    ("verdict", "reason", "kind"),
    [
        (found("spf", "none"), "spf_none", "spf"),
        (found("spf", "neutral"), "spf_neutral", "spf"),
        (found("spf", "softfail"), "spf_softfail", "spf"),
        (found("spf", "fail"), "spf_fail", "spf"),
        (found("spf", "permerror"), "spf_permerror", "spf"),
        (found("spf", "broad"), "spf_broad", "spf"),
        (found("spf", "helo_fail"), "spf_helo_fail", "spf"),
        (found("dnsbl", "listed"), "dnsbl_listed", "dnsbl"),
        (found("suspicion", "raised"), "suspicion_raised", "suspicion"),
        (found("suspicion", "high"), "suspicion_high", "suspicion"),
        (found("helo", "malformed"), "odd_helo", "helo"),
    ],
)
async def test_a_finding_is_a_reason_if_its_kind_counts(store: Direct, verdict: Verdict, reason: str, kind: str) -> None:
    ctx = context(**GOOD, trail=(verdict,))
    assert suspicion(ctx) == (reason,)
    others = tuple(one for one in REASONS if one != kind)
    assert (await judge(ctx, ports(store), greylist.Policy(reasons=others))).outcome == "not_suspicious"
    assert (await judge(ctx, ports(store))).outcome == "early"


@pytest.mark.parametrize("check", ["spf", "dnsbl", "suspicion", "identity"])
def test_no_finding_is_a_reason_where_nothing_could_be_found_out(check: str) -> None:
    for outcome in ("temperror", "skipped"):
        assert suspicion(context(**GOOD, identity=EXAMPLE, trail=(found(check, outcome),))) == ()


def test_a_sender_never_seen_before_is_a_reason() -> None:
    new = context(**GOOD, identity=EXAMPLE, trail=(found("identity", "new"),))
    assert suspicion(new) == ("new_identity",)
    network = context(**GOOD, identity=Identity(name="192.0.2.0/24"), trail=(found("identity", "unproven"),))
    assert suspicion(network) == ("new_identity",)
    known = Identity(name="example.org", proof="spf", first=1.0)
    assert suspicion(context(**GOOD, identity=known, trail=(found("identity", "known"),))) == ()
    shared = Identity(name="gmail.com", proof="spf", shared=True)
    assert suspicion(context(**GOOD, identity=shared, trail=(found("identity", "shared"),))) == ()


async def test_a_well_known_sender_with_spf_pass_is_not_delayed(store: Direct) -> None:
    known = Identity(name="example.org", proof="spf", first=1_799_000_000.0)
    trail = (found("identity", "known"), found("spf", "pass"), found("dnsbl", "unlisted"), found("suspicion", "low"))
    verdict = await judge(context(**GOOD, identity=known, trail=trail, now=1_800_000_000.0), ports(store))
    assert verdict.outcome == "not_suspicious"


NOW = 1_800_000_000.0
OLD = Identity(name="example.org", proof="spf", first=NOW - 20 * DAY)


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"identity": OLD}, "proven"),
        ({"identity": Identity(name="example.org", proof="dkim", first=NOW - 20 * DAY)}, "proven"),
        ({"identity": Identity(name="example.org", proof="spf", first=NOW - 13 * DAY)}, "early"),
        ({"identity": Identity(name="example.org", proof="spf")}, "early"),
        ({"identity": Identity(name="example.org", proof="name", first=NOW - 20 * DAY)}, "early"),
        ({"identity": Identity(name="192.0.2.0/24", first=NOW - 20 * DAY)}, "early"),
        ({"identity": Identity(name="gmail.com", proof="spf", shared=True, first=NOW - 900 * DAY)}, "early"),
        ({"identity": OLD, "name": "unknown", "proof": "fail"}, "early"),
        ({"identity": OLD, "name": "unknown", "proof": "temperror"}, "early"),
        ({"identity": OLD, "name": "dsl-192-0-2-1.example.net"}, "early"),
        ({"identity": None}, "early"),
    ],
)
async def test_who_is_proven_and_known_for_long_does_not_wait(store: Direct, more: dict[str, Any], outcome: str) -> None:
    ctx = context(**{**GOOD, "signs": frozenset({"pipelining"}), "now": NOW, **more})
    verdict = await judge(ctx, ports(store))
    assert verdict.outcome == outcome
    if outcome == "proven":
        assert verdict.reason == f"example.org by {more['identity'].proof}, known for 20 days"
        younger = greylist.Policy(proven_after=30 * DAY)
        assert (await judge(ctx, ports(store), younger)).outcome == "early"


async def test_a_dns_allow_list_exempts(store: Direct) -> None:
    verdict = await judge(context(trail=(found("dnsbl", "allowed"),)), ports(store))
    assert (verdict.outcome, verdict.reason) == ("exempt", "on a DNS allow list")


async def test_a10_a_shared_provider_is_never_accepted_as_one(store: Direct, time: Time) -> None:
    """Its pool passes by the identity; six customers that came back accept nobody else, nor does its network."""
    given = ports(store)
    cloud = Identity(name="gmail.com", proof="spf", shared=True)
    for n in range(8):
        ctx = context(f"c{n}@gmail.com", address=f"10.{n}.0.1", identity=cloud, now=time.wall_now)
        assert (await judge(ctx, given)).outcome == "early"
        time.pass_(3700)
        elsewhere = context(f"c{n}@gmail.com", address="10.200.0.1", identity=cloud, now=time.wall_now)
        assert (await judge(elsewhere, given)).outcome == "pass"
    stranger = context("spam@gmail.com", address="10.200.0.1", identity=cloud, now=time.wall_now)
    assert (await judge(stranger, given)).outcome == "early"
    network = context("spam@bulk.example", address="10.200.0.1", now=time.wall_now)
    assert (await judge(network, given)).outcome == "early"


async def test_a_proven_identity_is_accepted_automatically_and_its_network_is_not(store: Direct, time: Time) -> None:
    given = ports(store)
    for n in range(5):
        await judge(context(f"c{n}@example.org", identity=EXAMPLE, now=time.wall_now), given)
        time.pass_(3700)
        await judge(context(f"c{n}@example.org", identity=EXAMPLE, now=time.wall_now), given)
    new = context("new@example.org", address="203.0.113.9", identity=EXAMPLE, now=time.wall_now)
    assert (await judge(new, given)).outcome == "auto"
    neighbour = context("new@elsewhere.example", now=time.wall_now)
    assert (await judge(neighbour, given)).outcome == "early"


async def test_a_dns_failure_that_hides_the_identity_does_not_restart_the_clock(store: Direct, time: Time) -> None:
    given = ports(store)
    assert (await judge(context(identity=EXAMPLE, now=time.wall_now), given)).outcome == "early"
    time.pass_(100)
    assert (await judge(context(identity=None, now=time.wall_now), given)).outcome == "pass"
    time.pass_(100)
    other = context(address="10.99.0.1", identity=EXAMPLE, now=time.wall_now)
    assert (await judge(other, given)).outcome == "pass", "its own clock has run on"
