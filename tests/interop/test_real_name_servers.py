"""The resolver and the watch over DNS lists against real servers: unbound as an operator would run it, NSD behind."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.connectors.dns_lists import DnsLists, Wanted
from appliance.net.resolver import Resolver
from appliance.protocol.errors import Unavailable
from tests.peers import name_servers
from tests.peers.name_servers import NameServers

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not name_servers.available(), reason="Debian packages nsd and unbound are not installed"),
]
SOA = "$TTL 300\n@ SOA ns.example.org. host.example.org. 1 2 3 4 60\n@ NS ns.example.org.\n"
ZONES = {
    "example.org": SOA
    + "ns A 127.0.0.1\n@ A 192.0.2.1\n@ A 192.0.2.2\n@ AAAA 2001:db8::1\n@ MX 10 MX.Example.Org.\n"
    + '@ TXT "v=spf1 " "-all"\nmx A 192.0.2.9\nshort 1 A 192.0.2.7\n'
    + "".join(f"c{number} CNAME c{number + 1}\n" for number in range(12))
    + "c12 A 192.0.2.12\nloop1 CNAME loop2\nloop2 CNAME loop1\n"
    + "".join(f'big TXT "{number}{"x" * 200}"\n' for number in range(40)),
    "bl.example": SOA + '2.0.0.127 A 127.0.0.2\n99.2.0.192 A 127.0.0.4\n99.2.0.192 TXT "spam source"\n',
    "dead.example": SOA + "*.0.0.127 A 127.0.0.2\n",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServers]:
    folder: Path = tmp_path_factory.mktemp("dns")
    made = NameServers(folder, ZONES)
    try:
        yield made.start()
    finally:
        made.stop()


async def test_records_of_every_type(servers: NameServers) -> None:
    dns = Resolver([servers.recursive])
    assert set((await dns.query("example.org", "A")).records) == {"192.0.2.1", "192.0.2.2"}
    assert (await dns.query("example.org", "AAAA")).records == ("2001:db8::1",)
    assert (await dns.query("EXAMPLE.org.", "MX")).records == ("10 mx.example.org",)
    assert (await dns.query("example.org", "TXT")).records == ("v=spf1 -all",)
    assert (await dns.query("example.org", "SOA")).records == ("ns.example.org. host.example.org. 1 2 3 4 60",)
    assert (await dns.query("1.0.0.127.in-addr.arpa", "PTR")).records == ("localhost",)


async def test_what_does_not_fit_comes_over_tcp(servers: NameServers) -> None:
    for server in (servers.recursive, servers.authoritative):
        found = await Resolver([server]).query("big.example.org", "TXT")
        assert len(found.records) == 40 and sum(map(len, found.records)) > 8000


@pytest.mark.parametrize(("name", "exists"), [("nobody.example.org", False), ("mx.example.org", True)])
async def test_negative_answers_live_as_their_soa_says(name: str, exists: bool, servers: NameServers) -> None:
    dns = Resolver([servers.recursive])
    found = await dns.query(name, "MX")
    assert (found.records, found.exists) == ((), exists)
    kept = dns.cached(name, "MX")
    assert kept is not None and 0 < kept.ttl <= 60


async def test_chains_of_names(servers: NameServers) -> None:
    dns = Resolver([servers.recursive])
    assert (await dns.query("c6.example.org", "A")).records == ("192.0.2.12",)
    for name in ("c0.example.org", "loop1.example.org"):
        with pytest.raises(Unavailable):
            await dns.query(name, "A")


async def test_a_domain_whose_servers_are_gone_and_a_server_that_refuses_are_unavailable(servers: NameServers) -> None:
    with pytest.raises(Unavailable, match=r"SERVFAIL|in time"):  # unbound takes its time with servers that are gone
        await Resolver([servers.recursive], timeout=2.0).query("www.broken.example", "A")
    with pytest.raises(Unavailable, match="REFUSED"):
        await Resolver([servers.authoritative]).query("example.com", "A")
    both = Resolver([servers.authoritative, servers.recursive])
    assert (await both.query("1.0.0.127.in-addr.arpa", "PTR")).records == ("localhost",)


async def test_a_server_that_goes_and_comes_back(servers: NameServers) -> None:
    dns = Resolver([servers.recursive])
    await dns.query("short.example.org", "A")
    servers.stop_recursive()
    try:
        async with asyncio.timeout(30):
            while dns.cached("short.example.org", "A") is not None:
                await asyncio.sleep(0.05)
        found = await dns.query("short.example.org", "A")
        assert found.stale and found.records == ("192.0.2.7",)
        with pytest.raises(Unavailable):
            await dns.query("mx.example.org", "A")
    finally:
        await asyncio.to_thread(servers.start_recursive)
    assert (await dns.query("ns.example.org", "A")).records == ("127.0.0.1",)


async def test_lists_are_tested_by_their_entries(servers: NameServers) -> None:
    dns, lists = Resolver([servers.recursive]), DnsLists(says=False)
    lists.follow(
        dns, [Wanted("bl.example", "address"), Wanted("dead.example", "address"), Wanted("example.org", "domain")]
    )
    lists.start()
    async with asyncio.timeout(30):
        while "not yet" in lists.facts().values():
            await asyncio.sleep(0.01)
    lists.close()
    assert lists.facts() == {
        "bl.example (address)": "well",
        "dead.example (address)": "it lists everything",
        "example.org (domain)": "its test entry is not listed",
    }
