"""Peers that are there and do not answer: each is left alone after some failures in a row, one question at a time shows
whether it is well again, and what one message does to a peer costs no other message anything."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from appliance.connectors.breaker import THRESHOLD, Breaker
from appliance.connectors.milter_health import Health
from appliance.connectors.milters import Milters
from appliance.connectors.policy import PolicyClients
from appliance.connectors.proxy_filter import ProxyFilter
from appliance.mail.ports import Unavailable
from appliance.observe import metrics
from tests.connectors.smtp_peer import SILENT, Peer
from tests.connectors.test_milter_client import whole_session
from tests.connectors.test_milter_faults import milter
from tests.connectors.test_policy_clients import ASK, Server, service
from tests.connectors.test_proxy_filter import handed, settings
from tests.peers.milter_server import MilterServer

pytestmark = pytest.mark.asyncio
GAUGE = 'postgate_milter_degraded{milter="m"}'
#: Well, or why not.
Asked = Callable[[], Awaitable[str]]


def quick(breaker: Breaker) -> None:
    breaker._first = 0.02


async def closed(breaker: Breaker) -> None:
    async with asyncio.timeout(5):
        while breaker.is_open:
            await asyncio.sleep(0.005)


async def one_at_a_time(ask: Asked, breaker: Breaker, well: Callable[[], None]) -> None:
    """It hangs, for as long as nobody calls `well`."""
    quick(breaker)
    for _ in range(THRESHOLD):
        assert "left alone" not in await ask()
    assert "left alone" in await ask()
    for opened in (2, 3):
        await closed(breaker)  # it listens, as ever
        assert breaker.opened == opened - 1
        assert "left alone" not in await ask()
        assert "left alone" in await ask(), "one was enough"
        assert breaker.opened == opened
    assert breaker._wait > 3 * breaker._first, "looked at less and less often"
    well()
    await closed(breaker)
    assert await ask() == ""
    assert not breaker.is_open and breaker._failures == 0


def milters_of(server: MilterServer, seconds: float = 0.4) -> tuple[Asked, Health, Milters]:
    """One message after the other, each in a session of its own."""
    milters = Milters("mx", 1 << 20)
    one = milter(server.port, command_timeout=seconds, content_timeout=seconds)
    milters.follow((one,), "mx", 1 << 20)

    async def ask() -> str:
        link = milters.link(one)
        said = [await link.ask(ctx, ()) for ctx in whole_session()][-1]
        link.close()
        return said.why

    return ask, milters.link(one)._health, milters


@pytest.mark.parametrize("step", [b"E", b"M"])
async def test_a_milter_that_agrees_to_speak_and_hangs_then(step: bytes) -> None:
    async with MilterServer({step: []}) as server:
        ask, health, milters = milters_of(server)
        await ask()
        assert f"{GAUGE} 1.0" in metrics.exposition().decode()
        assert await health.probe() and f"{GAUGE} 1.0" in metrics.exposition().decode()
        server.says.clear()
        assert await ask() == "" and f"{GAUGE} 0.0" in metrics.exposition().decode()
        server.says[step] = []
        await one_at_a_time(ask, health.breaker, server.says.clear)
        assert not milters.health()["degraded"] and f"{GAUGE} 0.0" in metrics.exposition().decode()
        milters.close()


async def test_a_milter_that_hangs_is_not_well_because_it_agrees_to_speak() -> None:
    async with MilterServer({b"E": []}) as server:
        ask, health, milters = milters_of(server)
        await ask()
        link = milters.link(health.milter)
        for ctx in whole_session()[:-1]:
            assert (await link.ask(ctx, ())).word == "continue"
        link.close()
        assert await health.probe()
        assert milters.health()["degraded"]
        milters.close()


async def test_a_milter_that_a_message_makes_hang_up_is_asked_about_the_next_one() -> None:
    async with MilterServer({b"E": lambda _: None}) as server:  # type: ignore[dict-item, return-value]
        ask, health, milters = milters_of(server, 10.0)
        for _ in range(2 * THRESHOLD):
            assert "it hung up at END-OF-MESSAGE" in await ask()
        assert await health.probe()
        assert milters.health()["degraded"], "it is not well because it agrees to speak"
        server.says.clear()
        assert await ask() == "" and health.breaker.opened == 0 and not milters.health()["degraded"]
        milters.close()


async def test_a_policy_service_that_takes_connections_and_hangs() -> None:
    async with Server() as server:
        clients, one = PolicyClients(), service(server.port, timeout=0.4)
        server.hangs = True

        async def ask() -> str:
            try:
                await clients.ask(one, ASK, "ID")
            except Unavailable as error:
                return str(error)
            return ""

        def well() -> None:
            server.hangs = False

        await one_at_a_time(ask, clients._peer(one).sites[0].breaker, well)
        clients.close()


async def test_failures_with_an_answer_between_them_are_not_counted_together() -> None:
    async with Server() as server:
        clients, one = PolicyClients(), service(server.port, timeout=0.4)
        for hangs in [True] * (THRESHOLD - 1) + [False] + [True] * (THRESHOLD - 1):
            server.hangs = hangs
            if hangs:
                with pytest.raises(Unavailable, match="no answer within"):
                    await clients.ask(one, ASK, "ID")
            else:
                assert (await clients.ask(one, ASK, "ID")).verb == "DUNNO"
        assert not clients._peer(one).sites[0].breaker.is_open
        clients.close()


async def test_a_filter_before_the_queue_that_takes_a_message_and_hangs() -> None:
    peer = await Peer(end=SILENT).start()
    one = ProxyFilter(settings(peer.port, timeout=0.4), 1)

    async def ask() -> str:
        try:
            await handed(one)
        except Unavailable as error:
            return str(error)
        return ""

    def well() -> None:
        peer.says["END"] = b"250 2.0.0 Ok\r\n"

    await one_at_a_time(ask, one.health.breaker, well)
    assert not one.health.degraded
    one.health.close()
    await peer.stop()


async def test_a_milter_is_not_well_because_of_what_it_said_of_a_session_long_ago() -> None:
    async with MilterServer({b"C": [(b"a", b"")]}) as server:
        ask, health, milters = milters_of(server)
        link = milters.link(health.milter)
        for ctx in whole_session():
            assert (await link.ask(ctx, ())).word == "continue"
        server.says = {b"E": []}
        for _ in range(THRESHOLD):
            assert "no answer in time" in await ask()
            link.reset()
            assert [(await link.ask(ctx, ())).word for ctx in whole_session()[2:]][-1] == "continue"  # nobody asks it
        assert milters.health()["degraded"] and health.breaker.is_open
        link.close()
        milters.close()


@pytest.mark.parametrize("step", [b"M", b"R", b"T"])
async def test_a_milter_that_takes_messages_before_their_end_is_well(step: bytes) -> None:
    async with MilterServer({b"E": []}) as server:
        ask, health, milters = milters_of(server)
        await ask()
        server.says = {step: [(b"a", b"")]}
        assert await ask() == "" and not milters.health()["degraded"] and health.breaker._failures == 0
        milters.close()


async def test_nobody_looks_for_a_peer_that_is_given_up() -> None:
    async with MilterServer() as server:
        _, health, milters = milters_of(server)
        link = milters.link(health.milter)
    milters.follow((), "mx", 1 << 20)  # a session that began before keeps its link
    assert "connecting" in [await link.ask(ctx, ()) for ctx in whole_session()][-1].why
    assert health._looking is None or health._looking.done()
    link.close()
    milters.close()


async def test_a_filter_that_answers_at_once_behind_others_does_not_hang() -> None:
    peer = await Peer(end=b"421 4.3.2 busy\r\n").start()
    one = ProxyFilter(settings(peer.port), 1)
    await one._places.acquire()  # another message is in it
    asyncio.get_running_loop().call_later(0.2, one._places.release)
    with pytest.raises(Unavailable, match="busy"):
        await handed(one)
    assert not one.health._hangs
    one.health.close()
    await peer.stop()


async def test_who_waited_for_a_place_does_not_try_a_filter_that_hangs_meanwhile() -> None:
    peer = await Peer(end=SILENT).start()
    one = ProxyFilter(settings(peer.port, timeout=0.4, total_timeout=30.0), 1)
    said = await asyncio.gather(*(handed(one) for _ in range(3 * THRESHOLD)), return_exceptions=True)
    assert sum("left alone" in str(why) for why in said) == 2 * THRESHOLD
    assert peer.sessions == THRESHOLD
    one.health.close()
    await peer.stop()
