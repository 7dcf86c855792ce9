"""A runner as a process of its own, as the master starts it: state folder, wiring file."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

from appliance.config.blob import read
from appliance.config.snapshot import build
from appliance.daemons import runner
from appliance.daemons.skeleton import Birth


async def main(state: Path, config: str) -> None:
    sock = socket.socket(socket.AF_UNIX)
    path = state / "run" / "runner.sock"
    path.unlink(missing_ok=True)
    sock.bind(str(path))
    sock.listen(8)
    birth = Birth(
        service="runner", index=0, snapshot=build(read(config)), listening={"unix:runner": [sock]},
        rendezvous={}, state_dir=state, certificates={},
    )  # fmt: skip
    daemon = runner.create(birth)
    await daemon.start()
    print("ready", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await daemon.drain(1.0)


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
