"""The asking end of proxymap: tables that are not in memory here.

Contract: `Remote.get` answers from a short memory at once, else gives a future. All asks of one turn of the loop go in
one frame; answers come in any order. An ask fails (Unavailable) at once while proxymap is away (but waits for its first
greeting: a reload may have started it a moment ago), after DEADLINE seconds
if it hangs (the connection is then given up), and with proxymap's reason if the table cannot answer. The line
reconnects by itself with jitter. What failure means for the mail: `temperror` of the check that asked, a delivery that
waits.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from typing import Any, Protocol

import msgspec

from appliance.mail.ports import Hit, TableUnavailable
from appliance.net.lifeline import Lifeline
from appliance.observe import trouble
from appliance.tables import wire
from appliance.tables.text import Source

#: Longer than any table may take (proxied/keeper.py): proxymap itself says which one is late, and why.
DEADLINE = 20.0
#: Seconds for which an answer, or that there is none, is remembered; and how many of one table.
REMEMBER, MOST = 2.0, 4096


class Asking(Protocol):
    """Who gets answers of tables that are not in memory."""

    def ask(self, table: "Remote", key: str) -> Awaitable[Hit | None]:
        """The answer to come. Raises Unavailable, now or then."""


class Remote:
    """One table behind proxymap. `line` is put in its place by the process's composition."""

    at_once = False

    def __init__(self, spec: str, pattern: bool, source: Source) -> None:
        self.spec, self.pattern, self.source = spec, pattern, source
        self._folds = not pattern
        self.line: Asking | None = None
        self._recent: dict[str, tuple[float, Hit | None]] = {}

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None:
        """Raises Unavailable at once where nobody can be asked."""
        if self._folds:
            key = key.lower()
        recent = self._recent.get(key)
        if recent is not None and recent[0] > time.monotonic():
            return recent[1]
        if self.line is None:
            raise TableUnavailable(self.spec, f"{self.spec}: this process does not ask proxymap")
        if len(key) > wire.LONGEST_KEY or "\0" in key:
            return None
        return self.line.ask(self, key)

    def remember(self, key: str, hit: Hit | None) -> None:
        """An answer came."""
        if len(self._recent) >= MOST:
            self._recent.clear()
        self._recent[key] = time.monotonic() + REMEMBER, hit

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """What stands in it is known when it is asked."""
        return iter(())


class Line(Lifeline):
    """One a process. start() once the loop runs; close() at the end."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._number = 0
        self._batch: list[wire.Ask] = []
        self._waiting: dict[int, tuple[float, Remote, str, asyncio.Future[Hit | None]]] = {}
        self.wanted = False
        #: It was never away yet, nor has it greeted.
        self._fresh = True

    def start(self) -> None:
        """Begin to connect (and to reconnect for ever); only where a table needs it."""
        if not self.wanted:
            self.wanted = True
            super().start()

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`."""
        away = self.wanted and not self.ready
        degraded = [f"proxymap does not answer: {self.why}; its tables put off"] if away else []
        return {**self.contact.facts(), "failures": self.failures, "degraded": degraded}

    def ask(self, table: Remote, key: str) -> Awaitable[Hit | None]:
        """The answer to come. Raises Unavailable at once while proxymap is away."""
        if not self.ready and not (self._fresh and self._channel is not None):
            self.failures += 1
            raise TableUnavailable(table.spec, f"{table.spec}: proxymap: {self.why}")
        if self.ready and not self._batch:
            self._loop.call_soon(self._flush)
        self._number += 1
        future: asyncio.Future[Hit | None] = self._loop.create_future()
        due = self._loop.time() + DEADLINE
        self._waiting[self._number] = due, table, key, future
        self._batch.append(wire.Ask(self._number, table.spec, key))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._overdue)
        return future

    def _abandon(self, why: str) -> None:
        self._fresh = False
        waiting, self._waiting, self._batch = self._waiting, {}, []
        for _, table, _, future in waiting.values():
            self._fail(table, future, f"{table.spec}: proxymap: {why}")

    def _fail(self, table: Remote, future: asyncio.Future[Hit | None], why: str) -> None:
        self.failures += 1
        if not future.done():
            future.set_exception(TableUnavailable(table.spec, why))
            future.exception()  # who asked may have been cancelled meanwhile: nobody need hear of it

    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        try:
            answers = wire.decode_answers(payload)
        except (msgspec.DecodeError, msgspec.ValidationError):
            self._lose("unreadable answer")
            return
        self.contact.answered()
        for answer in answers:
            if answer.number == 0:
                self._greeted(answer)
            elif waited := self._waiting.pop(answer.number, None):
                self._answered(answer, *waited[1:])

    def _answered(self, answer: wire.Answer, table: Remote, key: str, future: asyncio.Future[Hit | None]) -> None:
        if answer.state == wire.FAILED:
            self._fail(table, future, answer.text)
            return
        hit = (answer.text, answer.place) if answer.state == wire.FOUND else None
        table.remember(key, hit)
        trouble.tables.well(f"table {table.spec}")
        if not future.done():
            future.set_result(hit)

    def _greeted(self, answer: wire.Answer) -> None:
        if answer.text != wire.HELLO:
            self._lose("another version of proxymap")
            return
        self._welcome()
        self._fresh = False
        self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        if not batch or self._channel is None:
            return
        try:
            self._channel.send(batch)
        except ConnectionError:
            self._lose("it is gone")

    def _overdue(self) -> None:
        """One timer for all asks: it looks at the oldest one only."""
        self._timer = None
        oldest = next(iter(self._waiting.values()), None)
        if oldest is None:
            return
        if oldest[0] <= self._loop.time():
            self._lose("no answer in time")
        else:
            self._timer = self._loop.call_at(oldest[0], self._overdue)
