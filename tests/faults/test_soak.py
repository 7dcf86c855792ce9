"""The soak (`make soak`), half a minute of it with a seed that stays: faults of every kind of peer under load."""

import os
from pathlib import Path
from typing import IO

import pytest

from tests.soak.run import Soak
from tests.soak.watch import Held, grown, held

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


async def test_random_faults_of_all_peers_lose_nothing_pass_nothing_unchecked_and_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    soak = Soak(tmp_path, seed=4, seconds=24)
    await soak.run()
    accepted = {one.lane for one in soak.senders.sent if one.kind == "accepted"}
    assert accepted == set(soak.world.rules), "each lane took mail"
    assert soak.weather.faults > 60


def test_what_counts_as_a_leak() -> None:
    """The measure itself: more descriptors, tasks, sockets or memory than there is room for, and who is gone."""
    was = Held(40, 10, 20, 100.0)
    assert grown({"a": was}, {"a": Held(45, 12, 22, 150.0)}) == {}
    assert grown({"a": was}, {}) == {"a": "is gone"}
    assert "descriptors 40 -> 60" in grown({"a": was}, {"a": Held(60, 10, 20, 100.0)})["a"]
    assert grown({"a": was}, {"a": Held(40, 30, 20, 100.0)}) == {"a": "tasks 10 -> 30"}
    assert grown({"a": was}, {"a": Held(40, 10, 20, 200.0)}) == {"a": "memory 100 -> 200 MB"}


def test_the_master_is_watched_with_its_workers(tmp_path: Path) -> None:
    """Who has no life now (worker b) is left out."""
    workers = [{"worker": "a", "pid": os.getpid(), "health": {"tasks": 7}}, {"worker": "b", "pid": 0, "health": {}}]
    before = held({"workers": workers}, os.getpid())
    assert before.keys() == {"master", "a"} and before["a"].tasks == 7
    files = [(tmp_path / str(number)).open("w") for number in range(20)]
    found = grown(before, held({"workers": workers}, os.getpid()))
    for file in files:
        file.close()
    assert found.keys() == {"master", "a"} and "descriptors" in found["master"]


def test_files_made_ahead_are_no_leak_but_more_than_that_are(tmp_path: Path) -> None:
    """Delivery holds at most 36 of them."""
    workers = [{"worker": "delivery.0", "pid": os.getpid(), "health": {}}]
    intake = tmp_path / "spool" / "intake"
    intake.mkdir(parents=True)
    was = held({"workers": workers}, os.getpid())["delivery.0"].descriptors
    files: list[IO[str]] = []
    try:
        for count, more in ((20, 0), (36, 0), (40, 4)):
            files += [(intake / f"{number}.big").open("w") for number in range(len(files), count)]
            assert held({"workers": workers}, os.getpid())["delivery.0"].descriptors == was + more
        assert held({"workers": []}, os.getpid())["master"].descriptors == was + 40
    finally:
        for file in files:
            file.close()
