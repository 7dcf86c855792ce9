"""Call-ahead against scripted next hops: what is unknown, what is only not verified, blind hops, joins, limits, cache."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from appliance.connectors import probing
from appliance.connectors.callahead import Callahead
from appliance.connectors.probing import Door, NobodyToAsk, state_of
from appliance.connectors.target import Target, Timeouts
from appliance.mail.ports import Probe, Unavailable
from appliance.net import tls
from appliance.net.mx import NoPlace
from appliance.protocol.smtp.address import Address
from appliance.protocol.smtp.outgoing import Result
from appliance.stores.callahead_cache import DAY, HOUR, CallaheadCache


def address(local: str, domain: str = "example.com") -> Address:
    return Address(local, domain, f"{local}@{domain}")


class Inner:
    """An inner server that answers RCPT from a dictionary of local parts; `default` is for all others."""

    def __init__(self, default: str = "550 5.1.1 no such user", **replies: str) -> None:
        self.default, self.replies = default, replies
        self.mail, self.greeting, self.ehlo = "250 2.1.0 ok", "220 inner ready", "250-inner\r\n250 PIPELINING"
        self.commands: list[str] = []
        self.connections = self.open_now = self.most_open = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.hang_up_after = ""

    async def start(self) -> "Inner":
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            writer.write(f"{self.greeting}\r\n".encode())
            while line := (await reader.readline()).decode():
                self.commands.append(line.strip())
                await self.gate.wait()
                writer.write(f"{self._reply(line)}\r\n".encode())
                if self.hang_up_after and line.upper().startswith(self.hang_up_after):
                    break
        except OSError:
            pass
        finally:
            self.open_now -= 1
            writer.close()

    def _reply(self, line: str) -> str:
        verb = line[:4].upper()
        if verb == "RCPT":
            return self.replies.get(line.partition("<")[2].partition("@")[0], self.default)
        return {"EHLO": self.ehlo, "MAIL": self.mail, "QUIT": "221 bye"}.get(verb, "250 ok")

    def asked(self, local: str) -> int:
        return sum(f"<{local}@" in command for command in self.commands)


Make = Callable[..., Any]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Any] = []

    async def start(inner: Inner, cache: Any = None, **more: Any) -> Callahead:
        await inner.start()
        door = Door("smtp:[inner]:25", Target(host="inner", address="127.0.0.1", port=inner.port))

        async def doors(domain: str) -> list[Door]:
            return [door]

        ahead = Callahead(doors, cache or CallaheadCache(None), hostname="mx.example.com", **more)
        made.extend((ahead, inner))
        return ahead

    yield start
    for one in made:
        if isinstance(one, Callahead):
            await one.close()
        else:
            one.server.close()


async def test_known_and_unknown(make: Make) -> None:
    inner = Inner(bob="250 2.1.5 ok")
    ahead = await make(inner)
    assert (await ahead.probe(address("bob"))).state == "known"
    unknown = await ahead.probe(address("eve"))
    assert (unknown.state, unknown.reply) == ("unknown", "550 5.1.1 no such user")
    assert not any(command.upper().startswith("DATA") for command in inner.commands)
    assert [c for c in inner.commands if c.startswith("MAIL")] == ["MAIL FROM:<>"] * 2


async def test_answers_are_remembered_without_asking_again(make: Make) -> None:
    inner = Inner(bob="250 ok")
    ahead = await make(inner)
    assert ahead.cached(address("bob")) is None
    for _ in range(3):
        await ahead.probe(address("bob"))
        await ahead.probe(address("eve"))
    assert (ahead.cached(address("bob")).state, ahead.cached(address("eve")).state) == ("known", "unknown")
    assert (inner.asked("bob"), inner.asked("eve")) == (1, 1)


async def test_who_asks_for_bob_in_capitals_does_not_spoil_bob(make: Make) -> None:
    ahead = await make(Inner(bob="250 ok"))
    assert (await ahead.probe(address("BOB"))).state == "unknown"
    assert (await ahead.probe(address("bob"))).state == "known"


async def test_session_and_random_question_are_used_once(make: Make) -> None:
    inner = Inner(bob="250 ok", ann="250 ok")
    ahead = await make(inner)
    for local in ("bob", "ann", "eve"):
        await ahead.probe(address(local))
    assert inner.connections == 1
    assert sum("postgate-probe-" in command for command in inner.commands) == 1
    assert inner.commands.count("RSET") == 2


async def test_a_next_hop_that_takes_everything_is_blind(make: Make) -> None:
    inner = Inner(default="250 ok")
    ahead = await make(inner)
    assert (await ahead.probe(address("bob"))).state == "blind"
    assert ahead.cached(address("anybody")).state == "blind"
    assert (await ahead.probe(address("anybody"))).state == "blind"
    assert inner.asked("anybody") == 0
    assert ahead.health()["blind"] == ["example.com"]
    assert "accepts every address" in ahead.health()["degraded"][0]


async def test_our_own_inbox_takes_everything_on_purpose(make: Make) -> None:
    ahead = await make(Inner(default="250 ok"))
    assert (await ahead.probe(address("bob"))).state == "blind"
    ahead.own = {(await ahead.probe(address("bob"))).source}
    assert ahead.health()["blind"] == ["example.com"]
    assert ahead.health()["degraded"] == []


async def test_what_another_next_hop_said_does_not_count_against_anybody(make: Make) -> None:
    """Routes change (from the demo inbox to a real server, say): its "blind" and its "no" are nothing any more."""
    inner = Inner(bob="250 ok")
    ahead = await make(inner)
    cache, now = ahead._cache, time.time()
    assert (await ahead.probe(address("bob"))).state == "known"
    name = (await ahead.probe(address("bob"))).source
    ahead._names_of = lambda domain: {name}
    cache.put("@example.com", Probe("blind", "", now, "lmtp:unix:/old"))
    cache.put("nobody@example.com", Probe("known", "250 ok", now, "lmtp:unix:/old"))
    cache.put("alice@example.com", Probe("unknown", "550 no", now, "lmtp:unix:/old"))
    inner.replies["alice"] = "250 ok"
    assert ahead.cached(address("alice")) is None
    assert (await ahead.probe(address("alice"))).state == "known"
    assert (await ahead.probe(address("carol"))).state == "unknown"
    assert ahead.health()["blind"] == []


async def test_each_address_is_asked_where_its_own_mail_goes() -> None:
    """A transport table sends one user elsewhere, to a server that takes every address."""
    inner, blind = await Inner(bob="250 ok").start(), await Inner().start()
    blind.default = "250 ok"

    def door(name: str, to: Inner) -> Door:
        return Door(name, Target(host=name, address="127.0.0.1", port=to.port))

    async def doors(asked: Address) -> list[Door]:
        return [door("blind", blind) if asked.local == "boss" else door("inner", inner)]

    def names(asked: Address) -> set[str]:
        return {"blind" if asked.local == "boss" else "inner"}

    ahead = Callahead(doors, CallaheadCache(None), hostname="mx.example.com", names_of=names)
    found = [(await ahead.probe(address(name))).state for name in ("bob", "boss", "bob", "nobody")]
    assert found == ["known", "blind", "known", "unknown"]
    assert (await ahead.probe(address("bob"))).source == "inner"
    await ahead.close()
    for server in (inner, blind):
        server.server.close()


async def test_identical_questions_share_one_answer(make: Make) -> None:
    inner = Inner(bob="250 ok")
    inner.gate.clear()
    ahead = await make(inner)
    waiting = [asyncio.create_task(ahead.probe(address("bob"))) for _ in range(20)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()  # one client hangs up: the others still hear
    inner.gate.set()
    assert {probe.state for probe in await asyncio.gather(*waiting[1:])} == {"known"}
    assert inner.asked("bob") == 1


async def test_at_most_so_many_sessions(make: Make) -> None:
    inner = Inner()
    ahead = await make(inner)
    await asyncio.gather(*(ahead.probe(address(f"u{n}")) for n in range(40)))
    assert inner.most_open == probing.CONCURRENCY
    assert sum(inner.asked(f"u{n}") for n in range(40)) == 40


async def test_at_most_so_many_questions(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "BURST", 3.0)
    monkeypatch.setattr(probing, "RATE", 0.0)
    inner = Inner()
    ahead = await make(inner)
    states = [(await ahead.probe(address(f"u{n}"))).state for n in range(5)]
    assert states == ["unknown"] * 3 + ["unverifiable"] * 2


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("greeting", "554 5.7.1 go away"),
        ("greeting", "421 4.3.2 busy"),
        ("greeting", "rubbish without a code"),
        ("mail", "550 5.7.1 your address is blocked"),
        ("default", "450 4.2.0 greylisted"),
        ("default", "550 5.7.1 access denied"),
        ("default", "552 5.2.2 mailbox full"),
        ("default", "421 4.3.2 closing"),
        ("default", "\x00\x01"),
        ("hang_up_after", "MAIL"),
        ("hang_up_after", "EHLO"),
    ],
)
async def test_what_is_not_about_the_mailbox_is_only_not_verified(make: Make, setting: str, value: str) -> None:
    inner = Inner(default="450 4.2.0 later")
    setattr(inner, setting, value)
    ahead = await make(inner)
    assert (await ahead.probe(address("bob"))).state == "unverifiable"
    assert ahead.cached(address("bob")) is None


async def test_a_next_hop_that_is_silent_costs_the_deadline_once(make: Make) -> None:
    inner = Inner()
    inner.gate.clear()
    ahead = await make(inner, deadline=10.0)
    ahead._timeouts = Timeouts.each(0.9)  # the step's own time: a busy machine does not stand still for nine seconds
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await ahead.probe(address("bob"))).state == "unverifiable"
    assert 0.8 < loop.time() - began < 8
    began = loop.time()
    assert (await ahead.probe(address("ann"))).state == "unverifiable"  # it rests
    assert loop.time() - began < 0.8
    assert "timed out while performing the EHLO handshake" in ahead.health()["degraded"][0]["why"]
    inner.gate.set()


async def test_a_next_hop_that_is_away_and_comes_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "REST", 0.0)
    inner = Inner(bob="250 ok")
    ahead = await make(inner)
    inner.server.close()
    await inner.server.wait_closed()
    away = await ahead.probe(address("bob"))
    assert (away.state, "refused" in away.reply) == ("unverifiable", True)
    assert [facts["state"] for facts in ahead.health()["next hops"].values()] == ["in trouble"]
    inner.server = await asyncio.start_server(inner._serve, "127.0.0.1", inner.port)
    assert (await ahead.probe(address("bob"))).state == "known"
    assert ahead.health()["degraded"] == []
    assert [facts["state"] for facts in ahead.health()["next hops"].values()] == ["well"]


async def test_a_dead_kept_session_is_replaced(make: Make) -> None:
    inner = Inner(bob="250 ok")
    ahead = await make(inner)
    inner.hang_up_after = "RSET"
    assert (await ahead.probe(address("eve"))).state == "unknown"
    inner_first = inner.connections
    assert (await ahead.probe(address("bob"))).state == "known"
    assert inner.connections == inner_first + 1


@pytest.mark.parametrize("names", [("one", "two"), ("hop", "hop")])
async def test_the_second_place_answers_when_the_first_is_away(names: tuple[str, str]) -> None:
    inner = await Inner(bob="250 ok").start()
    dead = await Inner().start()
    dead.server.close()
    await dead.server.wait_closed()

    async def doors(domain: str) -> list[Door]:
        ports = zip(names, (dead.port, inner.port), strict=True)
        return [Door(name, Target(host=name, address="127.0.0.1", port=port)) for name, port in ports]

    ahead = Callahead(doors, CallaheadCache(None), hostname="mx.example.com")
    assert (await ahead.probe(address("bob"))).source == names[1]
    assert (await ahead.probe(address("eve"))).state == "unknown"
    await ahead.close()
    inner.server.close()


@pytest.mark.parametrize("error", [Unavailable("DNS away"), NoPlace("no such host", "5.4.4")])
async def test_no_place_to_ask_is_only_not_verified(error: Exception) -> None:
    async def doors(domain: str) -> list[Door]:
        raise error

    ahead = Callahead(doors, CallaheadCache(None), hostname="mx.example.com")
    probe = await ahead.probe(address("bob"))
    assert (probe.state, probe.reply) == ("unverifiable", str(error))


async def test_a_command_takes_whatever_comes() -> None:
    """As Postfix's address verification has it of pipe(8) and discard(8)."""
    ends = [NobodyToAsk("pipe:mailman:lists.example.com")]

    async def doors(asked: Address) -> list[Door]:
        raise ends[0]

    callahead = Callahead(doors, CallaheadCache(None), hostname="gw.example.net")
    found = await callahead.probe(address("talk", "lists.example.com"))
    assert found.state == "known" and found.reply == "pipe:mailman:lists.example.com takes every address"
    assert callahead.health()["degraded"] == [] and callahead.cached(address("talk", "lists.example.com")) is None
    await callahead.close()


