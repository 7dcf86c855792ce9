"""kill -9 of each process in turn and of all at once, at random times, under load from four senders: every message
that got 250 arrives, none changed, nothing refused is delivered. `make soak` runs the long form."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.senders import Reckoning, Senders, reckon
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1800)]
QUEUE = '[queue]\nretry_min = "1s"\nretry_max = "2s"\ndead_probe = "1s"\n'
SERVICES = ("smtpd", "delivery", "stated", "scand", "journal")


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def missing(senders: Senders, inner: Inner) -> list[int]:
    return reckon(list(senders.outcomes), list(inner.messages)).lost


def settled(senders: Senders, inner: Inner, seconds: float) -> Reckoning:
    """Wait until all that was accepted has arrived, then a moment longer for copies too many."""
    end = time.monotonic() + seconds
    while missing(senders, inner) and time.monotonic() < end:
        time.sleep(0.2)
    return reckon(senders.outcomes, list(inner.messages))


def rounds(gateway: Gateway, senders: Senders, count: int, rng: random.Random) -> None:
    """`count` rounds: a random moment, then one service (in turn) or, each sixth round, everything at once."""
    for number in range(count):
        time.sleep(rng.uniform(0.05, 0.8))
        if number % 6 == 5:
            assert gateway.process
            gateway.process.signal_group(signal.SIGKILL)
            gateway.stop()
            gateway.start()
        else:
            pids = gateway.children().get(SERVICES[number % len(SERVICES)], [])
            kill(rng.sample(pids, min(1, len(pids))))


@pytest.mark.parametrize("seed", [1])
def test_nothing_accepted_is_lost_when_processes_are_killed(
    gateway: Callable[..., Gateway],
    inner: Inner,
    seed: int,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    long = request.config.getoption("--long")
    made = gateway(policies=plain(), more='[queue]\nretry_min = "1s"\nretry_max = "2s"\ndead_probe = "1s"\n')
    senders = Senders(made.port).start()
    try:
        rounds(made, senders, 200 if long else 24, random.Random(seed))
        end = time.monotonic() + 120
        while senders.accepted < (20_000 if long else 2_000) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        senders.stop()
    result = settled(senders, inner, 60)
    record_property("kill test", result.text())
    assert senders.accepted >= 2_000
    assert not result.lost, f"{result.text()}\n{made.tail()}"
    assert not result.changed
    assert not result.ghosts
