"""Tables asked about every line of a message (mail.ports.LineRules), as Postfix's cleanup(8) asks header_checks(5).

Contract: keys are octets; the first rule that matches a line is its hit. One pattern may compute for TIMEOUT,
all of them together for BUDGET a message: then the search ends, and says at which "file:line". The loop is held for SLICE
at most: what takes longer, and content that is not small, goes on in a thread (patterns are searched without the
interpreter's lock), at most THREADS at a time. What failure means for the mail: `trouble` in the answer; what was hit
before holds.
"""

import asyncio
import mmap
import os
import time
from collections.abc import Awaitable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, starmap
from typing import Any

from appliance.mail.actions import parted
from appliance.mail.later import answered
from appliance.mail.lines import Ask, Found, Hit
from appliance.mail.ports import Content, Table, Unavailable
from appliance.protocol.lines import Line, Octets, lines_of, walk
from appliance.tables.literal import LONGEST
from appliance.tables.pattern import LineError, Pattern, Patterns
from appliance.tables.rules import Rule, first

#: Seconds: of computing for one look-up, for all of one message, and on the loop.
TIMEOUT, BUDGET, SLICE = 0.05, 2.0, 0.005
#: Octets of content that is begun with on the loop.
SMALL = 32768
THREADS = 2
_NOTHING = Found()


class LineSearch:
    """Over the tables of one configuration, by their specs."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._threads: ThreadPoolExecutor | None = None

    def search(self, content: Content, ask: Ask) -> Found | Awaitable[Found]:
        """All hits in order, until a value ends the search. Raises Unavailable for a table that is not open."""
        rules = {kind: self._rules(ask.tables(kind)) for kind in ("header", "mime", "nested", "body")}
        if not any(rules.values()):
            return _NOTHING
        rules["decoded"] = rules["body"]
        at_once = all(line.table.at_once for tables in rules.values() for line in tables)
        if content.size + sum(len(text) for text, _ in ask.decoded) > SMALL or not at_once:
            return self._elsewhere(_Search(rules, ask), content)
        data = b"".join(content.chunks())
        run = _Search(rules, ask)
        run.begin(data, 0, len(data))
        if run.go(SLICE):
            return run.found()
        return self._elsewhere(run, content)

    def _rules(self, specs: tuple[str, ...]) -> list["_Table"]:
        found = []
        for spec in specs:
            table = self._tables.get(spec)
            if table is None:
                raise Unavailable(f"{spec} is not open")
            try:
                if not isinstance(table, Patterns):
                    found.append(_Table(table, [], ""))
                elif rules := table.for_octets():
                    found.append(_Table(table, rules, table.source.path or "inline"))
            except LineError as why:
                raise Unavailable(f"{spec}:{why.line}: {why}") from None
        return found

    async def _elsewhere(self, run: "_Search", content: Content) -> Found:
        """The rest in a thread."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "rules")
        loop = run.loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, _finish, run, content)
        finally:
            run.over = True


def _finish(run: "_Search", content: Content) -> Found:
    if run.begun:
        run.go(None)
        return run.found()
    try:
        fd = content.open_fd()
    except OSError as error:
        raise Unavailable(f"the content cannot be read: {error.strerror}") from error
    try:
        start = os.lseek(fd, 0, os.SEEK_CUR)
        with mmap.mmap(fd, start + content.size, prot=mmap.PROT_READ) as data:
            run.begin(data, start, start + content.size)
            run.go(None)
            run.end()
            return run.found()
    except (OSError, ValueError) as error:
        raise Unavailable(f"the content cannot be read: {error}") from error
    finally:
        os.close(fd)


async def _answer(table: Table, key: str) -> tuple[str, str] | None:
    return await answered(table.get(key))


class _Table:
    """`rules` for octets, or none: then whole lines are looked up in `table`."""

    __slots__ = ("path", "rules", "table")

    def __init__(self, table: Table, rules: list[Rule[Pattern]], path: str) -> None:
        self.table, self.rules, self.path = table, rules, path


class _Slow(Exception):
    """A look-up took its time, or the slice is over."""