async def test_tls_that_is_required_and_not_offered_verifies_nothing() -> None:
    inner = await Inner(bob="250 ok").start()
    target = Target(host="inner", address="127.0.0.1", port=inner.port)
    door = Door("inner", target, "encrypt", tls.client_context("encrypt"))

    async def doors(domain: str) -> list[Door]:
        return [door]

    ahead = Callahead(doors, CallaheadCache(None), hostname="mx.example.com")
    assert "TLS is required" in (await ahead.probe(address("bob"))).reply
    await ahead.close()
    inner.server.close()


@pytest.mark.parametrize(
    ("code", "enhanced", "state"),
    [
        (250, "2.1.5", "known"),
        (251, "", "known"),
        (550, "5.1.1", "unknown"),
        (550, "5.1.10", "unknown"),
        (550, "5.4.1", "unknown"),
        (550, "5.2.1", "unknown"),
        (550, "", "unknown"),
        (553, "", "unknown"),
        (552, "", "unverifiable"),
        (552, "5.2.2", "unverifiable"),
        (501, "", "unverifiable"),
        (550, "5.7.1", "unverifiable"),
        (450, "4.1.1", "unverifiable"),
        (0, "5.6.7", "unverifiable"),
    ],
)
def test_what_a_reply_means(code: int, enhanced: str, state: str) -> None:
    kind = "delivered" if code // 100 == 2 else "failed" if code // 100 == 5 or not code else "deferred"
    assert state_of(Result(kind, code, enhanced, "text", "RCPT TO" if code else "")) == state
    assert state_of(Result(kind, code, enhanced, "text", "MAIL FROM")) == "unverifiable"


