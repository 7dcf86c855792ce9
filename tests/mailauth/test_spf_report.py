"""What an SPF report says: the evidence of every term, counters, how long it holds, for whom, and what it proves."""

import asyncio

import pytest

from appliance.mail.auth import SpfAsk, SpfReport, SpfTerm
from appliance.mailauth.spf import Limits, evaluate
from appliance.net.resolver import Resolver
from tests.mailauth.spf_rig import Rig, zone
from tests.mailauth.vectors import Records, serve
from tests.net.nameserver import NameServer


async def test_every_term_that_was_asked_is_evidence(nameserver: NameServer) -> None:
    records = zone(
        _="v=spf1 ip4:198.51.100.0/24 a:gone.example.org include:i.example.org mx:m.example.org/28 exists:never.org -all",
        i="v=spf1 ip4:203.0.113.7 redirect=r.example.org",
        r="v=spf1 ?ptr:example.net ~all",
        m={"MX": [[10, "h.example.org"]]},
        h={"A": ["192.0.2.14"]},
    )
    report = await Rig(nameserver, records).judge()
    assert (report.result, report.matched, report.lookups, report.voids) == ("pass", "mx:m.example.org/28", 5, 2)
    assert report.terms == (
        SpfTerm("example.org", "ip4:198.51.100.0/24", "no match"),
        SpfTerm("example.org", "a:gone.example.org", "no match, void", ("gone.example.org A: none",)),
        SpfTerm(
            "example.org",
            "include:i.example.org",
            "include:softfail",
            ("i.example.org TXT: v=spf1 ip4:203.0.113.7 redirect=r.example.org",),
        ),
        SpfTerm("i.example.org", "ip4:203.0.113.7", "no match"),
        SpfTerm(
            "i.example.org",
            "redirect=r.example.org",
            "redirect:softfail",
            ("r.example.org TXT: v=spf1 ?ptr:example.net ~all",),
        ),
        SpfTerm("r.example.org", "?ptr:example.net", "no match, void", ("1.2.0.192.in-addr.arpa PTR: none",)),
        SpfTerm("r.example.org", "~all", "match"),
        SpfTerm(
            "example.org",
            "mx:m.example.org/28",
            "match",
            ("m.example.org MX: 10 h.example.org", "h.example.org A: 192.0.2.14"),
        ),
    )


@pytest.mark.parametrize(
    ("record", "address", "result", "matched", "last"),
    [
        ("v=spf1 ptr:example.net -all", "192.0.2.1", "pass", "ptr:example.net", "match"),
        ("v=spf1 -exists:%{ir}.list.example.org +all", "192.0.2.1", "fail", "-exists:%{ir}.list.example.org", "match"),
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8:1::1", "pass", "ip6:2001:db8::/32", "match"),
        ("v=spf1 ip4:192.0.2.0/24 -all", "::ffff:192.0.2.1", "pass", "ip4:192.0.2.0/24", "match"),
        ("v=spf1 a//64", "2001:db8::9", "pass", "a//64", "match"),
        ("v=spf1 redirect=all.example.org", "192.0.2.1", "softfail", "~all", "match"),
        ("v=spf1 a mx", "192.0.2.1", "neutral", "", "no match, void"),
        ("v=spf1 include:none.example.org +all", "192.0.2.1", "permerror", "", "include:none, void"),
    ],
)
async def test_the_term_that_matched_is_named(
    nameserver: NameServer, record: str, address: str, result: str, matched: str, last: str
) -> None:
    records: dict[str, Records] = {
        **zone(_={"TXT": [record], "AAAA": ["2001:db8::1"], "A": ["192.0.2.200"]}, all="v=spf1 ~all"),
        "1.2.0.192.in-addr.arpa": {"PTR": ["mail.example.net."]},
        "mail.example.net": {"A": ["192.0.2.1"]},
        "1.2.0.192.list.example.org": {"A": ["127.0.0.2"]},
    }
    report = await Rig(nameserver, records).judge(address=address)
    assert (report.result, report.matched, report.terms[-1].result) == (result, matched, last)


async def test_of_many_terms_the_first_and_the_last_are_kept(nameserver: NameServer) -> None:
    many = [f"ip4:198.51.100.{n}" for n in range(200)]
    record = f"v=spf1 {' '.join(many)} -all"
    pieces = [record[at : at + 250] for at in range(0, len(record), 250)]
    report = await Rig(nameserver, zone(_={"TXT": [pieces]})).judge()
    assert [report.terms[0].term, report.terms[-1].term, len(report.terms)] == [many[0], "-all", 60]


async def test_it_holds_as_long_as_the_record_with_the_least_ttl(nameserver: NameServer) -> None:
    zone_file = b"""$ORIGIN .
example.org 900 TXT "v=spf1 a:h.example.org include:i.example.org -all"
h.example.org 70 A 192.0.2.9
i.example.org 300 TXT "v=spf1 ?all"
"""
    report = evaluate(Resolver(["127.0.0.1:9"], zone_file), SpfAsk("192.0.2.1", "h", "joe@example.org"), Limits())
    assert isinstance(report, SpfReport)  # at once: all of it is at hand
    assert (report.result, report.ttl) == ("fail", 70)


