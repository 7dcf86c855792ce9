"""A disk that is slow keeps no thread of the process but the one that writes."""

import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from appliance.stores.embedded import Database

#: Seconds that the disk must take for one step, else nothing can be seen.
SLOW = 0.02


def longest_wait(job: Callable[[], float]) -> tuple[float, float]:
    """`job` in a thread says when it went to the disk: (seconds it was there, longest that we did not run meanwhile)."""
    span: list[float] = []

    def run() -> None:
        began = job()
        span.extend((began, time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    turns = [time.monotonic()]
    while thread.is_alive():
        time.sleep(0.0005)
        turns.append(time.monotonic())
    thread.join()
    began, ended = span
    waits = (min(later, ended) - max(turn, began) for turn, later in pairwise(turns))
    return ended - began, max(waits, default=0.0)


@pytest.mark.parametrize("what", ["commit", "checkpoint"])
def test_other_threads_run_while_the_disk_takes_what_is_written(what: str, tmp_path: Path) -> None:
    """The loop of stated is one of them: 200 ms for each batch on a busy disk."""
    database = Database(tmp_path / "s.db", ("t",))
    database.open()
    database.breath = 0.0
    change, done = database._change, [0.0]

    def noted(*args: Any) -> None:
        change(*args)
        done[0] = time.monotonic()

    database._change = noted  # type: ignore[method-assign]
    value, tried, seen = os.urandom(20_000), list[str](), list[float]()

    def commit() -> float:
        database.write({"t": [(f"{len(tried)}:{number}", value, 1.0) for number in range(500)]}, b"")
        return done[0]

    def checkpoint() -> float:
        began = time.monotonic()
        database.checkpoint()
        return began

    while len(tried) < 12 and not (seen and min(seen) < 0.5):
        tried.append(what)
        if what == "checkpoint":
            commit()
        lasted, waited = longest_wait(commit if what == "commit" else checkpoint)
        if lasted > SLOW:
            seen.append(waited / lasted)
    database.close()
    if not seen:
        pytest.skip("this disk is never slow")
    assert min(seen) < 0.5, "the share of the time for which nobody else ran"