class Remote:
    """stated's part of the cache; `away` makes it unavailable."""

    def __init__(self) -> None:
        self.probes: dict[str, tuple[Probe, float]] = {}
        self.away = False

    async def get_probe(self, key: str) -> Probe | None:
        if self.away:
            raise Unavailable("stated: away")
        found = self.probes.get(key)
        return found[0] if found else None

    def put_probe(self, key: str, probe: Probe, keep: float) -> None:
        self.probes[key] = (probe, keep)


class Turned:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("state", "refresh", "keep"), [("known", 7 * DAY, 31 * DAY), ("unknown", 3 * HOUR, 3 * DAY)])
async def test_lives_of_results(state: str, refresh: float, keep: float) -> None:
    clock, remote = Turned(), Remote()
    cache = CallaheadCache(remote, wall=clock, monotonic=clock)
    cache.put("a@example.com", Probe(state, "", clock.now))
    assert remote.probes["a@example.com"][1] == keep
    seen = []
    for age in (0.0, refresh - 1, refresh, keep - 1, keep):
        clock.now = 1_800_000_000.0 + age
        held = await CallaheadCache(remote, wall=clock, monotonic=clock).get("a@example.com")
        seen.append(held.stale if held else None)
    assert seen == [False, False, True, True, None]


async def test_memory_of_a_worker_is_short() -> None:
    clock, remote = Turned(), Remote()
    cache = CallaheadCache(remote, wall=clock, monotonic=clock)
    cache.put("a@example.com", Probe("unknown", "", clock.now))
    assert cache.look("a@example.com") is not None
    clock.now += 61
    assert cache.look("a@example.com") is None
    remote.probes["a@example.com"] = (Probe("known", "", clock.now), 1.0)  # another worker found it
    held = await cache.get("a@example.com")
    assert held is not None and held.probe.state == "known"


