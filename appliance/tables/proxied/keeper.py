"""What proxymap keeps of each table: opened when it is first asked, remembered answers, a rest after trouble, its health.

Contract: `answer` never raises: FOUND, MISSING or FAILED with the reason (table, step, seconds). Identical questions
that are under way share one answer. A table has its own slots, for so many questions at once: one that hangs is nothing
to the others. Each question has the table's deadline, its wait for a turn counted. After trouble with a server its
table rests (REST_MIN, doubling to REST_MAX seconds): asked meanwhile, it fails at once with the last reason, then one
question tries again. What failure means for the mail: put off, never "not found".
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from appliance.mail.ports import Hit, Unavailable
from appliance.observe import metrics, oplog, trouble
from appliance.observe.contact import Contact
from appliance.tables import wire
from appliance.tables.proxied.base import Asked, Bad, Opener, Step, at_rest
from appliance.tables.text import TableError

#: Seconds for which answers of servers are remembered, and how many of one table.
REMEMBER, MOST = 2.0, 8192
REST_MIN, REST_MAX = 0.5, 10.0
#: Seconds between two looks whether a .cf file has changed.
LOOK = 1.0
#: Seconds for which `degraded` names a table that failed and was not asked since.
RECENT = 60.0
Answer = tuple[int, str, str]

log = oplog.get("proxymap")
_lookups = metrics.counter("postgate_table_lookups_total", "Look-ups behind proxymap.", ["table", "result"])
_degraded = metrics.gauge("postgate_table_degraded", "1 while a table behind proxymap fails.", ["table"])
_RESULTS = {wire.FOUND: "found", wire.MISSING: "missing", wire.FAILED: "failed"}


class Kept:
    """One table."""

    def __init__(self, spec: str, open_: Opener, quiet: bool, rests: bool = True) -> None:
        self.spec, self._open, self._quiet, self._rests = spec, open_, quiet, rests
        self.contact = Contact()
        self.failures = 0
        self._table: Asked | None = None
        self._looked = self._rests_until = self._failed = 0.0
        self._rest = REST_MIN
        self._slots: asyncio.Semaphore | None = None
        self._ended = False
        #: Whether it was broken, and is being written now.
        self.unrest: Callable[[], bool] = at_rest
        self._recent: dict[str, tuple[float, Answer]] = {}
        self._running: dict[str, asyncio.Task[Answer]] = {}

    async def answer(self, key: str) -> Answer:
        """(state, value or reason, place)."""
        recent = self._recent.get(key)
        if recent is not None and recent[0] > time.monotonic():
            return recent[1]
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(self._ask(key))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: str) -> Answer:
        begun, step = time.monotonic(), Step()
        if begun < self._rests_until:
            return self._count((wire.FAILED, f"{self.spec}: {self.contact.trouble}", self.spec))
        seconds = 10.0
        try:
            table = self._ready()
            seconds = table.deadline
            self._slots = self._slots or asyncio.Semaphore(table.slots)
            async with asyncio.timeout(seconds), self._slots:
                table, value = await self._value(key, step)
        except TimeoutError:
            return self._trouble(f"no answer within {seconds:g} s", step, begun)
        except (Unavailable, Bad, TableError) as error:
            return self._trouble(str(error), step, begun)
        except Exception as error:
            log.exception("a look-up failed by an error of ours", table=self.spec)
            return self._trouble(f"{type(error).__name__}", step, begun)
        self.contact.answered()
        self._rest, self._rests_until = REST_MIN, 0.0
        found = (wire.MISSING, "", "") if value is None else (wire.FOUND, value, self.spec)
        if table.remembered and table is self._table:  # not what was closed meanwhile, as its file has changed
            self._remember(key, found)
        return self._count(found)

    async def _value(self, key: str, step: Step) -> tuple[Asked, str | None]:
        """The table that answers, and what it says; where the old one fails that was opened anew meanwhile, the new one.
        Raises Unavailable, Bad."""
        while True:
            table = self._ready()
            try:
                return table, await table.get(key, step)
            except Unavailable:
                if table is self._table:
                    raise

    def _ready(self, *, asked: bool = True) -> Asked:
        """The open table; a .cf file that has changed is read again, one that was broken not while it is being written,
        if it is only `asked`. Raises Bad."""
        if self._ended:
            raise Bad("is no table of the configuration in force")
        now = time.monotonic()
        if self._table is not None and now - self._looked > LOOK:
            self._looked = now
            if self._table.changed():
                self.close()
        if self._table is None:
            if asked and self.unrest():
                raise Bad("was broken, and is being written now")
            try:
                self._table, self._looked = self._open(self.spec), now
            except Bad as bad:
                self.unrest = bad.unrest
                raise
            self.unrest = at_rest
        return self._table

    def _remember(self, key: str, answer: Answer) -> None:
        if len(self._recent) >= MOST:
            self._recent.clear()
        self._recent[key] = time.monotonic() + REMEMBER, answer

    def _trouble(self, why: str, step: Step, begun: float) -> Answer:
        now = time.monotonic()
        self.failures += 1
        self._failed, self._rests_until = now, now + self._rest if self._rests else now
        self._rest = min(REST_MAX, self._rest * 2)
        self.contact.failed(f"{why} ({step.text})")
        if not self._quiet:
            log.warning(
                "a table does not answer", table=self.spec, step=step.text, seconds=round(now - begun, 1), why=why
            )
        return self._count((wire.FAILED, f"{self.spec}: {why} ({step.text})", self.spec))

    def _count(self, answer: Answer) -> Answer:
        _lookups.labels(self.spec, _RESULTS[answer[0]]).inc()
        return answer

    def probe(self) -> str:
        """Why it cannot be opened, "" if it can: for a reload that must not put a broken .cf file in force."""
        if self._table is None:
            try:
                self._ready(asked=False)
            except (Bad, TableError) as error:
                self.contact.failed(str(error))
                self._failed = time.monotonic()
                return str(error)
        return ""

    def sample(self) -> str | None:
        """As Asked.sample; "" where it cannot be opened."""
        return self._table.sample() if self._table is not None else ""

    def facts(self) -> dict[str, Any]:
        return {**self.contact.facts(), "failures": self.failures}

    def degraded(self) -> trouble.Said:
        """What is wrong, "" if all is well. Whose look-ups they were, those know who asked."""
        wrong = bool(self.contact.trouble) and time.monotonic() - self._failed <= RECENT
        _degraded.labels(self.spec).set(int(wrong))
        if not wrong:
            return ""
        why = f"{self.contact.trouble} ({self.failures} look-ups failed since the start)"
        return trouble.said(f"table {self.spec}", why)

    def close(self) -> None:
        """Give back what it holds; it is opened again when it is asked."""
        self._recent.clear()
        if self._table is not None:
            self._table.close()
            self._table = None

    def end(self) -> None:
        """For good: whoever still waits for a turn is told so."""
        self._ended = True
        self.close()


class Keeper:
    """All tables that may be asked: those of the configurations in force. `quiet`: who asks says what went wrong;
    `rests` False: who asks rests."""

    def __init__(self, open_: Opener, *, quiet: bool = False, rests: bool = True) -> None:
        self._open, self._quiet, self._rests = open_, quiet, rests
        self._tables: dict[str, Kept] = {}

    def follow(self, specs: Iterable[str]) -> None:
        """From now on these and no others; what is open stays open."""
        wanted = set(specs)
        for spec in self._tables.keys() - wanted:
            self._tables.pop(spec).end()
        self.also(wanted)

    def also(self, specs: Iterable[str]) -> list[str]:
        """These too (a reload is under way); what is wrong with those that cannot be opened."""
        found = []
        for spec in sorted(specs):
            kept = self._tables.setdefault(spec, Kept(spec, self._open, self._quiet, self._rests))
            found.append(kept.probe())
        return [text for text in found if text]

    async def answer(self, spec: str, key: str) -> Answer:
        """Never raises."""
        kept = self._tables.get(spec)
        if kept is None:
            return wire.FAILED, f"{spec} is no table of the configuration in force", spec
        return await kept.answer(key)

    def sample(self, spec: str) -> str | None:
        """As Asked.sample."""
        self.also([spec])
        return self._tables[spec].sample()

    async def hit(self, spec: str, key: str) -> Hit | None:
        """The answer, as who looks up takes it. Raises Unavailable."""
        state, text, place = await self.answer(spec, key)
        if state == wire.FAILED:
            raise Unavailable(text)
        return (text, place) if state == wire.FOUND else None

    def unrest(self) -> bool:
        """Whether one that was broken is being written now."""
        return any(kept.unrest() for kept in self._tables.values())

    def facts(self) -> dict[str, Any]:
        return {spec: kept.facts() for spec, kept in self._tables.items()}

    def degraded(self) -> list[trouble.Said]:
        return [text for kept in self._tables.values() if (text := kept.degraded())]

    def close(self) -> None:
        for kept in self._tables.values():
            kept.end()
