import pytest

from appliance.net.hosts import parse
from appliance.net.mx import MAX_PLACES, MailHosts, NoPlace, Place
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable


class Records:
    """A resolver over a dict; a value None is SERVFAIL, a missing name NXDOMAIN."""

    def __init__(self, **records: list[str] | None) -> None:
        self.records = {tuple(key.rsplit("__", 1)): value for key, value in records.items()}

    def health(self) -> dict[str, object]:
        return {}

    async def query(self, name: str, rtype: str) -> Answer:
        key = (name.replace(".", "_"), rtype)
        if key in self.records and self.records[key] is None:
            raise Unavailable("SERVFAIL")
        exists = any(owner == key[0] for owner, _ in self.records)
        return Answer(name, rtype, tuple(self.records.get(key) or ()), 60, exists)


def hosts(file: str = "", **records) -> MailHosts:
    return MailHosts(Records(**records), parse(file), "gw.example.com")


async def test_mx_in_order_of_preference():
    found = await hosts(
        example_com__MX=["20 b.example.com", "10 a.example.com"],
        a_example_com__A=["192.0.2.1"],
        a_example_com__AAAA=["2001:db8::1"],
        b_example_com__A=["192.0.2.2"],
    ).places("Example.COM", True)
    assert found == [
        Place("a.example.com", "192.0.2.1"),
        Place("a.example.com", "2001:db8::1"),
        Place("b.example.com", "192.0.2.2"),
    ]


async def test_equal_preferences_take_turns():
    dns = hosts(d__MX=["10 a", "10 b"], a__A=["192.0.2.1"], b__A=["192.0.2.2"])
    firsts = {(await dns.places("d", True))[0].host for _ in range(60)}
    assert firsts == {"a", "b"}


async def test_no_mx_is_the_domain_itself():
    assert await hosts(d__A=["192.0.2.1"]).places("d", True) == [Place("d", "192.0.2.1")]


async def test_brackets_mean_no_mx():
    assert await hosts(d__MX=["1 other"], d__A=["192.0.2.1"]).places("[d]", False) == [Place("d", "192.0.2.1")]


@pytest.mark.parametrize("name", ["[192.0.2.7]", "192.0.2.7", "[IPv6:2001:db8::7]", "[2001:db8::7]"])
async def test_an_address_is_itself(name):
    (place,) = await hosts().places(name, True)
    assert place.address in ("192.0.2.7", "2001:db8::7")


@pytest.mark.parametrize(
    ("records", "status"),
    [
        ({}, "5.4.4"),
        ({"d__MX": ["0 ."]}, "5.1.10"),
        ({"d__MX": ["10 gw.example.com", "20 b"], "b__A": ["192.0.2.2"]}, "5.4.6"),
        ({"d__MX": ["10 nowhere"]}, "5.4.4"),
    ],
)
async def test_no_place(records, status):
    with pytest.raises(NoPlace) as caught:
        await hosts(**records).places("d", True)
    assert caught.value.status == status


async def test_better_hosts_than_ourselves_are_used():
    dns = hosts(d__MX=["5 b", "10 gw.example.com", "20 c"], b__A=["192.0.2.2"], c__A=["192.0.2.3"])
    assert await dns.places("d", True) == [Place("b", "192.0.2.2")]


@pytest.mark.parametrize(
    "records",
    [{"d__MX": None}, {"d__MX": ["10 a"], "a__A": None}, {"d__MX": ["10 a", "20 b"], "a__A": None, "b__TXT": []}],
)
async def test_no_answer_is_not_no_place(records):
    with pytest.raises(Unavailable):
        await hosts(**records).places("d", True)


async def test_one_family_that_fails_does_not_hide_the_other():
    assert await hosts(d__A=["192.0.2.1"], d__AAAA=None).places("d", False) == [Place("d", "192.0.2.1")]


async def test_the_hosts_file_comes_first_and_only_for_places():
    file = "# c\n192.0.2.9 inner Inner.example.com # x\nfe80::1%lo bad\nnonsense\n192.0.2.10 inner\n"
    found = await hosts(file).places("[inner]", False)
    assert found == [Place("inner", "192.0.2.9"), Place("inner", "192.0.2.10")]


async def test_at_most_five_places():
    dns = hosts(d__A=[f"192.0.2.{n}" for n in range(1, 20)])
    assert len(await dns.places("d", False)) == MAX_PLACES