async def test_cache_without_stated_and_with_a_cap() -> None:
    clock, remote = Turned(), Remote()
    remote.away = True
    cache = CallaheadCache(remote, cap=2, wall=clock, monotonic=clock)
    for n in range(3):
        cache.put(f"u{n}@example.com", Probe("known", "", clock.now))
    assert await cache.get("u0@example.com") is None
    assert await cache.get("u2@example.com") is not None
    cache.put("v@example.com", Probe("unverifiable", "away", clock.now))
    assert cache.look("v@example.com") is None


async def aged(make: Make, inner: Inner, state: str, age: float) -> Callahead:
    clock, remote = Turned(), Remote()
    cache = CallaheadCache(remote, wall=clock, monotonic=clock)
    remote.probes["bob@example.com"] = (Probe(state, "old", clock.now - age), 1.0)
    ahead: Callahead = await make(inner, cache)
    return ahead


async def test_an_old_positive_answer_holds_and_is_asked_again_meanwhile(make: Make) -> None:
    inner = Inner(bob="250 ok")
    ahead = await aged(make, inner, "known", 8 * DAY)
    assert (await ahead.probe(address("bob"))).reply == "old"
    async with asyncio.timeout(5):
        while not inner.asked("bob"):
            await asyncio.sleep(0.01)


async def test_an_old_negative_answer_is_asked_again_first(make: Make) -> None:
    ahead = await aged(make, Inner(bob="250 ok"), "unknown", 4 * HOUR)
    assert (await ahead.probe(address("bob"))).state == "known"


async def test_an_old_negative_answer_holds_while_the_inside_is_away(make: Make) -> None:
    inner = Inner()
    ahead = await aged(make, inner, "unknown", 4 * HOUR)
    inner.server.close()
    await inner.server.wait_closed()
    assert (await ahead.probe(address("bob"))).state == "unknown"
