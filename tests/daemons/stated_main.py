"""stated alone in a process: `stated_main.py FD FOLDER` serves on the listening socket FD until SIGTERM."""

import asyncio
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance.daemons import stated


async def main(fd: int, folder: str) -> None:
    birth: Any = SimpleNamespace(listening={"unix:stated": [socket.socket(fileno=fd)]}, state_dir=Path(folder))
    daemon = stated.create(birth)
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    await daemon.start()
    await end.wait()
    await daemon.drain(5)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
