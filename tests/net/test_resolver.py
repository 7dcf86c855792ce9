import asyncio
import time
from collections import Counter

import dns.flags
import pytest

from appliance.net import resolver as resolver_module
from appliance.net.resolver import Resolver, system_nameservers
from appliance.observe import metrics
from appliance.protocol import quota
from appliance.protocol.errors import Unavailable
from tests.net.nameserver import NameServer, answer


def resolver(*servers: NameServer, timeout: float = 10.0, **more) -> Resolver:
    return Resolver([server.address for server in servers], timeout=timeout, **more)


def script(*records: str, **more):
    return lambda query, how: [answer(query, *records, **more).to_wire()]


async def test_records_and_cache(nameserver):
    nameserver.script = script("@ 300 IN MX 10 Mail.Example.COM.", "@ 300 IN MX 5 other.example.com.")
    dns = resolver(nameserver)
    assert dns.cached("example.com", "MX") is None
    found = await dns.query("Example.COM.", "MX")
    assert set(found.records) == {"10 mail.example.com", "5 other.example.com"}
    assert found.name == "example.com" and found.exists and not found.stale
    again = dns.cached("example.com", "MX")
    assert again.records == found.records and 298 <= again.ttl <= 300
    await dns.query("example.com", "MX")
    assert len(nameserver.asked) == 1


async def test_txt_strings_are_joined(nameserver):
    nameserver.script = script('@ 300 IN TXT "v=spf1 " "-all"')
    assert (await resolver(nameserver).query("example.com", "TXT")).records == ("v=spf1 -all",)


async def test_twenty_at_once_ask_once(nameserver):
    nameserver.script, nameserver.delay = script("@ 300 IN A 192.0.2.1"), 0.05
    dns = resolver(nameserver)
    answers = await asyncio.gather(*(dns.query("example.com", "A") for _ in range(20)))
    assert {a.records for a in answers} == {("192.0.2.1",)}
    assert len(nameserver.asked) == 1


async def test_one_waiter_giving_up_leaves_the_others_their_answer(nameserver):
    nameserver.script, nameserver.delay = script("@ 300 IN A 192.0.2.1"), 0.05
    dns = resolver(nameserver)
    first = asyncio.create_task(dns.query("example.com", "A"))
    await asyncio.sleep(0)
    second = asyncio.create_task(dns.query("example.com", "A"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).records == ("192.0.2.1",)


async def test_d4_ids_and_ports_are_random(nameserver):
    nameserver.script = script("@ 0 IN A 192.0.2.1")
    dns = resolver(nameserver)
    for _ in range(8):
        await dns.query("example.com", "A")
    assert len(nameserver.ids) >= 7 and len(nameserver.ports) >= 6
    ordered = sorted(nameserver.ports)
    assert ordered[-1] - ordered[0] > 8


async def test_ttl_nought_is_not_kept_but_a_floor_keeps_it(nameserver):
    nameserver.script = script("@ 0 IN A 192.0.2.1")
    dns = resolver(nameserver)
    await dns.query("example.com", "A")
    await dns.query("example.com", "A")
    assert len(nameserver.asked) == 2
    floored = resolver(nameserver, ttl_floor=60.0)
    await floored.query("example.com", "A")
    assert floored.cached("example.com", "A").ttl in (59, 60)


@pytest.mark.parametrize(("rcode", "exists"), [(3, False), (0, True)])
async def test_negative_answers_are_kept_as_their_soa_says(nameserver, rcode, exists):
    nameserver.script = script(rcode=rcode, soa="com. 900 60")
    dns = resolver(nameserver)
    found = await dns.query("none.example.com", "A")
    assert (found.records, found.exists) == ((), exists)
    assert 58 <= dns.cached("none.example.com", "A").ttl <= 60


async def test_negative_answer_without_soa_is_not_kept(nameserver):
    nameserver.script = script(rcode=3)
    dns = resolver(nameserver)
    assert (await dns.query("none.example.com", "A")).exists is False
    assert dns.cached("none.example.com", "A") is None


@pytest.mark.parametrize("rcode", [2, 5])
async def test_servfail_and_refused_are_unavailable_and_remembered(nameserver, rcode):
    nameserver.script = script(rcode=rcode)
    dns = resolver(nameserver)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await dns.query("example.com", "A")
    assert len(nameserver.asked) == 1


async def test_d4_silence_ends_by_the_deadline_after_two_tries(nameserver):
    nameserver.script = lambda query, how: []
    dns = resolver(nameserver, timeout=0.3)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="in time"):
        await dns.query("example.com", "A")
    assert time.monotonic() - begun < 8
    assert len(nameserver.asked) == 2


