"""Policy services as they are reached: reuse, failover, retries, one deadline, every fault of threats part 4."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from appliance.connectors import policy
from appliance.connectors.policy import PolicyClients
from appliance.mail.policy_service import Place, Service, parse_place
from appliance.mail.ports import Unavailable
from appliance.protocol.policy import Answer, RequestReader, encode_answer
from tests.peers.hostile import FAULTS, Act, Good, Hostile, answers, trickles

pytestmark = pytest.mark.asyncio
ASK = {"protocol_state": "RCPT", "sender": "a@example.org", "recipient": "b@example.com"}


async def read(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\n\n")


GOOD = Good(read, encode_answer("PREPEND X-Seen: yes"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(policy.maillog, "capped", lambda _cause, text: lines.append(text))
    monkeypatch.setattr(policy.maillog, "log", lambda text, *_more: lines.append(text))
    return lines


def service(*places: Place | int, **more: object) -> Service:
    known = tuple(place if isinstance(place, Place) else Place(host="127.0.0.1", port=place) for place in places)
    return Service(**({"name": "svc", "places": known, "timeout": 5.0, "tries": 1, "retry_delay": 0.0} | more))  # type: ignore[arg-type]


class Server:
    """A good server that counts connections and requests; `say` and `hangs` (no answer) may be changed. `last`: close
    behind so many answers. `path`: of its unix socket."""

    def __init__(self, last: int = 0, path: Path | None = None) -> None:
        self.connections = self.requests = self.open = 0
        self.path = path
        self.say, self.last, self.hangs = "DUNNO", last, False
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __aenter__(self) -> "Server":
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
            return self
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        self.hang_up()

    async def has(self, connections: int) -> None:
        """Open, in the end."""
        async with asyncio.timeout(5):
            while self.open != connections:
                await asyncio.sleep(0.005)

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self._writers.append(writer)
        requests, here = RequestReader(), 0
        while data := await self._read(reader):
            found: list[dict[str, str]] = []
            requests.feed(data, found)
            for _ in found:
                here += 1
                self.requests += 1
                if not self.hangs:
                    writer.write(encode_answer(self.say))
            if self.last and here >= self.last:
                break
        self.open -= 1
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(4096)
        except ConnectionError:
            return b""


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_every_fault_costs_the_default_in_bounded_time(fault: str, said: list[str]) -> None:
    act: Act | None = FAULTS[fault]
    clients = PolicyClients()
    async with Hostile(GOOD, act) as peer:
        one = service(peer.port, timeout=5.0 if fault == "two_answers" else 1.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        if fault == "two_answers":  # the first counts, the connection is worth nothing any more
            assert (await clients.ask(one, ASK, "ID1")).verb == "PREPEND"
            assert not clients._peers[one].sites[0].idle
        else:
            with pytest.raises(Unavailable, match=r"policy service svc: .*127\.0\.0\.1.*\(\d+\.\d s\)"):
                await clients.ask(one, ASK, "ID1")
            (line,) = said
            assert line.startswith("ID1: policy service svc: ") and f"inet:127.0.0.1:{peer.port}" in line
            (why,) = clients.health()["degraded"]
            assert why["what"] == "policy service svc fails" and why["touched"] == 1 and why["last"] == ["ID1"]
            assert clients.health()["svc"]["default taken"] == "1 time (last: ID1)"
        assert loop.time() - began < 8
        await peer.be(answers)
        assert (await clients.ask(one, ASK, "ID2")).text == "X-Seen: yes", "it is back"
        assert clients.health()["degraded"] == []
    clients.close()
    assert not clients._peers


async def test_a_message_with_many_recipients_is_touched_once_by_reason_in_the_systems_words(
    said: list[str],
) -> None:
    clients = PolicyClients()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    for message in ("ID1", "ID1", "ID2", "ID1"):
        with pytest.raises(Unavailable):
            await clients.ask(service(port), ASK, message)
    (one,) = clients.health()["degraded"]
    assert (one["touched"], one["last"]) == (2, ["ID2", "ID1"])
    assert one["why"].startswith(f"connecting to inet:127.0.0.1:{port}: Connection refused (")
    assert clients.health()["svc"]["default taken"] == "4 times (last: ID2, ID1)"
    clients.close()


async def test_one_octet_at_a_time_is_an_answer() -> None:
    clients = PolicyClients()
    async with Hostile(GOOD, trickles) as peer:
        assert (await clients.ask(service(peer.port), ASK, "ID")).verb == "PREPEND"
    clients.close()


async def test_a_connection_is_used_again_until_it_is_worn() -> None:
    clients = PolicyClients()
    async with Server() as server:
        one = service(server.port, requests=3)
        for _ in range(7):
            assert (await clients.ask(one, ASK, "ID")).verb == "DUNNO"
        assert (server.connections, server.requests) == (3, 7)
        await server.has(1)
        clients.close()
        await server.has(0)


async def test_a_service_on_a_unix_socket(tmp_path: Path) -> None:
    clients = PolicyClients()
    async with Server(path=tmp_path / "s") as server:
        for _ in range(2):
            assert (await clients.ask(service(parse_place(f"unix:{tmp_path}/s")), ASK, "ID")).verb == "DUNNO"
        assert (server.connections, server.requests) == (1, 2)
    clients.close()


async def test_a_connection_is_given_up_when_it_is_old() -> None:
    """However busy it is."""
    clients = PolicyClients()
    async with Server() as server:
        one = service(server.port, ttl=100.0)
        for age, connections in ((99.0, 1), (99.9, 1), (100.0, 2), (50.0, 2)):
            await clients.ask(one, ASK, "ID")
            kept = clients._peers[one].sites[0].idle[0]
            kept.born = asyncio.get_running_loop().time() - age
            await clients.ask(one, ASK, "ID")
            assert server.connections == connections, age
    clients.close()


async def test_an_answer_that_was_put_up_with_is_named(said: list[str]) -> None:
    clients = PolicyClients()
    async with Hostile(Good(read, b"action=OK\r\n\r\n"), answers) as peer:
        assert (await clients.ask(service(peer.port), ASK, "ID")).verb == "OK"
    assert said == ["policy service svc: CR at line ends"]
    clients.close()


async def test_a_place_behind_one_that_hung_up_is_the_step_that_failed(said: list[str]) -> None:
    clients = PolicyClients()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        away = sock.getsockname()[1]
    async with Server(last=1) as server:
        one = service(server.port)
        await clients.ask(one, ASK, "ID")
        port = server.port
    with pytest.raises(Unavailable, match=rf"connecting to inet:127\.0\.0\.1:{port}: Connection refused"):
        await clients.ask(one, ASK, "ID")
    with pytest.raises(Unavailable, match=rf"connecting to inet:127\.0\.0\.1:{away}: Connection refused"):
        await clients.ask(service(port, away), ASK, "ID")
    clients.close()


async def test_a_connection_that_was_closed_meanwhile_costs_no_attempt(said: list[str]) -> None:
    clients = PolicyClients()
    async with Server(last=1) as server:
        one = service(server.port)
        for _ in range(5):
            assert (await clients.ask(one, ASK, "ID")).verb == "DUNNO"
        assert server.connections == 5 and not said
    clients.close()


async def test_an_answer_that_comes_by_itself_is_nobodys() -> None:
    clients = PolicyClients()
    async with Server() as server:
        one = service(server.port)
        await clients.ask(one, ASK, "ID")
        server._writers[0].write(encode_answer("REJECT stale"))
        await server._writers[0].drain()
        kept = clients._peers[one].sites[0].idle[0]
        while kept.fresh(one, kept.born):
            await asyncio.sleep(0)
        assert (await clients.ask(one, ASK, "ID")).verb == "DUNNO"
        assert server.connections == 2
    clients.close()


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = PolicyClients()
    async with Server() as server:
        one = service(server.port, idle=0.0)
        await clients.ask(one, ASK, "ID")
        await clients.ask(one, ASK, "ID")
        assert server.connections == 2
        clients._sweep()
        assert not clients._peers[one].sites[0].idle
    clients.close()


async def test_the_second_place_serves_while_the_first_is_away(tmp_path: Path, said: list[str]) -> None:
    clients = PolicyClients()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        free = sock.getsockname()[1]
    async with Server() as server:
        one = service(parse_place(f"unix:{tmp_path}/nobody"), free, server.port)
        for _ in range(8):
            assert (await clients.ask(one, ASK, "ID")).verb == "DUNNO"
        assert not said
        rests = [site.rests > 0.0 for site in clients._peers[one].sites]
        assert rests == [True, True, False], "who failed is asked last"
    clients.close()


@pytest.mark.parametrize("fault", ["hangs_at_once", "hangs_in_its_answer", "endless", "hangs_up_behind_the_question"])
async def test_the_next_place_serves_where_one_hangs(fault: str, said: list[str]) -> None:
    """In a share of the time; who hung is asked last then."""
    clients = PolicyClients()
    clock = asyncio.get_running_loop().time
    async with Hostile(GOOD, FAULTS[fault]) as hung, Server() as server:
        one = service(hung.port, server.port, timeout=3.0)
        began = clock()
        assert (await clients.ask(one, ASK, "ID")).verb == "DUNNO"
        assert clock() - began < 2.9 and hung.connections == 1
        for _ in range(3):
            assert (await clients.ask(one, ASK, "ID")).verb == "DUNNO"
        assert hung.connections == 1 and server.connections == 1 and not said
        clients._peers[one].sites[0].rests = 0.0
        await hung.be(answers)
        assert (await clients.ask(one, ASK, "ID")).verb == "PREPEND", "the first one is the first again"
    clients.close()


async def test_who_goes_away_says_nothing_of_the_place(said: list[str]) -> None:
    """Clients that hang up while their question is open."""
    clients = PolicyClients()
    async with Hostile(GOOD, FAULTS["hangs_behind_the_question"]) as slow:
        one = service(slow.port, timeout=30.0)
        for number in range(6):
            asking = asyncio.create_task(clients.ask(one, ASK, "ID"))
            while slow.connections <= number:
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait((asking,))
        site = clients._peers[one].sites[0]
        assert not site.breaker.is_open and not site.rests and clients.health()["degraded"] == []
    clients.close()


async def test_all_places_hang_within_the_time_of_all(said: list[str]) -> None:
    clients = PolicyClients()
    clock = asyncio.get_running_loop().time
    async with Hostile(GOOD, FAULTS["hangs_at_once"]) as one, Hostile(GOOD, FAULTS["hangs_at_once"]) as two:
        began = clock()
        with pytest.raises(Unavailable, match=rf"no answer within 3 s, waiting for the answer of .*:{two.port}"):
            await clients.ask(service(one.port, two.port, timeout=3.0, tries=3), ASK, "ID")
        assert 2.7 < clock() - began < 10 and (one.connections, two.connections) == (1, 1)
    clients.close()


async def test_it_is_tried_again_behind_a_pause() -> None:
    clients = PolicyClients()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    clock = asyncio.get_running_loop().time
    began = clock()
    with pytest.raises(Unavailable, match="connecting to "):
        await clients.ask(service(port, tries=3, retry_delay=0.1, timeout=5.0), ASK, "ID")
    assert 0.2 <= clock() - began < 4.0, "two pauses"
    asking = asyncio.create_task(clients.ask(service(port, tries=10, retry_delay=0.05, timeout=5.0), ASK, "ID"))
    await asyncio.sleep(0)
    server = await asyncio.start_server(lambda r, w: answers(GOOD, r, w), "127.0.0.1", port)
    assert (await asking).verb == "PREPEND"
    server.close()
    clients.close()


async def test_an_open_breaker_answers_at_once_and_closes_by_itself(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "Breaker", lambda probe: _quick(probe))
    clients = PolicyClients()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    one = service(port)
    for _ in range(6):
        with pytest.raises(Unavailable):
            await clients.ask(one, ASK, "ID")
    for _ in range(3):
        with pytest.raises(Unavailable, match="left alone after failures: connecting to ") as left:
            await clients.ask(one, ASK, "ID")
        assert str(left.value).count("left alone") == 1
    [why] = clients.health()["degraded"]
    assert why["what"] == "policy service svc fails" and why["why"].startswith("connecting to "), why
    assert clients._peers[one]._unreachable, "whether it is back is looked at all the same"
    server = await asyncio.start_server(lambda r, w: answers(GOOD, r, w), "127.0.0.1", port)
    breaker = clients._peers[one].sites[0].breaker
    async with asyncio.timeout(5):
        while breaker.is_open:
            await asyncio.sleep(0.01)
    assert (await clients.ask(one, ASK, "ID")).verb == "PREPEND"
    assert "policy service svc answers again" in said
    server.close()
    clients.close()


def _quick(probe: object) -> object:
    from appliance.connectors.breaker import Breaker

    return Breaker(probe, first=0.05, longest=0.05)  # type: ignore[arg-type]


async def test_status_notices_that_it_is_back_without_a_question(said: list[str]) -> None:
    clients = PolicyClients()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(Unavailable):
        await clients.ask(service(port), ASK, "ID")
    assert clients.health()["degraded"]
    async with Hostile(GOOD) as peer:
        peer.port = port
        await peer.be(None)
        await peer.be(answers)
        async with asyncio.timeout(5):
            while clients.health()["degraded"]:
                clients._peers[service(port)].look(0.0)
                await asyncio.sleep(0.01)
        assert said[-1] == "policy service svc is there again"
        assert peer.connections and not clients._peers[service(port)].sites[0].idle
    clients.close()


async def test_one_that_hangs_keeps_no_other_waiting() -> None:
    clients = PolicyClients()
    async with Hostile(GOOD, FAULTS["hangs_behind_the_question"]) as hung, Server() as well:
        slow = asyncio.create_task(clients.ask(service(hung.port, name="slow", timeout=2.0), ASK, "ID"))
        for _ in range(20):
            assert (await clients.ask(service(well.port), ASK, "ID")).verb == "DUNNO"
        assert not slow.done()
        with pytest.raises(Unavailable):
            await slow
    clients.close()


async def test_a_reload_keeps_what_stays_and_closes_the_rest() -> None:
    clients = PolicyClients()
    async with Server() as first, Server() as second:
        one, two = service(first.port), service(second.port, name="two")
        clients.follow((one, two))
        await clients.ask(one, ASK, "ID")
        await clients.ask(two, ASK, "ID")
        clients.follow((one,))
        await second.has(0)
        assert list(clients._peers) == [one] and len(clients._peers[one].sites[0].idle) == 1
        await clients.ask(one, ASK, "ID")
        assert first.connections == 1
        clients.close()
        await first.has(0)


async def test_a_connection_of_a_service_that_is_no_longer_asked_is_not_kept() -> None:
    clients = PolicyClients()
    async with Server() as server:
        one = service(server.port, timeout=10.0)
        server.hangs = True
        clients.follow((one,))
        asked = asyncio.create_task(clients.ask(one, ASK, "ID"))
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0)
        clients.follow(())
        server._writers[0].write(encode_answer("DUNNO"))
        assert (await asked).verb == "DUNNO"
        await server.has(0)
    clients.close()


async def test_nothing_leaks_whatever_the_peer_does(said: list[str]) -> None:
    clients = PolicyClients()

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())

    async with Hostile(GOOD) as peer, Server() as well:
        one, two = service(peer.port, timeout=0.3), service(well.port, name="well")
        await clients.ask(one, ASK, "ID")
        await clients.ask(two, ASK, "ID")
        before = count()
        rounds = [act for act in FAULTS.values() if act is not None] * 2 + [answers, trickles]
        for act in rounds:
            await peer.be(act)
            asked = [clients.ask(one, ASK, f"ID{number}") for number in range(8)]
            found = await asyncio.gather(*asked, *(clients.ask(two, ASK, "ID") for _ in range(8)), return_exceptions=True)
            assert not [error for error in found if not isinstance(error, Unavailable | Answer)], found
            assert [one.verb for one in found[8:] if isinstance(one, Answer)] == ["DUNNO"] * 8, "others are served"
            for known in (one, two):
                for site in clients._peers[known].sites:
                    site.breaker.succeeded()
                    while site.idle:
                        site.idle.pop().close()
        await peer.be(None)
        await peer.be(answers)
        async with asyncio.timeout(5):
            while count()[0] > before[0] + 1 or count()[1] > before[1] + 1:
                await asyncio.sleep(0.01)
    clients.close()


async def test_who_is_told_to_sleep_sleeps() -> None:
    loop, clients = asyncio.get_running_loop(), PolicyClients()
    before = loop.time()
    await clients.pause(0.05)
    assert loop.time() - before >= 0.049
    clients.close()
