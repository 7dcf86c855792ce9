"""The yardstick of the hostile tests: what a machine denies to a process is excused once, by that process's own count."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.faults.hostile import Canary, none_late
from tests.peers.content_filter import ContentFilter
from tests.peers.dns import Dns
from tests.peers.inner import Inner
from tests.peers.ports import wait_for

#: Keeps a processor for nearly a second, before everything else (for longer nobody may).
GREEDY = """
import os, time
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
end = time.monotonic() + 0.9
while time.monotonic() < end:
    pass
"""


def loops(*peaks: tuple[float, float, float]) -> Any:
    """A gateway whose one loop was late so: when, by how much, for how much of it the machine ran others."""
    worker = {"worker": "smtpd.0", "health": {"lag_peaks": peaks}}
    return cast("Any", SimpleNamespace(status=lambda: {"workers": [worker]}))


def test_a_loop_that_was_kept_is_told_and_one_that_was_denied_is_not() -> None:
    none_late(loops((5.0, 0.9, 0.85), (3.0, 0.4, 0.0)), 4.0, 0.0)
    with pytest.raises(AssertionError, match=r"loops were kept: .*smtpd\.0"):
        none_late(loops((5.0, 0.4, 0.25)), 4.0, 0.0)


def denied(pid: int) -> float:
    """Seconds for which a process waited for a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def test_the_canary_does_not_count_what_the_loops_count_for_themselves() -> None:
    processor = min(os.sched_getaffinity(0))
    with Canary() as canary:
        pid = canary._process.pid
        os.sched_setaffinity(pid, {processor})
        greedy = subprocess.run(
            [sys.executable, "-c", GREEDY],
            preexec_fn=lambda: os.sched_setaffinity(0, {processor}),
            capture_output=True,
            text=True,
            check=False,
        )
        if "PermissionError" in greedy.stderr:
            pytest.skip("no process may go before all others here")
        # What it waited is counted when it gets the processor back.
        wait_for(lambda: denied(pid) > 0.7, 10, "the machine denied it a processor")
    assert canary.worst < 0.4, "and that is not in its figure"


@pytest.mark.parametrize("kind", ["filter", "dns", "inner"])
def test_a_peer_that_is_stopped_leaves_no_task_behind(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Sessions that are open then are ended, not left to whoever collects what is forgotten."""
    made = {"filter": lambda: ContentFilter(1), "dns": lambda: Dns({}), "inner": Inner}[kind]
    peer = made().start()
    loop = peer._loop
    with socket.create_connection(("127.0.0.1", peer.port)) as client:
        client.sendall(b"\0" if kind == "dns" else b"EHLO a.example\r\n")
        wait_for(lambda: asyncio.all_tasks(loop), 10, "a session")
        peer.stop()
    assert loop.is_closed()
    del peer
    gc.collect()
    assert "Task was destroyed" not in caplog.text
