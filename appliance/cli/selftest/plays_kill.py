"""The scenario of death: kill -9 of each process, with mail in the queue and mail in flight; nothing accepted is lost."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import click

from appliance.cli.selftest.expect import KEPT
from appliance.cli.selftest.gateway import Trouble
from appliance.cli.selftest.play import Mail, Play, Result, Scenarios, unlike
from appliance.cli.selftest.plays_content import attached
from appliance.cli.selftest.scanners import RECOVERY
from appliance.cli.selftest.stranger import Reply

KILLING = Scenarios()
#: Not ours to kill one by one: they stand for what is outside.
OUTSIDE = frozenset({"master", "inbox"})
#: So many mails wait in the queue when a process dies, if they come within so many seconds.
QUEUED, PATIENCE = 3, 5.0


class Flow:
    """Senders who go on until the end of `async with`, whatever happens: what was accepted of theirs."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self.accepted: dict[str, tuple[Mail, Reply]] = {}
        self._more = asyncio.Event()
        self._patience = PATIENCE
        self._sending: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._sending = [asyncio.create_task(self._send(plain)) for plain in (True, False)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def grows(self) -> int:
        """How many more are accepted from now on: QUEUED, or fewer if they do not come in time."""
        had = len(self.accepted)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while len(self.accepted) - had < QUEUED:
                    self._more.clear()
                    await self._more.wait()
        if not (more := len(self.accepted) - had):
            self._patience = PATIENCE / 10  # who takes nothing must not cost a self-test its two minutes
        return more

    async def _send(self, plain: bool) -> None:
        """Mail after mail; `plain`: without what scand must take apart."""
        play = self._play
        while True:
            mail = play.mail() if plain else attached(play, b"some octets", "notes.bin")
            try:
                reply = await play.send(mail)
            except ConnectionError:
                await asyncio.sleep(0.05)
                continue
            play.refused.discard(mail.token)  # who was cut off does not know
            if reply.code == 250:
                self.accepted[mail.token] = mail, reply
                self._more.set()
            else:
                play.turned_away = mail, reply
            await asyncio.sleep(0.05)


@KILLING("kill -9 of each process")
async def killed(play: Play) -> Result:
    """Senders go on while one process after the other dies, each with mail in the queue: what got 250 arrives."""
    flow, problems, empty = Flow(play), list[str](), list[str]()
    services = [service for service in await play.gateway.pids() if service not in OUTSIDE]
    try:
        async with flow:
            for service in services:
                async with _queued(play, flow, service, empty):
                    problems += await _killed(play, service)
            async with _queued(play, flow, "master", empty):
                await play.gateway.kill()
                await play.gateway.start()
            await asyncio.sleep(0.5)
    except Trouble as error:
        problems.append(str(error))
    if flow.accepted and empty:
        problems.append(f"no mail was accepted before {', '.join(empty)} died")
    return await _counted(play, flow.accepted, problems, services)


@contextlib.asynccontextmanager
async def _queued(play: Play, flow: Flow, service: str, empty: list[str]) -> AsyncIterator[None]:
    """Mail waits in the queue when `service` is to die, for the inner server is away. `empty`: before whom none did."""
    await play.inner.down()
    try:
        empty += [service] * (not await flow.grows())
        yield
    finally:
        await play.inner.up()


async def _counted(
    play: Play, accepted: dict[str, tuple[Mail, Reply]], problems: list[str], services: list[str]
) -> Result:
    became = await _became(play, accepted)
    lost = len(accepted) - became.total()
    if lost and (dropped := became["dropped"]) and not problems:  # the line that says so dies with who was to write it
        why = f"your policies drop such mail ({dropped} of {len(accepted)}): what is lost beside it does not show"
        return Result("skipped", "-", "-", why)
    if lost:
        problems.append(f"{lost} of {len(accepted)} accepted mails are lost")
    if not accepted:
        problems.append("no mail was accepted meanwhile")
        if play.turned_away and (first := await play.stopped(*play.turned_away)):
            return first
    aside = [f", {count} {place}" for place, count in sorted(became.items()) if place != "delivered"]
    got = f"{len(accepted)} accepted{''.join(aside)}, none lost"
    return unlike(problems, "what got 250 is not lost", got, f"{', '.join(services)}, master")


async def _became(play: Play, accepted: dict[str, tuple[Mail, Reply]]) -> Counter[str]:
    """How many are where in the end: delivered, or where policies put them (for what could not be judged meanwhile)."""
    found: Counter[str] = Counter()
    left, places = dict(accepted), dict[str, str]()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RECOVERY):
            while left:
                with contextlib.suppress(click.ClickException):  # delivery is not back yet
                    places = await play.gateway.places()
                for token, (mail, reply) in list(left.items()):
                    if where := _is_settled(play, mail, reply, places):
                        found[where] += 1
                        del left[token]
                await asyncio.sleep(0.1)
    return found


def _is_settled(play: Play, mail: Mail, reply: Reply, places: dict[str, str]) -> str:
    """Where it is for good, or ""."""
    if any(mail.token.encode() in one for one in play.inner.mails):
        return "delivered"
    place = places.get(mail.sender, "")
    if place in KEPT.values():
        return f"in {place}"
    return "dropped" if not place and play.gateway.has_dropped(reply) else ""


async def _killed(play: Play, service: str) -> list[str]:
    """Kill all processes of a service, wait until others stand in their places."""
    before = (await play.gateway.pids()).get(service, [])
    if not before:
        return [f"no process {service} was found"]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RECOVERY):
            while True:
                now = (await play.gateway.pids()).get(service, [])
                if len(now) >= len(before) and not set(now) & set(before):
                    await asyncio.sleep(0.3)
                    return []
                await asyncio.sleep(0.05)
    return [f"{service} did not come back within {RECOVERY:.0f} s"]
