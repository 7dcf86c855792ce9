"""SPF remembered: one evaluation for all who ask the same, as long as DNS allows, at once where it is known."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable

import pytest

from appliance.daemons.compose import spf_memo
from appliance.daemons.compose.authentication import Authentication
from appliance.daemons.compose.spf_memo import SpfMemo
from appliance.engine.policy import compile_policies
from appliance.mail.auth import SpfAsk, SpfReport
from appliance.mailauth import spf
from appliance.net.resolver import Resolver
from tests.mailauth.spf_rig import zone
from tests.mailauth.vectors import Records, serve
from tests.net.nameserver import NameServer

PLAIN = zone(_="v=spf1 a:h.example.org -all", h={"A": ["192.0.2.1"]})
PERSONAL = zone(_="v=spf1 exists:%{l}.ok.example.org -all", joe__ok={"A": ["127.0.0.2"]})
JOE = SpfAsk("192.0.2.1", "mail.example.net", "joe@example.org")
ANN = SpfAsk("192.0.2.1", "mail.example.net", "ann@example.org")


@pytest.fixture
async def nameserver() -> AsyncIterator[NameServer]:
    server = NameServer()
    await server.start()
    yield server
    await server.stop()


class Rig:
    """A memo before a resolver that keeps nothing (TTL 0 unless given), so that each evaluation shows on the wire."""

    def __init__(self, server: NameServer, records: dict[str, Records], ttl: int = 300, seconds: float = 20.0) -> None:
        serve(server, records, ttl)
        self.server, self.now = server, 1000.0
        self.memo = SpfMemo(Resolver([server.address], timeout=8), spf.Limits(), seconds, lambda: self.now)

    async def ask(self, ask: SpfAsk = JOE) -> SpfReport:
        answer = self.memo.spf(ask)
        return answer if isinstance(answer, SpfReport) else await answer

    @property
    def evaluations(self) -> int:
        return sum(name == "example.org." for name, _, _ in self.server.asked)


async def test_what_is_known_is_answered_at_once(nameserver: NameServer) -> None:
    rig = Rig(nameserver, PLAIN)
    first = rig.memo.spf(JOE)
    assert not isinstance(first, SpfReport)
    report = await first
    assert (report.result, report.ttl) == ("pass", 300)
    assert rig.memo.spf(JOE) is report
    assert rig.memo.spf(ANN) is report  # the same domain, and no macro that reads the local part


async def test_what_needs_no_name_server_is_answered_at_once() -> None:
    memo = SpfMemo(Resolver(["127.0.0.1:9"], b'$ORIGIN .\n$TTL 60\nexample.org TXT "v=spf1 -all"\n'), spf.Limits(), 20.0)
    report = memo.spf(JOE)
    assert isinstance(report, SpfReport)
    assert (report.result, len(memo)) == ("fail", 1)


@pytest.mark.parametrize(
    "other",
    [
        SpfAsk("192.0.2.2", "mail.example.net", "joe@example.org"),
        SpfAsk("192.0.2.1", "other.example.net", "joe@example.org"),
        SpfAsk("192.0.2.1", "mail.example.net", "joe@h.example.org"),
        SpfAsk("192.0.2.1", "mail.example.net", ""),
    ],
)
async def test_another_question_has_its_own_answer(nameserver: NameServer, other: SpfAsk) -> None:
    rig = Rig(nameserver, {**PLAIN, "mail.example.net": {"TXT": ["v=spf1 ~all"]}})
    first = await rig.ask()
    second = await rig.ask(other)
    assert second is not first
    assert len(rig.memo) == 2
    assert rig.memo.spf(JOE) is first
    assert rig.memo.spf(other) is second


async def test_it_is_kept_as_long_as_dns_allows(nameserver: NameServer) -> None:
    rig = Rig(nameserver, PLAIN, ttl=40)
    await rig.ask()
    rig.now += 39.9
    assert isinstance(rig.memo.spf(JOE), SpfReport)
    rig.now += 0.1
    serve(nameserver, zone(_="v=spf1 ~all"), 40)
    answer = rig.memo.spf(JOE)  # evaluated anew (the resolver's own cache, by the real clock, still has the records)
    assert (answer if isinstance(answer, SpfReport) else await answer).result == "pass"


@pytest.mark.parametrize("records", [PLAIN, PERSONAL])
async def test_what_may_not_be_kept_holds_for_the_checks_of_one_message(
    nameserver: NameServer, records: dict[str, Records]
) -> None:
    rig = Rig(nameserver, records, ttl=0)
    report = await rig.ask()
    assert report.ttl == 0
    assert rig.memo.spf(JOE) is report
    rig.now += 5
    assert await rig.ask() is not report
    assert rig.evaluations == 2


async def test_a1_temperror_is_not_kept_longer(nameserver: NameServer) -> None:
    rig = Rig(nameserver, zone(_={"SERVFAIL": []}))
    report = await rig.ask()
    assert report.result == "temperror"
    assert rig.memo.spf(JOE) is report
    rig.now += 5
    assert await rig.ask() is not report


async def test_where_the_local_part_is_read_the_whole_sender_counts(nameserver: NameServer) -> None:
    rig = Rig(nameserver, PERSONAL)
    assert (await rig.ask(JOE)).result == "pass"
    assert (await rig.ask(ANN)).result == "fail"
    joe, ann = rig.memo.spf(JOE), rig.memo.spf(ANN)
    assert isinstance(joe, SpfReport)
    assert isinstance(ann, SpfReport)
    assert (joe.result, ann.result) == ("pass", "fail")


async def test_a_hundred_connections_of_one_sender_at_once_are_one_evaluation(nameserver: NameServer) -> None:
    rig = Rig(nameserver, PLAIN, ttl=0)
    nameserver.delay = 0.02
    reports = await asyncio.gather(*(rig.ask(SpfAsk(*JOE_FROM, f"u{n}@example.org")) for n in range(100)))
    assert {report.result for report in reports} == {"pass"}
    assert rig.evaluations == 1
    assert len({id(report) for report in reports}) == 1


JOE_FROM = ("192.0.2.1", "mail.example.net")


async def test_at_once_where_the_local_part_is_read_each_has_its_own(nameserver: NameServer) -> None:
    rig = Rig(nameserver, PERSONAL)
    nameserver.delay = 0.02
    asks = [JOE, ANN] * 50
    reports = await asyncio.gather(*map(rig.ask, asks))
    assert [report.result for report in reports] == ["pass", "fail"] * 50
    assert rig.evaluations == 1  # the resolver's cache has the record; and no more evaluations than senders:
    assert sum(name == "ann.ok.example.org." for name, _, _ in nameserver.asked) == 1


async def test_who_gives_up_waiting_does_not_take_the_answer_from_the_others(nameserver: NameServer) -> None:
    rig = Rig(nameserver, PLAIN)
    nameserver.delay = 0.02
    first, second = asyncio.ensure_future(rig.ask()), asyncio.ensure_future(rig.ask())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).result == "pass"
    assert first.cancelled()
    assert rig.evaluations == 1


async def test_a1_an_evaluation_ends_at_its_deadline_and_says_what_it_found(nameserver: NameServer) -> None:
    slow = zone(_="v=spf1 ip4:198.51.100.1 a:h.example.org include:bad.example.org +all", h={"A": ["192.0.2.9"]})
    rig = Rig(nameserver, {**slow, **zone(bad={"TIMEOUT": []})}, seconds=1.5)
    begun = time.monotonic()
    report = await rig.ask()
    assert time.monotonic() - begun < 7  # the name server alone had 8 seconds
    assert (report.result, report.ttl) == ("temperror", 0)
    assert "the evaluation took longer than 1.5 s" in report.reason
    assert [term.result for term in report.terms] == ["no match", "no match", "temperror"]


async def test_a1_hosts_that_are_asked_together_have_the_same_deadline(nameserver: NameServer) -> None:
    hosts: dict[str, Records] = {f"h{n}": {"TIMEOUT": []} for n in range(10)}
    records = zone(_={"TXT": ["v=spf1 mx +all"], "MX": [[n, f"h{n}.example.org"] for n in range(10)]}, **hosts)
    rig = Rig(nameserver, records, seconds=1.5)
    report = await rig.ask()
    assert (report.result, report.reason.count("took longer than 1.5 s")) == ("temperror", 1)


async def test_it_is_bounded(nameserver: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spf_memo, "CAPACITY", 50)
    monkeypatch.setattr(spf_memo, "MOST_UNDER_WAY", 60)
    rig = Rig(nameserver, PLAIN)
    nameserver.delay = 0.02
    found = await asyncio.gather(*(rig.ask(SpfAsk(f"192.0.2.{n}", "h", "joe@example.org")) for n in range(100)))
    assert [report.result for report in found].count("temperror") == 40
    lost = [report for report in found if report.result == "temperror"]
    assert all("under way" in report.reason and report.domain == "example.org" for report in lost)
    assert len(rig.memo) == 50


class Broken:
    """A resolver with a mistake in it."""

    def cached(self, name: str, rtype: str) -> None:
        return None

    def query(self, name: str, rtype: str) -> Awaitable[None]:
        raise RuntimeError("a mistake of ours")


@pytest.mark.parametrize(
    ("ask", "scope", "domain"),
    [
        (JOE, "mfrom", "example.org"),
        (SpfAsk("local", "h.example", "joe@Example.org"), "mfrom", "example.org"),
        (SpfAsk("192.0.2.1", "h.example", ""), "helo", "h.example"),
    ],
)
async def test_a_mistake_of_ours_is_temperror_of_that_domain(ask: SpfAsk, scope: str, domain: str) -> None:
    answer = SpfMemo(Broken(), spf.Limits(), 20.0).spf(ask)  # type: ignore[arg-type]
    report = answer if isinstance(answer, SpfReport) else await answer
    assert (report.result, report.scope, report.domain) == ("temperror", scope, domain)
    assert report.reason.startswith("failed: ")


async def test_the_knobs_of_the_policy_are_in_force() -> None:
    record = b'example.org TXT "v=spf1 a:x.org a:y.org a:z.org ip4:192.0.2.0/24"'
    text = b"$ORIGIN .\n$TTL 60\n. SOA ns. host. 1 2 3 4 5\n%b\n" % record
    for limit, result in ((2, "permerror"), (3, "pass")):
        policies, complaints = compile_policies({"spf.toml": {"void_limit": limit, "broad_ipv4_prefix": 24}})
        assert not complaints
        report = Authentication(Resolver(["127.0.0.1:9"], text), policies).spf(JOE)
        assert isinstance(report, SpfReport)
        assert (report.result, report.broad) == (result, True)


async def test_a_hit_costs_next_to_nothing(nameserver: NameServer) -> None:
    rig = Rig(nameserver, PLAIN)
    await rig.ask()
    begun = time.process_time()
    for _ in range(10_000):
        rig.memo.spf(JOE)
    assert time.process_time() - begun < 0.2  # 20 µs each; measured: 0.5
