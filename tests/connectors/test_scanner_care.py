"""What a scanner is spared and how it is looked after: turns, failover, breaker, joining, health, self-test (C7, D1)."""

import asyncio
import os
import tempfile
from collections.abc import Callable

import pytest

from appliance.connectors import breaker, checkup, scanner
from appliance.connectors.checkup import Checkup
from appliance.connectors.conversation import Server
from appliance.connectors.scanner import Scanner, Settings
from appliance.connectors.scanners import Scanners
from appliance.connectors.source import TRACE
from appliance.daemons.fronts import trace
from appliance.mail.context import Client, Tls
from appliance.mail.own_trace import own_trace
from appliance.observe import metrics, oplog
from tests.connectors.scanner_peer import (
    FOUND,
    MAIL,
    Message,
    Peer,
    context,
    hangs,
    hangs_up,
    make,
    says,
    says_when_found,
    says_when_told,
    whole_stream,
)
from tests.peers.good_scanners import CLEAN

NOBODY = Server(host="127.0.0.1", port=1)


class OnDisk(Message):
    """Large content, in a file that its owner may close at any time."""

    def __init__(self, octets: bytes) -> None:
        super().__init__(octets)
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the test
        self.file.write(octets)
        self.file.flush()

    def open_fd(self) -> int:
        return os.open(f"/proc/self/fd/{self.file.fileno()}", os.O_RDONLY)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_only_so_many_at_a_time_and_waiting_counts() -> None:
    async with Peer(says_when_told(CLEAN)) as peer:
        scanner = make(peer.server, concurrency=2, timeout=0.5)
        scans = [asyncio.create_task(scanner.scan(Message(MAIL + b"%d" % n), context(f"T{n}"))) for n in range(6)]
        results = await asyncio.gather(*scans)
    assert peer.most_open == 2
    assert {result.kind for result in results} == {"error"}
    assert any("waiting for its turn" in result.why for result in results)
    assert all(result.seconds < 2 for result in results)


@pytest.mark.parametrize("first", [NOBODY, Server(path="/nowhere/clamd.sock"), hangs_up])
async def test_the_next_server_is_asked_where_one_gives_no_answer(first: object) -> None:
    async with Peer(says(FOUND)) as good, Peer(hangs_up) as bad:
        scanner = make(first if isinstance(first, Server) else bad.server, good.server)
        assert (await scanner.scan(Message(), context())).kind == "infected"
        before = bad.connections
        assert (await scanner.scan(Message(MAIL + b"2"), context())).kind == "infected"
    assert bad.connections == before, "who failed a moment ago is asked last"


async def test_an_answer_that_makes_no_sense_is_not_asked_for_again() -> None:
    async with Peer(says(b"WHAT\0")) as odd, Peer(says(CLEAN)) as good:
        assert (await make(odd.server, good.server).scan(Message(), context())).kind == "error"
    assert good.connections == 0


async def test_identical_content_is_scanned_once() -> None:
    again = MAIL.replace(b"id 1", b"id 2")
    async with Peer(says_when_told(FOUND)) as peer:
        scanner = make(peer.server)
        first = asyncio.create_task(scanner.scan(Message(), context("T1")))
        await peer.arrived.wait()
        second = asyncio.create_task(scanner.scan(Message(again), context("T2")))
        other = asyncio.create_task(scanner.scan(Message(MAIL + b"other"), context("T3")))
        await until(lambda: peer.connections == 2)
        peer.go.set()
        results = await asyncio.gather(first, second, other)
    assert [result.kind for result in results] == ["infected"] * 3
    assert peer.connections == 2


async def test_c7_a_folded_line_below_our_trace_field_is_content() -> None:
    async with Peer(says_when_found(b"EICAR", FOUND, CLEAN)) as peer:
        scanner = make(peer.server)
        top, _, rest = MAIL.partition(b"Subject")
        kinds = []
        for lead in (b" harmless\r\n", b" EICAR\r\n", b" \r\n\tEICAR\r\n", b"\tEICAR\r\n"):
            kinds.append((await scanner.scan(Message(top + lead + b"Subject" + rest), context())).kind)
    assert kinds == ["clean", "infected", "infected", "infected"]
    assert peer.connections == 4


