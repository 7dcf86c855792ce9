"""The lag meter sees a call that kept the loop."""

import asyncio
import time

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