async def test_the_second_server_answers_and_is_asked_first_afterwards(nameserver, second_nameserver):
    nameserver.script = script(rcode=2)
    second_nameserver.script = script("@ 300 IN A 192.0.2.1")
    dns = resolver(nameserver, second_nameserver)
    assert (await dns.query("a.example.com", "A")).records == ("192.0.2.1",)
    await dns.query("b.example.com", "A")
    assert len(nameserver.asked) == 1
    assert len(second_nameserver.asked) == 2


async def test_d4_rubbish_forgeries_and_echoes_are_passed_over(nameserver):
    def forge(query, how):
        good = answer(query, "@ 300 IN A 192.0.2.1")
        wrong_id = answer(query, "@ 300 IN A 203.0.113.66")
        wrong_id.id = (query.id + 1) & 0xFFFF
        other = answer(query, "@ 300 IN A 203.0.113.66").to_wire().replace(b"example", b"examqle")
        rubbish = query.id.to_bytes(2, "big") + b"\xff" * 40
        return [b"", b"x", rubbish, wrong_id.to_wire(), other, query.to_wire(), good.to_wire()]

    nameserver.script = forge
    assert (await resolver(nameserver).query("example.com", "A")).records == ("192.0.2.1",)


async def test_only_rubbish_is_unavailable(nameserver):
    nameserver.script = lambda query, how: [query.id.to_bytes(2, "big") + b"\x80\x00" + b"\xff" * 40]
    with pytest.raises(Unavailable):
        await resolver(nameserver, timeout=0.2).query("example.com", "A")


async def test_d4_truncated_goes_to_tcp(nameserver):
    long = '"' + "x" * 200 + '"'

    def truncate(query, how):
        reply = answer(query, f"@ 300 IN TXT {' '.join([long] * 40)}")
        if how == "udp":
            reply = answer(query)
            reply.flags |= dns.flags.TC
        return [reply.to_wire(max_size=65535)]

    nameserver.script = truncate
    assert len((await resolver(nameserver).query("example.com", "TXT")).records[0]) == 8000
    assert [how for _, _, how in nameserver.asked] == ["udp", "tcp"]


async def test_tcp_that_says_nothing_is_unavailable(nameserver):
    def truncate(query, how):
        reply = answer(query)
        reply.flags |= dns.flags.TC
        return [reply.to_wire()] if how == "udp" else []

    nameserver.script = truncate
    with pytest.raises(Unavailable):
        await resolver(nameserver, timeout=0.3).query("example.com", "A")


async def test_cname_chain_in_one_answer_and_over_several(nameserver):
    nameserver.script = script("@ 300 IN CNAME b.example.com.", "b.example.com. 100 IN A 192.0.2.1")
    dns = resolver(nameserver)
    found = await dns.query("a.example.com", "A")
    assert found.records == ("192.0.2.1",) and found.ttl == 100

    def by_steps(query, how):
        if query.question[0].name.to_text() == "c.example.com.":
            return [answer(query, "@ 300 IN CNAME d.example.com.").to_wire()]
        return [answer(query, "@ 60 IN A 192.0.2.2").to_wire()]

    nameserver.script = by_steps
    assert (await dns.query("c.example.com", "A")).records == ("192.0.2.2",)


