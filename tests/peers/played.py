"""Milters that a test plays, on a loop of their own."""

import asyncio
import threading
from typing import Any

from tests.peers.loops import ended
from tests.peers.milter_server import MilterServer


class Played:
    """`milter` starts one; `stop` and `start` let it be away for a while; `close` ends all and the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.servers: list[MilterServer] = []
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def milter(self, says: dict[bytes, Any] | None = None, **more: Any) -> MilterServer:
        async def start() -> MilterServer:
            return await MilterServer(says, **more).__aenter__()

        self.servers.append(self.run(start()))
        return self.servers[-1]

    def stop(self, server: MilterServer) -> None:
        self.run(server.__aexit__())
        self.servers.remove(server)

    def start(self, server: MilterServer) -> None:
        self.run(server.__aenter__())
        self.servers.append(server)

    def close(self) -> None:
        for server in list(self.servers):
            self.stop(server)
        ended(self.loop, self._thread)