@pytest.mark.parametrize("recipient", ["", "user@example.com"])
@pytest.mark.parametrize("tls", [None, Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)])
def test_the_trace_field_is_known_in_every_shape(recipient: str, tls: Tls | None) -> None:
    client = Client(address="192.0.2.1", name="a.example.org", tls=tls)
    field = trace.received(
        hostname="mx.example.com",
        client=client,
        helo="a.example.org",
        with_="ESMTP",
        transaction="T1",
        recipient=recipient,
        now=1_700_000_000.0,
    )
    for follows in (b"Subject: x\r\n\r\n", b"\tby x\r\n\ty\r\n", b" x\r\n", b"\r\n"):
        assert own_trace(field + follows) == len(field)
    assert own_trace(TRACE + b" x\r\n") == len(TRACE)
    assert own_trace(b"Subject: x\r\n\r\n") == 0


async def test_a_scan_ends_only_when_nobody_waits_and_needs_no_session() -> None:
    content = OnDisk(MAIL + b"x" * 300_000)
    async with Peer(says_when_told(FOUND)) as peer:
        peer_scanner = make(peer.server)
        first = asyncio.create_task(peer_scanner.scan(content, context("T1")))
        await asyncio.sleep(0)
        second = asyncio.create_task(peer_scanner.scan(OnDisk(content.octets), context("T2")))
        await until(lambda: peer_scanner._joining.joined == 1)
        first.cancel()
        content.file.close()
        peer.go.set()
        assert (await second).kind == "infected"
        assert peer.heard == [content.octets] and peer.connections == 1
        peer.go.clear()
        alone = asyncio.create_task(peer_scanner.scan(Message(), context("T3")))
        await until(lambda: peer.open == 1)
        alone.cancel()
        await until(lambda: len(peer_scanner._joining) == 0)


async def test_no_descriptor_is_left_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with Peer(hangs_up) as peer:
        scanner = make(peer.server, NOBODY)
        contents = [OnDisk(MAIL + b"%d" % n + b"x" * 100_000) for n in range(3)]
        for content in (*contents, contents[0]):
            await scanner.scan(content, context())
        for content in contents:
            content.file.close()
        scanner.close()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)