class _Search:
    """One message against its rules; `go` may be called again for the rest."""

    def __init__(self, rules: Mapping[str, list[_Table]], ask: Ask) -> None:
        self._rules, self._ask = rules, ask
        self._lines: Iterator[Line] = iter(())
        self._pending: Line | None = None
        self._start = 0
        self._hits: list[Hit] = []
        self._until: float | None = None
        self._used = self._cpu = 0.0
        self._test: Pattern | None = None
        self._match: Any = None
        #: Where tables that are not in memory are asked from a thread.
        self.loop: asyncio.AbstractEventLoop | None = None
        self.begun = self.over = False
        self.trouble = ""

    def begin(self, data: Octets, start: int, end: int) -> None:
        self.begun, self._start = True, start
        bodies = bool(self._rules["body"])
        lines = walk(data, start, end, bodies=bodies, body_limit=self._ask.body_limit)
        self._lines = chain(lines, *starmap(lines_of, self._ask.decoded)) if self._ask.decoded else lines

    def end(self) -> None:
        """The content is gone."""
        self._lines = iter(())

    def found(self) -> Found:
        return Found(tuple(self._hits), self.trouble)

    def go(self, seconds: float | None) -> bool:
        """Go on, for `seconds` or (in a thread) until it is done or out of budget; whether it is done."""
        clock, self._cpu = time.thread_time, time.thread_time()
        self._until = None if seconds is None else time.monotonic() + seconds
        try:
            while not self.over:
                line, self._pending = self._pending or next(self._lines, None), None
                if line is None:
                    break
                tables = self._rules[line.kind]
                if tables and line.text:
                    self._pending = line
                    self._line(line, tables)
                    self._pending = None
        except _Slow:
            return bool(self.trouble)
        finally:
            self._used += clock() - self._cpu
        return True

    def _line(self, line: Line, tables: list[_Table]) -> None:
        for table in tables:
            hit = self._fixed(line, table) if not table.rules else self._pattern(line, table)
            if hit is None:
                continue
            text = line.text[:500].decode("utf-8", "replace")
            start, end = line.start - self._start, line.end - self._start
            self._hits.append(Hit(line.kind, *hit, text, start, end, line.whole))
            word = parted(hit[0])[0]
            self.over = word in self._ask.ends
            return

    def _fixed(self, line: Line, table: _Table) -> tuple[str, str] | None:
        key = line.text.decode("utf-8", "surrogateescape")
        if table.table.at_once or self.loop is None:
            return table.table.get(key)  # type: ignore[return-value]
        return asyncio.run_coroutine_threadsafe(_answer(table.table, key), self.loop).result()

    def _pattern(self, line: Line, table: _Table) -> tuple[str, str] | None:
        text = line.text
        head = text[:LONGEST].lower()

        def matches(test: Pattern) -> bool:
            if test.prefix and not head.startswith(test.prefix):
                return False
            self._test = test
            self._match = self._search(test, text)
            return self._match is not None

        try:
            rule = first(table.rules, matches)
        except TimeoutError as why:
            number = next((rule.line for rule in table.rules if rule.test is self._test), 0)
            self.trouble = f"{table.path}:{number}: {why}"
            raise _Slow from None
        if rule is None:
            return None
        return self._fill(rule.test), f"{table.path}:{rule.line}"

    def _search(self, test: Pattern, text: bytes) -> Any:
        run = test.compiled.match if test.anchored else test.compiled.search
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise _Slow
            try:
                return run(text, timeout=left)
            except TimeoutError:
                raise _Slow from None
        began = time.thread_time()
        if self.over or self._used + began - self._cpu > BUDGET:
            raise TimeoutError(f"the rules took over {BUDGET:g} s for this message")
        while True:
            try:
                return run(text, timeout=TIMEOUT)
            except TimeoutError:  # that was by the clock on the wall: others may have had the processor
                if time.thread_time() - began > TIMEOUT / 2:
                    raise TimeoutError(f"the pattern took over {TIMEOUT * 1000:.0f} ms") from None

    def _fill(self, test: Pattern) -> str:
        pieces = test.pieces
        if len(pieces) == 1 and isinstance(pieces[0], str):
            return pieces[0]
        return "".join(
            piece if isinstance(piece, str) else (self._match[piece] or b"").decode("utf-8", "surrogateescape")
            for piece in pieces
        )
