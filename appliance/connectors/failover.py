"""Several servers of one scanner: in which order they are asked, and when another one is asked as well.

Contract: one content is put to one server, and to the next one as soon as that gave no answer, or its share of the time
is over: what is left until the deadline, in equal parts for it and all that were not asked. Who is slow is not hung up
on then, so that no time is taken from content that is slow to scan: the first answer counts, the others are hung up on.
Who failed, or let its share pass, is asked last for a while. What failure means for the mail: NoAnswer (nobody answered)
is "not scanned", and so is ProtocolError.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from appliance.connectors.conversation import NoAnswer, Progress, Server
from appliance.mail.scan import ScanResult
from appliance.observe import oplog
from appliance.protocol.errors import ProtocolError

log = oplog.get("scanner")

#: Put the content to this server.
Put = Callable[[Server, Progress], Awaitable[ScanResult]]


class Servers:
    """Of one scanner. Who fails is asked last for `rest` seconds."""

    def __init__(self, scanner: str, servers: tuple[Server, ...], rest: float) -> None:
        self._scanner, self._servers, self._rest = scanner, servers, rest
        self._resting: dict[Server, float] = {}

    def order(self) -> list[Server]:
        """As configured, those that failed a short while ago last. Of who has rested one content makes the trial."""
        now = asyncio.get_running_loop().time()
        order = sorted(self._servers, key=lambda server: self._resting.get(server, 0.0) > now)
        if self._resting.get(order[0], now + 1.0) <= now:
            self._resting[order[0]] = now + self._rest
        return order

    def tire(self, server: Server, why: str) -> None:
        """It failed. Said once until it answers, where others are asked in its place."""
        now = asyncio.get_running_loop().time()
        if len(self._servers) > 1 and server not in self._resting:
            log.warning("a server is asked last for a while", scanner=self._scanner, server=str(server), why=why)
        self._resting[server] = now + self._rest

    def well(self, server: Server) -> None:
        """It answered."""
        if self._resting.pop(server, None) is not None and len(self._servers) > 1:
            log.warning("a server answers again", scanner=self._scanner, server=str(server))


class Round:
    """One content, put to the servers until one has answered; `until` is the loop's time. As text: how far it got."""

    def __init__(self, servers: Servers, put: Put, until: float) -> None:
        self._servers, self._put, self._until = servers, put, until
        self._untried: list[Server] = []
        self._open: dict[asyncio.Task[ScanResult], Progress] = {}
        self._last = Progress()
        self._odd: Progress | None = None
        self._missed: list[str] = []

    def __str__(self) -> str:
        if self._odd is not None:
            return str(self._odd)
        return "; ".join(str(progress) for progress in self._open.values()) or str(self._last)

    async def answer(self) -> ScanResult:
        """The first one. Raises NoAnswer, ProtocolError, Unavailable. It has no deadline of its own."""
        self._untried = self._servers.order()
        try:
            while self._untried or self._open:
                if self._untried:
                    self._start(self._untried.pop(0))
                found = await self._wait()
                if found is not None:
                    return found
            raise NoAnswer("; ".join(self._missed))
        finally:
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _start(self, server: Server) -> None:
        self._last = Progress()
        self._last.server = server
        task = asyncio.ensure_future(self._put(server, self._last))
        self._open[task] = self._last

    async def _wait(self) -> ScanResult | None:
        """An answer; None if the next server is to be asked, or one gave none. Raises what an attempt raises."""
        now, share = asyncio.get_running_loop().time(), None
        if self._untried:
            share = max(self._until - now, 0.0) / (len(self._untried) + 1)
        done, _ = await asyncio.wait(self._open, timeout=share, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in self._open if task in done]:
            found = self._ended(task)
            if found is not None:
                return found
        if not done and self._last.server is not None:
            self._servers.tire(self._last.server, f"{self._last}: nothing within {share:.1f} s")
        return None

    def _ended(self, task: "asyncio.Task[Any]") -> ScanResult | None:
        progress = self._open.pop(task)
        server = progress.server
        assert server is not None
        try:
            found: ScanResult = task.result()
        except (NoAnswer, ProtocolError) as error:
            self._servers.tire(server, str(error))
            if isinstance(error, ProtocolError):
                self._odd = progress
                raise
            self._missed.append(f"{server}: {error}")
            return None
        self._servers.well(server)
        return found

    def ran_out(self) -> bool:
        """The deadline is over: whoever has not answered failed. Whether anybody was asked."""
        for progress in self._open.values():
            if progress.server is not None:
                self._servers.tire(progress.server, f"{progress}: no answer")
        return self._last.server is not None
