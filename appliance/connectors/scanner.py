"""One configured scanner as checks see it (mail.ports.Scanner): any number of servers of one kind behind one name.

Contract: `scan` always answers; trouble is kind `error`, never an exception and never `clean`. One deadline, which
grows with the size, covers waiting for a turn, connecting, sending and the whole answer. A server that gave no answer, or
none in its share of the time, is followed by the next one (failover); an answer that makes no sense is not asked for
twice. What failure means for the mail:
antivirus puts off, antispam marks (as their policies say).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import msgspec

from appliance.connectors import clamd, dialects, parts
from appliance.connectors.breaker import Breaker
from appliance.connectors.condition import Condition
from appliance.connectors.conversation import NoAnswer, Progress, Server
from appliance.connectors.dialects import Inside
from appliance.connectors.failover import Round, Servers
from appliance.connectors.joining import Joining
from appliance.connectors.remembered import KINDS, Remembered
from appliance.connectors.source import TRACE, Octets, Source
from appliance.mail.context import Client, Context
from appliance.mail.inspection import Inspection, Part, Report
from appliance.mail.ports import Content, Unavailable
from appliance.mail.scan import ScanResult
from appliance.observe import oplog
from appliance.protocol.errors import ProtocolError

log = oplog.get("scanner")
#: Octets a second that a scan may take beyond its base time.
RATE = 1024 * 1024
#: Seconds that a server which failed is tried last.
REST = 30.0
#: Times that a content may run into the deadline, while other mail was scanned, until it counts as unscannable.
ABANDONED = 3
_REMEMBERED = 1000
NOBODY = Inside()
#: Parts of one message that are scanned at the same time.
TOGETHER = 4
_PROBE = Octets(TRACE + b"From: <postmaster@localhost>\r\nSubject: probe\r\n\r\nIs anybody there?\r\n")


def trial_context(transaction: str) -> Context:
    """The context of a message of our own."""
    return Context(stage="message", transaction=transaction, client=Client(address="127.0.0.1"))


class Settings(msgspec.Struct, frozen=True):
    """One `[scanners.NAME]`. Seconds and octets; `size_limit` 0: what the scanner itself takes; `remember` 0: no answer
    is used twice. `options`: what only this kind has."""

    name: str
    kind: str
    servers: tuple[Server, ...]
    timeout: float = 60.0
    concurrency: int = 10
    size_limit: int = 0
    remember: float = 300.0
    options: Any = None


class Scanner:
    """Give it up with close()."""

    def __init__(self, settings: Settings, *, rest: float = REST, inside: Inside = NOBODY) -> None:
        self.name, self.kind, self.settings = settings.name, settings.kind, settings
        self.condition = Condition(settings.name)
        self.breaker = Breaker(self._is_well)
        #: What the servers take at most, 0 = not known or no less than we take.
        self.taken = 0
        self.limit_known = settings.kind != clamd.KIND
        self._dialect = dialects.make(settings.kind, settings.name, settings.options, inside)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._joining: Joining[ScanResult] = Joining()
        self._known = Remembered(settings.remember)
        self._versions: tuple[str, ...] = ()
        self._servers = Servers(settings.name, settings.servers, rest)
        self._abandoned: OrderedDict[Hashable, int] = OrderedDict()
        self._answers = 0

    @property
    def limit(self) -> int:
        """Octets above which a message is not sent, 0 = none."""
        own = self.settings.size_limit or self._dialect.limit
        return min(own, self.taken) if own and self.taken else own or self.taken

    async def scan(self, content: Content, ctx: Context) -> ScanResult:
        """One message. Never raises but for a cancelled caller."""
        start = time.monotonic()  # a loop's own clock may be a millisecond behind
        self.condition.under_way(1)
        try:
            found = await self._scan(content, ctx)
        except Exception as error:
            log.exception("a scan failed by a mistake of ours", scanner=self.name, transaction=ctx.transaction)
            found = self._error(f"{type(error).__name__}")
        finally:
            self.condition.under_way(-1)
        seconds = round(time.monotonic() - start, 4)
        self.condition.count(found.kind, seconds, ctx.transaction)
        return msgspec.structs.replace(found, seconds=seconds)

    async def _scan(self, content: Content, ctx: Context) -> ScanResult:
        if self.limit and content.size > self.limit:
            why = f"{content.size} octets, the scanner takes {self.limit}"
            return ScanResult(kind="oversize", scanner=self.name, why=why)
        try:
            source = await Source.of(content)
        except Unavailable as error:
            return self._error(str(error))
        return await self._look(source, ctx)

    async def _look(self, source: Source, ctx: Context) -> ScanResult:
        """What is known of it, or found now."""
        key = self._dialect.key(source, ctx)
        known = self._known.get(key)
        if known is not None:
            source.close()
            return known
        if self.breaker.is_open:
            source.close()
            return self._error(f"left alone after failures: {self.condition.last_trouble}")
        if self._abandoned.get(key, 0) >= ABANDONED:
            source.close()
            why = f"not scanned in time {ABANDONED} times, while other mail was"
            return ScanResult(kind="unscannable", scanner=self.name, why=why)
        versions = self._versions  # who asks with new signatures joins no scan of the old ones
        found = await self._joining.run((key, versions), lambda: self._run(source, ctx, key), source.close)
        if versions == self._versions:  # else it may be what the old signatures said
            self._known.put(self._dialect.key(source, ctx), found)  # it may have heard of new signatures meanwhile
        return found

    async def scan_parts(self, inspection: Inspection, ctx: Context, most: int, octets: int) -> list[ScanResult]:
        """The parts of a message, each on its own, at most `most` and so many octets: what is not clean (its `why` names
        the part), one clean answer for all others, and a "skipped" one if not all was offered. Never raises but for a
        cancelled caller."""
        if not self._dialect.takes_parts:
            return []
        chosen = parts.choose(inspection.report, most, octets)
        found: list[ScanResult] = []
        try:
            async with asyncio.timeout(self.patience(sum(part.body[1] for part in chosen.parts))):
                for start in range(0, len(chosen.parts), TOGETHER):
                    batch = chosen.parts[start : start + TOGETHER]
                    found += await asyncio.gather(*(self._part(inspection, part, ctx) for part in batch))
                    if any(result.kind == "error" for result in found):
                        break
        except TimeoutError:
            found.append(self._error("parts were not scanned in time"))
        return parts.summary(self.name, found, chosen)

    async def _part(self, inspection: Inspection, part: Part, ctx: Context) -> ScanResult:
        try:
            source = parts.PartSource(inspection, part)
            if self.limit and source.size > self.limit:
                why = f"{source.size} octets, the scanner takes {self.limit}"
                found = ScanResult(kind="oversize", scanner=self.name, why=why)
            else:
                await source.know()
                found = await self._look(source, ctx)
        except Exception as error:
            log.exception("a scan failed by a mistake of ours", scanner=self.name, transaction=ctx.transaction)
            found = self._error(f"{type(error).__name__}")
        return parts.named(found, part)

    async def _run(self, source: Source, ctx: Context, key: Hashable) -> ScanResult:
        """The scan itself: whoever wants the same content meanwhile gets this one's result."""
        loop = asyncio.get_running_loop()
        start, answers = loop.time(), self._answers
        until = start + self.patience(source.size)
        asking = Round(self._servers, lambda server, progress: self._put(server, source, ctx, progress), until)
        try:
            async with asyncio.timeout_at(until), self._slots:
                return self._heard(await asking.answer())
        except TimeoutError:
            if asking.ran_out() and self._answers > answers:
                self._abandon(key)
            return self._trouble(f"no answer within {loop.time() - start:.1f} s ({asking})")
        except (NoAnswer, ProtocolError) as error:
            return self._trouble(f"{error} ({asking}, {loop.time() - start:.1f} s)")
        except Unavailable as error:  # our content: nothing is wrong with the scanner
            return self._error(str(error))

    def patience(self, size: int) -> float:
        """Seconds for content of `size` octets, all together."""
        return self.settings.timeout + size / RATE

    async def _put(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult:
        """Who did not take all of the content has not scanned it. Raises NoAnswer, ProtocolError, Unavailable."""
        found = await self._dialect.ask(server, source, ctx, progress)
        if progress.broken and found.kind in KINDS:
            raise ProtocolError(f"answered {found.kind} before it had everything ({progress.broken})")
        return found

    def _heard(self, found: ScanResult) -> ScanResult:
        self._answers += 1
        self.condition.answered()
        self.breaker.succeeded()
        if found.kind == "oversize":
            self.limit_known = False  # it takes less than it did: learned again soon
        return found

    def _abandon(self, key: Hashable) -> None:
        self._abandoned[key] = self._abandoned.pop(key, 0) + 1
        if len(self._abandoned) > _REMEMBERED:
            self._abandoned.popitem(last=False)

    def _trouble(self, why: str) -> ScanResult:
        self.condition.failed(why)
        self.breaker.failed()
        return self._error(why)

    def _error(self, why: str) -> ScanResult:
        return ScanResult(kind="error", scanner=self.name, why=why)

    async def trial(self, content: Content, transaction: str) -> ScanResult:
        """A message of our own, whatever the breaker says. Never raises; not counted as a message."""
        try:
            source = await Source.of(content)
        except Unavailable as error:
            return self._error(str(error))
        try:
            return await self._run(source, trial_context(transaction), None)
        finally:
            source.close()

    async def _is_well(self) -> bool:
        answers = self._answers
        await self.trial(_PROBE, "probe")
        return self._answers > answers

    async def trial_part(self, octets: bytes) -> ScanResult:
        """As `trial`, of octets that are no mail."""
        inspection = Inspection(Report(), octets)
        source = parts.PartSource(inspection, Part("1", body=(0, len(octets))))
        return await self._run(source, trial_context("self-test"), None)

    async def learn_versions(self) -> None:
        """Forget what is known of content if the servers have other signatures than when they were asked last."""
        if self.kind != clamd.KIND or not self._known:
            return
        try:
            versions = tuple([await clamd.version(server) for server in self.settings.servers])
        except (NoAnswer, ProtocolError):
            versions = ()
        if versions != self._versions:
            self._known.clear()
        self._versions = versions

    async def learn_limit(self, wanted: int) -> None:
        """Find out whether the servers take `wanted` octets, and if not, how many (clamd only). Raises NoAnswer."""
        if self.kind != clamd.KIND:
            return
        limits, missed = [], []
        for server in self.settings.servers:
            try:
                limits.append(await clamd.stream_limit(server, wanted))
            except (NoAnswer, ProtocolError) as error:
                missed.append(f"{server}: {error}")
        if not limits:
            raise NoAnswer("; ".join(missed))
        self.taken = min((limit for limit in limits if limit), default=0)
        self.limit_known = True

    def facts(self) -> dict[str, Any]:
        """For status."""
        more = {"limit": self.limit} if self.limit else {}
        breaker = "open" if self.breaker.is_open else "closed"
        if self._known.hits:
            more["known already"] = self._known.hits
        return {**self.condition.facts(), **more, "breaker": breaker, "under way": len(self._joining)}

    def close(self) -> None:
        self.breaker.close()
        self._dialect.close()