async def test_d4_endless_cname_chain_is_unavailable(nameserver):
    def endless(query, how):
        number = int(query.question[0].name.to_text()[1:].split(".")[0])
        return [answer(query, f"@ 300 IN CNAME n{number + 1}.example.com.").to_wire()]

    nameserver.script = endless
    with pytest.raises(Unavailable, match="CNAME"):
        await resolver(nameserver).query("n0.example.com", "A")
    assert len(nameserver.asked) <= 10


async def test_formerr_to_edns_is_asked_again_without(nameserver):
    def old(query, how):
        return [answer(query, *(["@ 300 IN A 192.0.2.1"] if query.edns < 0 else []), rcode=query.edns >= 0).to_wire()]

    nameserver.script = old
    assert (await resolver(nameserver).query("example.com", "A")).records == ("192.0.2.1",)


async def test_stale_is_served_when_nobody_answers(nameserver):
    nameserver.script = script("@ 1 IN A 192.0.2.1")
    dns = resolver(nameserver)
    await dns.query("example.com", "A")
    nameserver.script = script(rcode=2)
    await asyncio.sleep(1.05)
    assert dns.cached("example.com", "A") is None
    found = await dns.query("example.com", "A")
    assert found.stale and found.records == ("192.0.2.1",)
    asked = len(nameserver.asked)
    assert (await dns.query("example.com", "A")).stale
    assert len(nameserver.asked) == asked


async def test_zone_comes_first(nameserver):
    dns = resolver(nameserver, zone=b"$TTL 60\nmx.example.com. A 192.0.2.9\n")
    assert dns.cached("MX.example.com", "A").records == ("192.0.2.9",)
    assert (await dns.query("mx.example.com", "A")).records == ("192.0.2.9",)
    assert nameserver.asked == []


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example.com", "y." * 130, "\\"])
async def test_what_cannot_be_a_name_does_not_exist(nameserver, name):
    assert (await resolver(nameserver).query(name, "A")).exists is False
    assert nameserver.asked == []


def ptr(names, forwards):
    def reply(query, how):
        name = query.question[0].name.to_text()
        if name.endswith("in-addr.arpa."):
            return [answer(query, *(f"@ 60 IN PTR {n}." for n in names), rcode=0 if names else 3).to_wire()]
        address = forwards.get(name.rstrip("."))
        if address == "servfail":
            return [answer(query, rcode=2).to_wire()]
        return [answer(query, *([f"@ 60 IN A {address}"] if address else [])).to_wire()]

    return reply


@pytest.mark.parametrize(
    ("names", "forwards", "expected"),
    [
        (["mx.example.com"], {"mx.example.com": "192.0.2.1"}, ("mx.example.com", "mx.example.com", "pass")),
        (["mx.example.com"], {"mx.example.com": "192.0.2.2"}, ("unknown", "mx.example.com", "fail")),
        (["mx.example.com"], {}, ("unknown", "mx.example.com", "fail")),
        ([], {}, ("unknown", "unknown", "none")),
        (["mx.example.com"], {"mx.example.com": "servfail"}, ("unknown", "mx.example.com", "temperror")),
        (["bad\\032name.example.com"], {}, ("unknown", "unknown", "none")),
    ],
)
async def test_client_name(nameserver, names, forwards, expected):
    nameserver.script = ptr(names, forwards)
    assert await resolver(nameserver).client_name("192.0.2.1") == expected


async def test_client_name_asks_at_most_six_questions(nameserver):
    nameserver.script = ptr([f"h{n}.example.com" for n in range(40)], {})
    assert (await resolver(nameserver).client_name("192.0.2.1")).proof == "fail"
    assert len([one for one in nameserver.asked if one[2] == "udp"]) <= 6


async def test_client_name_without_dns_is_temperror(nameserver):
    nameserver.script = script(rcode=2)
    assert (await resolver(nameserver).client_name("192.0.2.1")).proof == "temperror"


