"""The watch over DNS lists: test entries, one line when a list dies and one when it is well, degraded meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from appliance.connectors import dns_lists
from appliance.connectors.dns_lists import DnsLists, Wanted, judge
from appliance.mail.ports import Unavailable
from appliance.observe import metrics, oplog
from appliance.protocol.dns import Answer
from tests.checks.dns import Dns

WELL = {"2.0.0.127.bl.example A": ["127.0.0.2"], "test.dbl.example A": ["127.0.1.2"]}
LISTS = [Wanted("bl.example", "address"), Wanted("dbl.example", "domain")]
AWAY = ["2.0.0.127.bl.example", "1.0.0.127.bl.example"]


class Server(Dns):
    """A resolver that may be a public one; tells when it was asked."""

    def __init__(self, *args: object, servers: tuple[str, ...] = ()) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.servers = servers
        self.down = False

    def public(self) -> list[str]:
        return list(self.servers)


@pytest.fixture
async def lists(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DnsLists]:
    watch = DnsLists(says=True)
    yield watch
    watch.close()


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[str]]]:
    """The lines of the operators' log since the last call."""

    def read() -> list[str]:
        oplog.flush()
        return [line for line in capfd.readouterr().err.splitlines() if "postgate/dnsbl" in line]

    oplog._seen.clear()
    yield read


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def tested(lists: DnsLists) -> None:
    await until(lambda: "not yet" not in lists.facts().values())


async def again(lists: DnsLists, server: Server, zone: str = "bl.example") -> None:
    """Mail makes the watch test a list at once."""
    asked = len(server.asked)
    for _ in range(dns_lists.FAILURES):
        lists.heard(zone, "address", "no answer")
    await until(lambda: len(server.asked) > asked)
    await asyncio.sleep(0)


OK, NX = Answer("", "A", ("127.0.0.2",)), Answer("", "A", exists=False)
ERROR, ELSEWHERE, SILENT = Answer("", "A", ("127.255.255.254",)), Answer("", "A", ("203.0.113.1",)), Unavailable("no")


@pytest.mark.parametrize(
    ("listed", "unlisted", "entry", "why", "silent"),
    [
        (OK, NX, True, "", False),
        (NX, NX, True, "its test entry is not listed", False),
        (NX, NX, False, "", False),
        (OK, OK, True, "it lists everything", False),
        (OK, OK, False, "it lists everything", False),
        (SILENT, OK, True, "it lists everything", False),
        (ERROR, ERROR, True, "error code 127.255.255.254 (asked through a public resolver)", False),
        (OK, ERROR, True, "error code 127.255.255.254 (asked through a public resolver)", False),
        (ELSEWHERE, ELSEWHERE, True, "203.0.113.1 is no answer of a DNS list", False),
        (SILENT, SILENT, True, "no answer", True),
        (OK, SILENT, True, "no answer", True),
        (SILENT, NX, True, "no answer", True),
    ],
)
def test_what_the_test_entries_tell(
    listed: Answer | Unavailable, unlisted: Answer | Unavailable, entry: bool, why: str, silent: bool
) -> None:
    assert judge(listed, unlisted, entry) == (why, silent)


async def test_lists_that_are_well_say_nothing(lists: DnsLists, lines: Callable[[], list[str]]) -> None:
    server = Server(WELL)
    lists.follow(server, LISTS)
    lists.start()
    await tested(lists)
    assert sorted(server.asked) == [
        "1.0.0.127.bl.example A",
        "2.0.0.127.bl.example A",
        "invalid.dbl.example A",
        "test.dbl.example A",
    ]
    assert lists.facts() == {"bl.example (address)": "well", "dbl.example (domain)": "well"}
    assert (lists.degraded, lists.trouble("bl.example", "address"), lines()) == ([], "", [])


async def test_a_dead_list_says_so_once_and_once_that_it_is_well(lists: DnsLists, lines: Callable[[], list[str]]) -> None:
    server = Server({**WELL, "1.0.0.127.bl.example A": ["127.0.0.2"]})
    lists.follow(server, LISTS)
    lists.start()
    await tested(lists)
    assert lists.trouble("bl.example", "address") == "it lists everything"
    assert lists.trouble("bl.example", "domain") == lists.trouble("dbl.example", "domain") == ""
    assert lists.degraded == ["DNS list bl.example is not asked: it lists everything"]
    assert 'postgate_dns_list_degraded{list="bl.example"} 1.0' in metrics.exposition().decode()
    await again(lists, server)
    said = lines()
    assert (
        len(said) == 1 and "a DNS list is dead and not asked any more: list=bl.example why=it lists everything" in said[0]
    )
    server.records = WELL
    await again(lists, server)
    await until(lambda: lists.trouble("bl.example", "address") == "")
    said = lines()
    assert len(said) == 1 and "a DNS list is well again: list=bl.example" in said[0]
    assert lists.degraded == []
    assert 'postgate_dns_list_degraded{list="bl.example"} 0.0' in metrics.exposition().decode()


