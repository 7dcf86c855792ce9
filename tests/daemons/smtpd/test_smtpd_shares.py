"""A worker asks stated about a new client only when a limit over all workers may be near."""

import asyncio

import pytest

from appliance.config.model import Limits
from appliance.daemons.smtpd.limits import Connections, Watch


def crowd(limits: Limits, siblings: int, clients: list[str]) -> Connections:
    connections = Connections(limits)
    connections.siblings = siblings
    for client in clients:
        connections.enter(client)
    return connections


@pytest.mark.parametrize(("count", "sparse"), [(1, True), (12, True), (13, False), (50, False)])
def test_a_client_within_its_share_is_let_in_without_a_question(count: int, sparse: bool) -> None:
    limits = Limits(connections_per_client=50)
    assert crowd(limits, 4, ["192.0.2.1"] * count).sparse("192.0.2.1") is sparse


def test_the_total_counts_as_well() -> None:
    limits = Limits(connections=100, connections_reserve=20, connections_per_client=0)
    clients = [f"192.0.2.{number}" for number in range(41)]
    assert crowd(limits, 2, clients[:40]).sparse("192.0.2.1")
    assert not crowd(limits, 2, clients).sparse("192.0.2.1")


def test_who_does_not_know_its_siblings_asks_always() -> None:
    assert not crowd(Limits(), 0, ["192.0.2.1"]).sparse("192.0.2.1")


@pytest.mark.parametrize("siblings", [1, 2, 3, 8])
def test_workers_that_do_not_ask_cannot_pass_a_limit_together(siblings: int) -> None:
    limits = Limits(connections_per_client=50)
    let_in = 0
    for _ in range(siblings):
        connections = crowd(limits, siblings, [])
        connections.enter("192.0.2.1")
        while connections.sparse("192.0.2.1"):
            let_in += 1
            connections.enter("192.0.2.1")
    assert 0 < let_in <= 50


class Sick:
    deadline = 0.0

    def expired(self, now: float) -> None:
        raise RuntimeError("cannot be ended")


class Well:
    deadline = 0.0

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def expired(self, now: float) -> None:
        self.ended.set()


async def test_a_session_that_cannot_be_ended_keeps_no_other_alive() -> None:
    watch = Watch(lambda: None, interval=0.01)
    well = [Well() for _ in range(5)]
    sick = Sick()
    watch.watched |= {sick, *well}
    for one in well:
        await asyncio.wait_for(one.ended.wait(), 5)
    watch.stop()
    assert sick.deadline > asyncio.get_running_loop().time()
