"""The lag meter sees a call that kept the loop, when that was, and whose fault it is."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from appliance.observe import lag


async def test_a_blocking_call_is_seen() -> None:
    meter = lag.LagMeter(asyncio.get_running_loop())
    meter.start()
    await asyncio.sleep(lag.INTERVAL / 5)
    time.sleep(0.3)
    await asyncio.sleep(lag.INTERVAL)
    meter.stop()
    assert meter.worst > 0.2
    worst = meter.worst
    time.sleep(lag.INTERVAL * 2)
    await asyncio.sleep(lag.INTERVAL)
    assert meter.worst == worst  # stopped


class Clock:
    """A loop whose ticks come when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due = 0.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, tick: Callable[[], None]) -> None:
        self.due, self.tick = when, tick

    def late(self, seconds: float) -> None:
        self.now = self.due + seconds
        self.tick()


def test_the_first_peak_since_a_moment_is_the_longest_since_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waited = Clock(), iter([0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.25])
    monkeypatch.setattr(lag.LagMeter, "_denied", lambda _: next(waited))
    meter = lag.LagMeter(cast("asyncio.AbstractEventLoop", clock))
    meter.start()
    moments = []
    for seconds in (0.4, 0.1, 0.2, 0.01, 0.3, 0.1):  # for most of the 0.3 the machine ran others
        moments.append(clock.now)
        clock.late(seconds)
    meter.stop()
    assert [(round(peak.late, 3), round(peak.own, 3)) for peak in meter.peaks] == [(0.4, 0.4), (0.2, 0.2), (0.1, 0.1)]
    since = [next(peak for peak in meter.peaks if peak.at > moment) for moment in moments]
    assert [round(peak.own, 3) for peak in since] == [0.4, 0.2, 0.2, 0.1, 0.1, 0.1]


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count waiting")
async def test_a_processor_that_others_have_is_not_the_loops_fault() -> None:
    """Many processes on one processor, and a loop among them that does nothing wrong."""
    core = {min(os.sched_getaffinity(0))}
    spin = "while True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", spin], preexec_fn=lambda: os.sched_setaffinity(0, core)) for _ in range(6)
    ]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    meter = lag.LagMeter(asyncio.get_running_loop())
    try:
        meter.start()
        until = time.monotonic() + 2
        while time.monotonic() < until and not any(peak.denied > 0.02 for peak in meter.peaks):
            busy = time.thread_time() + 0.02
            while time.thread_time() < busy:
                pass
            await asyncio.sleep(0)
    finally:
        os.sched_setaffinity(0, before)
        meter.stop()
        for other in others:
            other.kill()
            other.wait()
    assert any(peak.denied > 0.02 for peak in meter.peaks), meter.peaks
    assert all(peak.own < 0.1 for peak in meter.peaks), meter.peaks