@pytest.mark.parametrize(
    ("record", "personal"),
    [
        ("v=spf1 -all", False),
        ("v=spf1 exists:%{d}.%{i}.%{h}.%{o}.example.org -all", False),
        ("v=spf1 exists:%{l}.x.example.org -all", True),
        ("v=spf1 exists:%{S}.x.example.org -all", True),
        ("v=spf1 -all exp=who.example.org", True),
        ("v=spf1 ?all exp=who.example.org", False),
    ],
)
async def test_it_holds_for_one_sender_where_the_local_part_was_read(
    nameserver: NameServer, record: str, personal: bool
) -> None:
    rig = Rig(nameserver, zone(_=record, who={"TXT": ["not %{l}"]}))
    assert (await rig.judge()).personal is personal


@pytest.mark.parametrize(
    ("record", "broad"),
    [
        ("v=spf1 +all", True),
        ("v=spf1 ip4:192.0.2.1 all", True),
        ("v=spf1 ip4:0.0.0.0/0 -all", True),
        ("v=spf1 ip4:192.0.0.0/10 -all", True),
        ("v=spf1 ip4:192.0.0.0/11 -all", False),
        ("v=spf1 ip4:10.0.0.0/11 ip4:192.0.0.0/11 -all", True),
        ("v=spf1 a:h.example.org/8 -all", True),
        ("v=spf1 ip4:192.0.2.1 ip6:2000::/3 -all", True),
        ("v=spf1 include:all.example.org -all", True),
        ("v=spf1 redirect=all.example.org", True),
        ("v=spf1 ?include:all.example.org ip4:192.0.2.1 -all", False),
        ("v=spf1 ip4:192.0.2.1 ?all", False),
        ("v=spf1 ip4:192.0.2.1 -all +all", False),
        ("v=spf1 -ip4:0.0.0.0/1 ip4:192.0.2.1 -all", False),
        ("v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all", False),
    ],
)
async def test_a10_a_record_that_lets_in_nearly_everybody_is_broad(
    nameserver: NameServer, record: str, broad: bool
) -> None:
    rig = Rig(nameserver, zone(_=record, all="v=spf1 +all", h={"A": ["192.0.0.1"]}))
    assert (await rig.judge()).broad is broad


async def test_what_is_broad_is_the_operators_choice(nameserver: NameServer) -> None:
    rig = Rig(nameserver, zone(_="v=spf1 ip4:192.0.2.0/24 -all"))
    assert (await rig.judge(broad4=24)).broad
    assert not (await rig.judge(broad4=23)).broad


@pytest.mark.parametrize("address", ["local", "", "192.0.2", "unknown", "list", "list6"])
def test_an_address_that_is_none_is_a_mistake(address: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        evaluate(Resolver(["127.0.0.1:9"]), SpfAsk(address, "h.example", "joe@example.org"), Limits())


async def test_an_address_with_a_zone(nameserver: NameServer) -> None:
    rig = Rig(nameserver, zone(_="v=spf1 ip6:fe80::/10 -all"))
    assert (await rig.judge(address="fe80::1%eth0")).result == "pass"


async def test_evaluations_under_way_at_once_keep_apart(nameserver: NameServer) -> None:
    """200 at once, of 40 domains with results, limits and macros of their own, over one resolver."""
    records: dict[str, Records] = {}
    ends = ["-all", "~all", "?all", "+all"]
    record = "v=spf1 a:x{0}.example.org include:i{0}.example.org exists:%{{l}}.e{0}.example.org {1}"
    for n in range(40):
        own: dict[str, str | Records] = {
            f"d{n}": record.format(n, ends[n % 4]),
            f"x{n}": {"A": [f"198.51.100.{n}"]},
            f"i{n}": f"v=spf1 ip4:203.0.113.{n} mx:m{n}.example.org -all",
            f"m{n}": {"MX": [[10, f"x{n}.example.org"], [20, f"y{n}.example.org"]]},
            f"y{n}": {"A": [f"198.51.101.{n}"]},
        }
        records |= zone(**own)
    serve(nameserver, records)
    nameserver.delay = 0.01
    resolver = Resolver([nameserver.address], timeout=5)

    async def one(number: int) -> tuple[int, SpfReport]:
        n = number % 40
        address = "192.0.2.1" if number < 160 else f"198.51.101.{n}"
        answer = evaluate(resolver, SpfAsk(address, "h.example", f"u{number}@d{n}.example.org"), Limits())
        return number, answer if isinstance(answer, SpfReport) else await answer

    for number, report in await asyncio.gather(*map(one, range(200))):
        n = number % 40
        assert report.domain == f"d{n}.example.org"
        if number < 160:
            assert report.result == ("fail", "softfail", "neutral", "pass")[n % 4]
            assert f"u{number}.e{n}.example.org A: none" in report.terms[-2].records
            assert (report.lookups, report.voids) == (4, 1)
        else:
            assert (report.result, report.matched) == ("pass", f"include:i{n}.example.org")
