"""The soak (`make soak`), half a minute of it with a seed that stays: faults of every kind of peer under load."""

from pathlib import Path

import pytest

from tests.soak.run import Soak
from tests.soak.watch import Held, grown

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


async def test_random_faults_of_all_peers_lose_nothing_pass_nothing_unchecked_and_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    soak = Soak(tmp_path, seed=4, seconds=24)
    await soak.run()
    accepted = {one.lane for one in soak.senders.sent if one.kind == "accepted"}
    assert accepted == {*soak.world.lanes, "command", "clean"}, "each lane took mail"
    assert soak.faults > 60


def test_what_counts_as_a_leak() -> None:
    """The measure itself: more descriptors, tasks, sockets or memory than there is room for, and who is gone."""
    was = Held(40, 10, 20, 100.0)
    assert grown({"a": was}, {"a": Held(45, 12, 22, 150.0)}) == {}
    assert grown({"a": was}, {}) == {"a": "is gone"}
    assert "descriptors 40 -> 60" in grown({"a": was}, {"a": Held(60, 10, 20, 100.0)})["a"]
    assert grown({"a": was}, {"a": Held(40, 30, 20, 100.0)}) == {"a": "tasks 10 -> 30"}
    assert grown({"a": was}, {"a": Held(40, 10, 20, 200.0)}) == {"a": "memory 100 -> 200 MB"}