async def test_one_test_without_an_answer_is_not_death_two_are(lists: DnsLists, lines: Callable[[], list[str]]) -> None:
    server = Server(WELL, AWAY)
    lists.follow(server, LISTS)
    lists.start()
    await tested(lists)
    assert lists.trouble("bl.example", "address") == "" and lines() == []
    await again(lists, server)
    await until(lambda: lists.trouble("bl.example", "address") == "no answer")
    assert len(lines()) == 1


@pytest.mark.parametrize("down", [False, True])
async def test_a_list_that_answers_mail_again_is_tested_at_once(down: bool, lists: DnsLists) -> None:
    server = Server(WELL, AWAY)
    server.down = down
    lists.follow(server, LISTS)
    lists.start()
    await tested(lists)
    assert lists.facts()["bl.example (address)"] == "no answer"
    server.away = ()
    lists.heard("bl.example", "address", "")
    await until(lambda: lists.facts()["bl.example (address)"] == "well")


async def test_silence_while_no_server_answers_is_no_fault_of_a_list(lists: DnsLists) -> None:
    server = Server(WELL, AWAY)
    server.down = True
    lists.follow(server, LISTS)
    lists.start()
    await tested(lists)
    for _ in range(3):
        await again(lists, server)
    assert lists.trouble("bl.example", "address") == "" and lists.facts()["bl.example (address)"] == "no answer"


async def test_a_single_failure_for_mail_makes_no_test(lists: DnsLists) -> None:
    server = Server(WELL)
    lists.follow(server, LISTS)
    lists.start()
    await tested(lists)
    asked = len(server.asked)
    for _ in range(3):
        for _ in range(dns_lists.FAILURES - 1):
            lists.heard("bl.example", "address", "no answer")
        lists.heard("bl.example", "address", "")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(server.asked) == asked


async def test_other_servers_mean_new_tests_and_the_same_ones_do_not(lists: DnsLists) -> None:
    server = Server(WELL)
    lists.follow(server, LISTS)
    lists.start()
    await tested(lists)
    lists.follow(server, LISTS)
    assert "not yet" not in lists.facts().values()
    other = Server(WELL)
    lists.follow(other, LISTS)
    await tested(lists)
    assert len(other.asked) == 4
    lists.follow(other, [])
    assert lists.facts() == {} and lists.trouble("bl.example", "address") == ""


@pytest.mark.parametrize("configured", [True, False])
async def test_a_public_resolver_is_named_once(configured: bool, lists: DnsLists, lines: Callable[[], list[str]]) -> None:
    wanted = LISTS if configured else []
    server = Server({}, servers=("8.8.8.8 (Google)",))
    lists.follow(server, wanted)
    lists.follow(server, wanted)
    said = [line for line in lines() if "public resolver" in line]
    assert len(said) == 1 and "servers=8.8.8.8 (Google)" in said[0] and ("warning" in said[0]) is configured
    assert [why for why in lists.degraded if "8.8.8.8 (Google)" in why] == (lists.degraded if configured else [])
    lists.follow(Server(WELL), wanted)
    assert not [line for line in lines() if "public resolver" in line] and lists.degraded == []


async def test_without_lists_one_line_says_that_the_check_is_skipped(
    lists: DnsLists, lines: Callable[[], list[str]]
) -> None:
    server = Server({})
    lists.follow(server, [])
    lists.follow(server, [])
    said = lines()
    assert len(said) == 1 and "no DNS list is configured" in said[0]
    lists.follow(server, LISTS)
    assert lines() == []


async def test_only_one_worker_writes_the_lines(lines: Callable[[], list[str]]) -> None:
    other = DnsLists(says=False)
    other.follow(Server({}, servers=("8.8.8.8 (Google)",)), LISTS)
    other.start()
    await tested(other)
    assert other.trouble("bl.example", "address") and lines() == []
    other.close()
