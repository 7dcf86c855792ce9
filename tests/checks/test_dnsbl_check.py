"""dnsbl: what is asked, what counts, and what is never a listing."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from appliance.checks import dnsbl
from appliance.mail.context import Client, Context
from appliance.mail.inspection import Inspection, Report
from appliance.mail.ports import Content, Ports, Unavailable
from appliance.mail.verdict import Verdict
from appliance.protocol.mime import Limits
from tests.checks.dns import Dns
from tests.engine.scripted import SITE, address

CLIENT = "99.2.0.192"
HIT = {f"{CLIENT}.bl.example A": ["127.0.0.2"], f"{CLIENT}.bl.example TXT": ["Listed, see https://bl.example/192.0.2.99"]}


class Body:
    """Content of no octets."""


class Inspector:
    def __init__(self, *hosts: str, away: bool = False) -> None:
        self.hosts, self.away = hosts, away

    async def inspect(self, content: Content, limits: Limits | None = None) -> Inspection:
        if self.away:
            raise Unavailable("scand: hung up")
        return Inspection(Report(hosts=self.hosts))


class Watch:
    """mail.ports.DnsLists."""

    def __init__(self, dead: Mapping[str, str] = {}) -> None:
        self.dead = dead
        self.told: list[tuple[str, str, str]] = []

    def trouble(self, zone: str, kind: str) -> str:
        return self.dead.get(zone, "")

    def heard(self, zone: str, kind: str, why: str) -> None:
        self.told.append((zone, kind, why))


def context(stage: str = "rcpt", **more: Any) -> Context:
    fields: dict[str, Any] = {
        "client": Client(address="192.0.2.99", name="mail.client.example", reverse_name="mail.client.example"),
        "helo": "helo.example",
        "sender": address("someone@news.sender.example"),
    }
    return Context(stage=stage, **{**fields, **more})  # type: ignore[arg-type]


async def ask(
    ctx: Context, dns: Dns | None, inspector: Inspector | None = None, watch: Watch | None = None, **knobs: Any
) -> Verdict:
    ports = Ports(site=SITE, resolver=dns, inspector=inspector, dns_lists=watch)  # type: ignore[arg-type]
    answer = dnsbl.check(ctx, dnsbl.Policy(**knobs), ports)
    return await answer if inspect.isawaitable(answer) else answer


async def test_a_listed_client_with_code_weight_and_the_lists_words_for_the_log_only() -> None:
    found = await ask(context(), Dns(HIT), client=["bl.example=127.0.0.[2..11]*2"], threshold=2)
    assert (found.outcome, found.score) == ("listed", 2)
    assert found.evidence["lists"] == [
        {
            "list": "bl.example",
            "subject": "client",
            "about": "192.0.2.99",
            "codes": ["127.0.0.2"],
            "weight": 2,
            "ttl": 300,
            "reason": "Listed, see https://bl.example/192.0.2.99",
        }
    ]
    assert "192.0.2.99 on bl.example (127.0.0.2, weight 2: Listed" in found.reason and "sum 2 of 2" in found.reason
    assert found.reply == "" and "bl.example" not in dnsbl.REPLIES["listed"]


async def test_what_is_asked_about_what() -> None:
    dns = Dns()
    every = {knob: [f"{knob}.example"] for knob in dnsbl.SUBJECTS}
    client = Client(address="2001:db8::1", name="mx1.client.co.uk", reverse_name="ptr.claims.example")
    ctx = context("message", client=client, content=Body())
    found = await ask(ctx, dns, Inspector("www.link.example", "a.link.example", "192.0.2.1", "example.com"), **every)
    assert found.outcome == "unlisted"
    assert sorted(dns.asked) == [
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.client.example A",
        "claims.example.reverse_name.example A",
        "client.co.uk.client_name.example A",
        "helo.example.helo_name.example A",
        "link.example.links.example A",
        "sender.example.sender.example A",
    ]


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [
        (["127.0.0.2"], "listed"),
        (["127.0.0.5", "127.0.0.3"], "listed"),
        (["127.0.0.12"], "unlisted"),
        ([], "unlisted"),
        (["127.255.255.254"], "temperror"),
        (["127.255.255.255", "127.0.0.2"], "temperror"),
        (["203.0.113.9"], "temperror"),
        (["127.0.0.2", "10.0.0.1"], "temperror"),
    ],
)
async def test_error_codes_and_answers_that_are_none_are_never_a_listing(codes: list[str], outcome: str) -> None:
    dns = Dns({f"{CLIENT}.bl.example A": codes})
    assert (await ask(context(), dns, client=["bl.example=127.0.0.[2..11]"])).outcome == outcome


@pytest.mark.parametrize(
    ("lists", "sum_", "outcome"),
    [
        (["a.example*2", "b.example*2"], 4, "listed"),
        (["a.example*2", "clean.example*9"], 2, "unlisted"),
        (["a.example*3", "wl.example*-2"], 1, "unlisted"),
        (["a.example*5", "wl.example*-2"], 3, "listed"),
        (["wl.example*-2"], -2, "allowed"),
        (["wl.example*-2", "a.example*1"], -1, "unlisted"),
        (["multi.example=127.0.0.&2*1", "multi.example=127.0.0.&8*2", "multi.example=127.0.0.&16*9"], 3, "listed"),
        (["away.example*2", "a.example*3"], 3, "listed"),
        (["away.example*2", "a.example*2"], 2, "temperror"),
        (["away.example*2"], 0, "unlisted"),
        (["away.example*-2", "a.example*4"], 4, "temperror"),
        (["away.example*-1", "a.example*4"], 4, "listed"),
        (["away.example*2", "wl.example*-2"], -2, "unlisted"),
    ],
)
async def test_weights_are_added_and_silence_is_no_answer(lists: list[str], sum_: int, outcome: str) -> None:
    records = {f"{CLIENT}.{zone} A": ["127.0.0.2"] for zone in ("a.example", "b.example", "wl.example")}
    dns = Dns(records | {f"{CLIENT}.multi.example A": ["127.0.0.10"]}, away=[f"{CLIENT}.away.example"])
    found = await ask(context(), dns, client=lists, threshold=3, allow_threshold=2)
    assert (found.score, found.outcome) == (sum_, outcome)
    assert ("unanswered" in found.evidence) is any("away" in text for text in lists)


@pytest.mark.parametrize(
    "client",
    [
        Client(address="127.0.0.1"),
        Client(address="10.1.2.3"),
        Client(address="fd00::1"),
        Client(address="local"),
        Client(address="192.0.2.99", trusted_relay=True),
    ],
    ids=["loopback", "private", "unique local", "unix socket", "trusted relay"],
)
async def test_our_own_side_is_not_asked_about(client: Client) -> None:
    dns = Dns()
    found = await ask(context(client=client), dns, client=["bl.example"], helo_name=["dbl.example"])
    assert (found.outcome, dns.asked) == ("skipped", [])


async def test_without_lists_or_resolver_it_is_skipped() -> None:
    assert (await ask(context(), Dns())).outcome == "skipped"
    assert (await ask(context(), None, client=["bl.example"])).outcome == "skipped"


async def test_names_of_strangers_are_checked_before_they_are_asked() -> None:
    dns = Dns()
    for helo in (
        "[192.0.2.1]",
        "a b.example",
        "x\n.example",
        "..",
        "localhost",
        "é.example",
        "a" * 300 + ".example",
        "co.uk",
    ):
        assert (await ask(context("helo", helo=helo), dns, helo_name=["dbl.example"])).outcome == "skipped"
    assert dns.asked == []


async def test_equal_questions_are_asked_once() -> None:
    dns = Dns(HIT)
    await ask(context(), dns, client=["bl.example=127.0.0.2", "bl.example=127.0.0.3", "bl.example"])
    assert sorted(dns.asked) == [f"{CLIENT}.bl.example A", f"{CLIENT}.bl.example TXT"]


async def test_what_is_at_hand_is_answered_at_once() -> None:
    policy = dnsbl.Policy(client=["bl.example"])
    ports = Ports(site=SITE, resolver=Dns(known=["*"]))
    found = dnsbl.check(context(), policy, ports)
    assert isinstance(found, Verdict) and found.outcome == "unlisted"


async def test_links_add_to_the_sum_of_the_connection_which_is_not_asked_again() -> None:
    dns = Dns({**HIT, "bad.example.dbl.example A": ["127.0.1.2"]})
    lists: dict[str, Sequence[str]] = {"client": ["bl.example*2"], "links": ["dbl.example*1"]}
    at_rcpt = await ask(context(), dns, threshold=3, **lists)
    assert (at_rcpt.outcome, at_rcpt.score) == ("unlisted", 2)
    trail = (Verdict(check="spf", outcome="pass"), _at(at_rcpt, "rcpt"))
    dns.asked.clear()
    ctx = context("message", content=Body(), trail=trail)
    found = await ask(ctx, dns, Inspector("www.bad.example", "good.example"), threshold=3, **lists)
    assert (found.outcome, found.score) == ("listed", 3)
    assert not [question for question in dns.asked if CLIENT in question]
    clean = await ask(ctx, dns, Inspector("good.example"), threshold=2, **lists)
    assert clean.outcome == "unlisted", "the connection's listing is not found a second time"


def _at(verdict: Verdict, stage: str) -> Verdict:
    fields = ("check", "outcome", "score", "evidence")
    return Verdict(stage=stage, **{field: getattr(verdict, field) for field in fields})


async def test_each_recipient_of_a_listed_client_gets_the_verdict() -> None:
    first = await ask(context(), Dns(HIT), client=["bl.example"])
    again = await ask(context(trail=(_at(first, "rcpt"),)), Dns(HIT), client=["bl.example"])
    assert (first.outcome, again.outcome) == ("listed", "listed")


async def test_links_are_bounded_and_count_once_a_list() -> None:
    hosts = [f"www.d{number}.example" for number in range(50)]
    dns = Dns({f"d{number}.example.dbl.example A": ["127.0.1.2"] for number in range(50)})
    found = await ask(context("message", content=Body()), dns, Inspector(*hosts), links=["dbl.example"], link_domains=5)
    assert len([question for question in dns.asked if question.endswith(" A")]) == 5
    assert (found.outcome, found.score) == ("listed", 1)
    assert found.evidence["more_links"] is True
    few = await ask(context("message", content=Body()), dns, Inspector(*hosts[:5]), links=["dbl.example"], link_domains=5)
    assert "more_links" not in few.evidence


async def test_thousands_of_hosts_hold_nobody_up() -> None:
    one = "a." * 100 + "good.example"
    looked = await dnsbl.link_domains([f"x{number}.{one}"[-250:] for number in range(40000)], SITE.is_ours)
    assert looked == ["good.example"]
    hosts = [*[f"w{number}.good.example" for number in range(600)], "bad.example"]
    assert await dnsbl.link_domains(hosts, SITE.is_ours) == ["good.example"]


async def test_a1_the_questions_of_one_stage_are_bounded_and_those_left_out_are_not_unlisted() -> None:
    dns = Dns()
    found = await ask(context(), dns, client=[f"l{number}.example" for number in range(9)], questions=4)
    assert len(dns.asked) == 4
    assert found.outcome == "temperror" and len(found.evidence["unanswered"]) == 5


async def test_content_that_could_not_be_inspected_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await ask(context("message", content=Body()), Dns(), Inspector(away=True), links=["dbl.example"])


async def test_a_dead_list_is_not_asked_and_counts_nothing() -> None:
    dns, watch = Dns(HIT), Watch({"bl.example": "it lists everything"})
    found = await ask(context(), dns, None, watch, client=["bl.example*9", "clean.example"])
    assert found.outcome == "unlisted" and found.evidence["dead"] == ["bl.example: it lists everything"]
    assert dns.asked == [f"{CLIENT}.clean.example A"]
    assert watch.told == [("clean.example", "address", "")]
    alone = await ask(context(), dns, None, watch, client=["bl.example*9"])
    assert alone.outcome == "temperror" and "no list can be asked" in alone.reason


async def test_the_watch_hears_of_lists_that_fail() -> None:
    dns, watch = Dns({f"{CLIENT}.quota.example A": ["127.255.255.255"]}, away=[f"{CLIENT}.away.example"]), Watch()
    await ask(context(), dns, None, watch, client=["quota.example", "away.example"])
    assert [(zone, bool(why)) for zone, _, why in watch.told] == [("quota.example", True), ("away.example", True)]
    assert watch.told[1][2] == "no answer"


async def test_a_customers_key_stays_out_of_the_log() -> None:
    zone = "abcdefghij0123456789abcdef.zen.dq.example"
    found = await ask(context(), Dns({f"{CLIENT}.{zone} A": ["127.0.0.2"]}), client=[zone])
    assert found.outcome == "listed" and "abcdefghij" not in found.reason + str(found.evidence)


@pytest.mark.parametrize("knob", ["reverse_name", "helo_name", "sender", "links"])
def test_an_allow_list_of_names_that_anybody_can_use_is_a_mistake(knob: str) -> None:
    with pytest.raises(ValidationError, match="prove nothing"):
        dnsbl.Policy(**{knob: ["wl.example*-1"]})
    dnsbl.Policy(client=["wl.example*-1"], client_name=["wl.example*-1"])


@pytest.mark.parametrize("knob", dnsbl.SUBJECTS)
def test_a_list_that_cannot_be_read_is_a_mistake(knob: str) -> None:
    with pytest.raises(ValidationError, match="written zone=filter"):
        dnsbl.Policy(**{knob: "bl example"})
