"""Several database servers that say the same: which is asked, in which order, over which kept connections.

Contract: unix sockets first, then the others in random order; one that failed is asked last for AVOID seconds
(Postfix: 60). Each connection serves one question at a time; after any trouble it is thrown away. A question that
fails at one host is asked of the next within the same deadline. What failure means for the mail: no host left: put
off.
"""

import asyncio
import contextlib
import random
import select
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from appliance.mail.ports import Unavailable
from appliance.tables.proxied.base import Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.names import Names
from appliance.tables.proxied.servers import Place, address
from appliance.tables.text import TableError

AVOID, IDLE, CONNECT, KEEP = 60.0, 60.0, 5.0, 8


class Driver(NamedTuple):
    """How a connection is made (to one of the addresses of a host), asked and closed; `errors`: what these raise for
    trouble. `silent`: whether nothing came since the last answer: what did would be taken for the next one."""

    connect: Callable[[Place, str], Awaitable[Any]]
    ask: Callable[[Any, str], Coroutine[Any, Any, list[str | None]]]
    close: Callable[[Any], None]
    errors: tuple[type[Exception], ...]
    silent: Callable[[Any], Awaitable[bool]]


class Pool:
    """The hosts of one table. `names`: what finds their addresses; None: `connect` is given the name."""

    def __init__(
        self,
        places: Sequence[Place],
        driver: Driver,
        avoid: float = AVOID,
        idle: float = IDLE,
        names: Names | None = None,
    ) -> None:
        self._places, self._driver, self._avoid, self._idle = places, driver, avoid, idle
        self._names = names
        self._errors: tuple[type[Exception], ...] = (*driver.errors, OSError, EOFError, TimeoutError)
        self._failed: dict[Place, float] = {}
        self._kept: dict[Place, list[tuple[float, Any]]] = {place: [] for place in places}
        self._closed = False

    async def values(self, question: str, step: Step) -> list[str | None]:
        """What the first host that answers has. Raises Unavailable."""
        why = "no host"
        for place in self._order():
            try:
                found = await self._ask(place, question, step)
            except asyncio.CancelledError:  # the deadline: another host is asked next time
                self._failed[place] = time.monotonic()
                raise
            except self._errors as error:
                self._failed[place] = time.monotonic()
                words = " ".join(str(error).split())[:300]
                why = f"{place}: {words or type(error).__name__}"
            else:
                self._failed.pop(place, None)
                return found
        raise Unavailable(why)

    def _order(self) -> list[Place]:
        now = time.monotonic()
        mixed = sorted(random.sample(self._places, len(self._places)), key=lambda place: not place.path)
        return sorted(mixed, key=lambda place: now - self._failed.get(place, -1e9) < self._avoid)

    async def _ask(self, place: Place, question: str, step: Step) -> list[str | None]:
        kept = await self._take(place)
        if kept is not None:
            step.text = f"asking {place}"
            try:
                return await self._over(place, kept, question)
            except self._errors:
                pass  # it may have been closed for want of use: once more, over a new one
        step.text = f"connecting to {place}"
        try:
            async with asyncio.timeout(CONNECT):
                connection = await self._connect(place)
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"no line to it, on which it knows us, within {CONNECT:g} s") from None
        step.text = f"asking {place}"
        return await self._over(place, connection, question)

    async def _connect(self, place: Place) -> Any:
        """Over the first address that takes it."""
        if self._names is None or not place.host or place.path:
            return await self._driver.connect(place, place.host)
        *others, last = await self._names.addresses(place.host)
        for other in others:
            with contextlib.suppress(*self._errors):
                return await self._driver.connect(place, other)
        return await self._driver.connect(place, last)

    async def _over(self, place: Place, connection: Any, question: str) -> list[str | None]:
        """Whatever a library does when it is cancelled: its connection is closed first, so that it waits for nobody."""
        asked = asyncio.ensure_future(self._driver.ask(connection, question))
        try:
            await asyncio.wait((asked,))
            found = asked.result()
        except BaseException:
            self._driver.close(connection)
            asked.cancel()
            asked.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise
        if len(self._kept[place]) < KEEP and not self._closed:
            self._kept[place].append((time.monotonic(), connection))
        else:
            self._driver.close(connection)
        return found

    async def _take(self, place: Place) -> Any:
        while self._kept[place]:
            since, connection = self._kept[place].pop()
            silent = False
            try:
                silent = time.monotonic() - since < self._idle and await self._driver.silent(connection)
            finally:  # also of who is cancelled meanwhile
                if not silent:
                    self._driver.close(connection)
            if silent:
                return connection
        return None

    def close(self) -> None:
        self._closed = True
        for kept in self._kept.values():
            for _, connection in kept:
                self._driver.close(connection)
            kept.clear()
        if self._names is not None:
            self._names.close()


def no_data(descriptor: int) -> bool:
    """Whether a socket has nothing to read, not even its end."""
    waits = select.poll()
    waits.register(descriptor, select.POLLIN | select.POLLHUP)
    return not waits.poll(0)


def places(settings: Settings, port: int) -> list[Place]:
    """`hosts`: unix:path, inet:host:port, host:port, host. Mistakes are noted in `settings`."""
    return [place for text in settings.words("hosts", "localhost") if (place := place_of(settings, text, port))]


def place_of(settings: Settings, text: str, port: int) -> Place | None:
    """One of `hosts`; None: a mistake, noted in `settings`."""
    if text.startswith("unix:"):
        return Place(text[5:], "", port)
    try:
        return address(text.removeprefix("inet:"), port)
    except TableError as error:
        settings.wrong("hosts", str(error))
        return None