async def test_spamd_scans_are_joined_only_for_the_same_sender() -> None:
    peers: list[bytes] = []

    async def spamd(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(await reader.read())
        await peer.go.wait()
        writer.write(b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; 0.0 / 5.0\r\n\r\n")

    async with Peer(spamd) as peer:
        scanner = make(peer.server, kind="spamd")
        clients = ("192.0.2.1", "192.0.2.1", "192.0.2.2")
        scans = [asyncio.create_task(scanner.scan(Message(), context(client=client))) for client in clients]
        await until(lambda: len(peers) == 2)
        peer.go.set()
        await asyncio.gather(*scans)
    assert peer.connections == 2


async def test_the_breaker_opens_after_failures_and_closes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST", 0.01)
    well = False

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if well:
            await says(CLEAN)(peer, reader, writer)

    async with Peer(act) as peer:
        scanner = make(peer.server)
        scanner.breaker = breaker.Breaker(scanner._is_well, first=0.01, longest=0.02)
        for number in range(breaker.THRESHOLD):
            assert not scanner.breaker.is_open
            await scanner.scan(Message(MAIL + b"%d" % number), context())
        assert scanner.breaker.is_open
        result = await scanner.scan(Message(), context())
        assert result.kind == "error" and "left alone" in result.why and result.seconds < 0.9
        asked = peer.connections
        await until(lambda: peer.connections > asked + 1)  # our own probes, not anybody's mail
        assert scanner.breaker.is_open and peer.heard == []
        well = True
        await until(lambda: not scanner.breaker.is_open)
        assert scanner.condition.wrong == {}
        assert (await scanner.scan(Message(), context())).kind == "clean"


async def test_errors_that_clamd_reports_do_not_open_the_breaker() -> None:
    async with Peer(says(b"stream: Can't unpack ERROR\0")) as peer:
        scanner = make(peer.server)
        for number in range(breaker.THRESHOLD * 2):
            assert (await scanner.scan(Message(MAIL + b"%d" % number), context())).kind == "error"
    assert not scanner.breaker.is_open and peer.connections == breaker.THRESHOLD * 2


async def test_content_that_never_ends_is_given_up_while_other_mail_is_scanned() -> None:
    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content = await whole_stream(reader)
        if b"poison" in content:
            await reader.read()
        writer.write(CLEAN)

    async with Peer(act) as peer:
        made = make(peer.server, timeout=1.0)
        kinds = []
        for number in range(scanner.ABANDONED + 1):
            poison = asyncio.create_task(made.scan(Message(MAIL + b"poison"), context()))
            await asyncio.sleep(0.05)
            assert (await made.scan(Message(MAIL + b"%d" % number), context())).kind == "clean"
            kinds.append((await poison).kind)
    assert kinds == ["error"] * scanner.ABANDONED + ["unscannable"]


async def test_mail_that_meets_a_hung_scanner_is_put_off_for_ever_not_given_up() -> None:
    async with Peer(hangs) as peer:
        made = make(peer.server, timeout=0.03)
        kinds = {(await made.scan(Message(), context())).kind for _ in range(scanner.ABANDONED + 2)}
    assert kinds == {"error"}


async def test_health_comes_from_real_scans() -> None:
    async with Peer(says(CLEAN)) as peer:
        made = make(peer.server)
        assert made.facts()["state"] == "not asked yet"
        await made.scan(Message(), context("T1"))
        facts = made.facts()
        assert (facts["state"], facts["clean"], facts["breaker"]) == ("well", 1, "closed")
        assert "s ago" in facts["last answer"]
    await made.scan(Message(MAIL + b"2"), context("T2"))
    facts = made.facts()
    assert (facts["state"], facts["error"]) == ("degraded", 1)
    assert "T2" in facts["not scanned"] and "connect" in facts["last trouble"]


def limited(limit: int, *, finds: bool = True, parts: bool = True) -> Callable[..., object]:
    """A clamd with StreamMaxLength that finds EICAR or does not, or does not in parts that are no mail."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(10) == b"zINSTREAM\0"
        content, size = b"", 0
        while length := int.from_bytes(await reader.readexactly(4), "big"):
            size += length
            if size > limit:
                writer.write(b"INSTREAM size limit exceeded. ERROR\0")
                return
            content += await reader.readexactly(length)
        peer.heard.append(content)
        seen = b"WDVPIVAlQEFQWzRcUFpYNTQoUF4pN0NDKTd9JEVJQ0FS" in content or b"$EICAR-STANDARD" in content
        writer.write(FOUND if finds and seen and (parts or content.startswith(b"Received")) else CLEAN)

    return act


@pytest.mark.parametrize("limit", [1, 1000, 1024 * 1024, 26214400, 26214401, 30 * 1024 * 1024 - 1, 52428799])
async def test_c7_the_limits_of_both_sides_are_compared(limit: int) -> None:
    async with Peer(limited(limit)) as peer:  # type: ignore[arg-type]
        made = make(peer.server)
        await made.learn_limit(52428800)
        assert made.taken == made.limit == limit
        assert peer.connections <= 40
        await Checkup(made, 52428800, eicar=False).run()
        assert str(limit) in made.condition.wrong["size"] and "size_limit" in made.condition.wrong["size"]
        await Checkup(made, limit, eicar=False).run()
        assert "size" not in made.condition.wrong


async def test_c7_a_limit_that_is_large_enough_costs_one_question() -> None:
    async with Peer(limited(52428800)) as peer:  # type: ignore[arg-type]
        made = make(peer.server)
        await made.learn_limit(52428800)
    assert (made.taken, made.limit_known, peer.connections) == (0, True, 1)


async def test_c7_the_self_test_finds_eicar_inside_a_mail() -> None:
    async with Peer(limited(10**9)) as peer:  # type: ignore[arg-type]
        test = Checkup(make(peer.server), 1000, eicar=True)
        await test.run()
    assert test.tested.startswith("found") and test.scanner.condition.wrong == {}
    assert peer.heard[0].startswith(b"Received: ")
    assert test.wait(asyncio.get_running_loop().time()) == pytest.approx(checkup.EVERY, abs=5)


async def test_c7_alarm_if_eicar_is_not_found_in_a_part() -> None:
    async with Peer(limited(10**9, parts=False)) as peer:  # type: ignore[arg-type]
        test = Checkup(make(peer.server), 1000, eicar=True)
        await test.run()
    assert "as a part of its own" in test.scanner.condition.wrong["self-test"]


@pytest.mark.parametrize("away", [False, True])
async def test_c7_alarm_if_eicar_is_not_found(away: bool, capfd: pytest.CaptureFixture[str]) -> None:
    async with Peer(limited(10**9, finds=False)) as peer:  # type: ignore[arg-type]
        test = Checkup(make(NOBODY if away else peer.server), 1000, eicar=True)
        await test.run()
        said = test.scanner.condition.wrong["self-test"]
        assert ("could not be made" if away else "DOES NOT FIND") in said
        oplog.flush()
        lines = capfd.readouterr().err
        assert ("EICAR was not found" in lines) is not away, "who is away may find it all the same"
        assert "topic=self-test" in lines
        assert test.wait(asyncio.get_running_loop().time()) <= checkup.AGAIN
        if not away:
            peer.act = limited(10**9)  # type: ignore[assignment]
            await test.run()
            assert test.scanner.condition.wrong == {}


async def test_scanners_outlive_reloads_and_are_looked_after() -> None:
    async with Peer(limited(10**9)) as peer:  # type: ignore[arg-type]
        entry = Settings("av", "clamd", (peer.server,))
        scanners = Scanners(tests=True)
        first = scanners.follow([entry], 1000)
        scanners.start()
        await until(lambda: peer.heard)
        await until(lambda: "self-test" in scanners.facts()["scanner av (clamd)"])
        assert scanners.degraded == []
        assert scanners.follow([Settings("av", "clamd", (peer.server,))], 1000)["av"] is first["av"]
        changed = scanners.follow([Settings("av", "clamd", (NOBODY,))], 1000)
        assert changed["av"] is not first["av"]
        await until(lambda: len(scanners.degraded) == 2)
        assert isinstance(first["av"], Scanner)
        assert (await first["av"].scan(Message(), context())).kind == "clean", "who holds the old one may use it"
        scanners.close()


def degraded(name: str) -> str:
    """What /metrics says of a scanner."""
    said = metrics.exposition().decode().splitlines()
    return next(
        line.rpartition(" ")[2] for line in said if line.startswith(f'postgate_scanner_degraded{{scanner="{name}"')
    )


async def test_the_metric_is_about_the_scanner_in_force() -> None:
    """A reload that is only prepared, and perhaps refused, makes a scanner of the same name."""
    scanners = Scanners(tests=False)
    old, new = Settings("metered", "clamd", (NOBODY,)), Settings("metered", "clamd", (NOBODY, NOBODY))
    first = scanners.follow([old], 0)["metered"]
    assert degraded("metered") == "0.0"
    first.condition.says("answers", "it fails")
    prepared = scanners.find([new])
    assert degraded("metered") == "1.0" and prepared["metered"] is not first
    scanners.follow([new], 0)
    assert degraded("metered") == "0.0"
    prepared["metered"].condition.says("answers", "it fails")
    scanners.follow([], 0)
    assert degraded("metered") == "0.0"
    scanners.close()


@pytest.mark.parametrize("path", ["/nowhere/clamd.sock"])
async def test_a_unix_socket_that_is_not_there(path: str) -> None:
    result = await make(Server(path=path)).scan(Message(), context())
    assert result.kind == "error" and "No such file" in result.why