async def test_client_name_of_a_unix_socket_is_not_asked(nameserver):
    assert (await resolver(nameserver).client_name("local")).proof == "unknown"
    assert nameserver.asked == []


def test_system_nameservers(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nsearch a b\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver\n")
    assert system_nameservers(str(file)) == ["192.0.2.1", "fe80::1"]
    assert system_nameservers(str(tmp_path / "none")) == ["127.0.0.1"]


@pytest.mark.parametrize("bad", ["dns.example.com", "1.2.3", "127.0.0.1:x"])
def test_a_server_must_be_an_address(bad):
    with pytest.raises(ValueError, match=r".+"):
        Resolver([bad])


async def test_questions_asked_together_answer_in_their_order(nameserver):
    def by_name(query, how):
        bad = query.question[0].name.to_text().startswith("bad")
        return [answer(query, *([] if bad else ["@ 300 IN A 192.0.2.1"]), rcode=2 if bad else 0).to_wire()]

    nameserver.script = by_name
    dns = resolver(nameserver)
    await dns.query("known.example.com", "A")
    asked = [(f"{name}.example.com", "A") for name in ("a", "bad", "known", "a", "b")]
    found = await dns.query_all(asked)
    assert isinstance(found[1], Unavailable)
    assert [one.name for number, one in enumerate(found) if number != 1] == [a for a, _ in (asked[0], *asked[2:])]
    assert len(nameserver.asked) == 4
    assert await dns.query_all([]) == []


async def test_d4_an_answer_to_something_else_is_not_asked_for_again(nameserver):
    nameserver.script = script("other.example.com. 300 IN A 192.0.2.1")
    with pytest.raises(Unavailable, match="rubbish"):
        await resolver(nameserver).query("example.com", "A")
    assert len(nameserver.asked) == 1


async def test_d4_more_questions_at_once_than_allowed_are_unavailable(nameserver, monkeypatch):
    monkeypatch.setattr(resolver_module, "_MAX_IN_FLIGHT", 3)
    nameserver.script, nameserver.delay = script("@ 300 IN A 192.0.2.1"), 0.05
    found = await resolver(nameserver).query_all([(f"{n}.example.com", "A") for n in range(5)])
    assert [isinstance(one, Unavailable) for one in found] == [False, False, False, True, True]


async def test_d4_what_is_over_the_quota_of_a_message_is_not_asked(nameserver):
    nameserver.script = script("@ 300 IN A 192.0.2.1")
    dns = resolver(nameserver)
    await dns.query("known.example.com", "A")
    before = quota.current.set(quota.Quota(2))
    try:
        names = ["known", "a", "b", "c"]
        found = await dns.query_all([(f"{name}.example.com", "A") for name in names])
    finally:
        quota.current.reset(before)
    assert [isinstance(one, Unavailable) for one in found] == [False, False, False, True]
    assert "more than 2 DNS questions" in str(found[3])
    assert (await dns.query("c.example.com", "A")).records == ("192.0.2.1",), "and that is nobody else's trouble"


async def test_stale_is_served_at_once_when_the_servers_are_slow(nameserver, monkeypatch):
    monkeypatch.setattr(resolver_module, "_STALE_AFTER", 0.05)
    nameserver.script = script("@ 1 IN A 192.0.2.1")
    dns = resolver(nameserver, timeout=5.0)
    first = await dns.query("example.com", "A")
    monkeypatch.setattr(dns._cache, "get", lambda key, now: None)
    nameserver.delay = 4.0
    begun = time.monotonic()
    found = await dns.query("example.com", "A")
    assert found.stale and found.records == first.records and time.monotonic() - begun < 3.5
    assert len(nameserver.asked) == 2, "the fresh answer is on its way all the same"


async def test_a_question_carries_edns_1232(nameserver):
    sizes = []

    def look(query, how):
        sizes.append((query.edns, query.payload))
        return [answer(query, "@ 300 IN A 192.0.2.1").to_wire()]

    nameserver.script = look
    await resolver(nameserver).query("example.com", "A")
    assert sizes == [(0, 1232)]


async def test_one_odd_formerr_does_not_turn_edns_off_for_good(nameserver):
    nameserver.script = script(rcode=1)
    dns = resolver(nameserver)
    with pytest.raises(Unavailable, match="FORMERR"):
        await dns.query("odd.example.com", "A")
    assert dns.upstreams[0].edns
    nameserver.script = lambda query, how: [answer(query, rcode=query.edns >= 0, soa="com. 60 60").to_wire()]
    await dns.query("b.example.com", "A")
    assert not dns.upstreams[0].edns


async def test_domains_that_fail_are_not_the_fault_of_the_server(nameserver):
    nameserver.script = script(rcode=2)
    dns = resolver(nameserver)
    for number in range(5):
        with pytest.raises(Unavailable):
            await dns.query(f"{number}.example.com", "A")
    assert dns.health()["degraded"] == []
    nameserver.script = script(rcode=5)
    for number in range(5, 8):
        with pytest.raises(Unavailable):
            await dns.query(f"{number}.example.com", "A")
    assert [one["what"] for one in dns.health()["degraded"]] == ["no DNS server answers"]
    nameserver.script = script("@ 300 IN A 192.0.2.1")
    await dns.query("well.example.com", "A")
    assert dns.health()["degraded"] == []


async def test_a_server_that_says_no_is_not_asked_twice(nameserver, second_nameserver):
    nameserver.script = second_nameserver.script = script(rcode=2)
    with pytest.raises(Unavailable):
        await resolver(nameserver, second_nameserver).query("example.com", "A")
    assert (len(nameserver.asked), len(second_nameserver.asked)) == (1, 1)


def rubbish(query, how):
    return [query.id.to_bytes(2, "big") + b"\x81\x80" + b"\0\1\0\1\0\0\0\0" + query.to_wire()[12:-11] + b"\xff" * 8]


@pytest.mark.parametrize(
    ("play", "result"),
    [
        (script("@ 0 IN A 192.0.2.1"), "answered"),
        (script(rcode=2), "servfail"),
        (script(rcode=5), "refused"),
        (rubbish, "garbage"),
        (lambda query, how: [], "timeout"),
    ],
)
async def test_each_server_is_counted_by_what_it_did(nameserver, play, result):
    nameserver.script = play
    seconds = 0.2 if result in ("timeout", "garbage") else 10.0
    dns, before = resolver(nameserver, timeout=seconds), counted(nameserver.address)
    asked = await dns.query_all([("example.com", "A")])
    assert isinstance(asked[0], Unavailable) is (result != "answered")
    counts = counted(nameserver.address) - before
    assert counts.pop("seconds") == counts[result] == len([one for one in nameserver.asked if one[2] == "udp"])
    assert counts.keys() == {result}


async def test_a_server_that_is_not_there_is_a_network_failure():
    dns, before = Resolver(["127.0.0.1:9"], timeout=0.2), counted("127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        await dns.query("example.com", "A")
    assert (counted("127.0.0.1:9") - before)["network"] == 2


def counted(server):
    """What the metrics say of a server: results, and how many times were taken."""
    found = Counter()
    for line in metrics.exposition().decode().splitlines():
        if f'server="{server}"' in line and (value := float(line.rpartition(" ")[2])):
            if line.startswith("postgate_dns_queries_total"):
                found[line.partition('result="')[2].partition('"')[0]] = value
            elif line.startswith("postgate_dns_seconds_count"):
                found["seconds"] = value
    return found


def test_public_resolvers_are_known():
    dns = Resolver(["127.0.0.1", "8.8.8.8", "2620:fe:0:0::FE", "192.0.2.1:53"])
    assert dns.public() == ["2620:fe::fe (Quad9)", "8.8.8.8 (Google)"]
    assert dns.health()["public"] == dns.public()
    assert Resolver(["127.0.0.1"]).public() == [] and "public" not in Resolver(["127.0.0.1"]).health()
