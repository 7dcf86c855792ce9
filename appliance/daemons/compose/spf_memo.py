"""SPF results remembered: one evaluation for all messages of a sender's domain from one client.

Contract: `spf` answers at once for what is known and for what needs no name server; else it gives something to await,
the same evaluation for all who ask the same. It never raises. A result is known by client, HELO name and domain (by the
whole sender where a macro of the record reads the local part) as long as every DNS record behind it is valid, a day at
most; what is temperror or has a TTL of 0 for five seconds, so that all checks of one message are told the same. An
evaluation has 20 seconds altogether (RFC 7208 4.6.4).
What failure means for the mail: the result `temperror`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from appliance.mail.auth import SpfAsk, SpfReport
from appliance.mail.ports import Resolver, Unavailable
from appliance.mailauth import spf
from appliance.observe import metrics, oplog
from appliance.protocol.dns import Answer

_log = oplog.get("spf")
_answers = metrics.tally("postgate_spf_answers_total", "SPF results by where they came from.", ("source",)).counts
_results = metrics.tally("postgate_spf_results_total", "SPF evaluations by result.", ("result",)).counts
_MEMO, _JOINED, _EVALUATED = ("memo",), ("joined",), ("evaluated",)

#: Results that are remembered, and evaluations that may be under way.
CAPACITY, MOST_UNDER_WAY = 4000, 1000
#: Seconds for which every result holds: the checks of one message ask one after the other.
LEAST = 5.0
Key = tuple[str, str, str]


class Until:
    """A resolver that answers until `deadline` (the loop's time) and is Unavailable then."""

    __slots__ = ("_deadline", "_resolver", "_why", "cached")

    def __init__(self, resolver: Resolver, seconds: float) -> None:
        self._resolver, self._deadline = resolver, asyncio.get_running_loop().time() + seconds
        self._why = f"the evaluation took longer than {seconds:g} s"
        self.cached = resolver.cached

    async def query(self, name: str, rtype: str) -> Answer:
        """As the resolver behind it."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._resolver.query(name, rtype)
        except TimeoutError as error:
            raise Unavailable(self._why) from error

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        """As the resolver behind it."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._resolver.query_all(questions)
        except TimeoutError:
            return [Unavailable(self._why)] * len(questions)


class SpfMemo:
    """`seconds`: for one evaluation. `clock`: monotonic."""

    def __init__(
        self, resolver: Resolver, limits: spf.Limits, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._resolver, self._limits, self._seconds, self._clock = resolver, limits, seconds, clock
        self._kept: dict[Key, SpfReport] = {}
        self._asking: dict[Key, asyncio.Task[SpfReport]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def spf(self, ask: SpfAsk) -> SpfReport | Awaitable[SpfReport]:
        """The report, or what to await for it."""
        key = ask.address, ask.helo, ask.sender.rpartition("@")[2]
        if (kept := self._kept.get(key)) is not None and self._clock() < kept.until:
            if not kept.personal:
                _answers[_MEMO] += 1
                return kept
            return self._personal(ask)
        if (task := self._asking.get(key)) is not None:
            return self._join(ask, task)
        return self._evaluate(ask, key)

    def _personal(self, ask: SpfAsk) -> SpfReport | Awaitable[SpfReport]:
        """As spf(), for a domain whose record reads the local part."""
        key = ask.address, ask.helo, ask.sender
        if (kept := self._kept.get(key)) is not None and self._clock() < kept.until:
            _answers[_MEMO] += 1
            return kept
        if (task := self._asking.get(key)) is not None:
            _answers[_JOINED] += 1
            return asyncio.shield(task)
        return self._evaluate(ask, key)

    async def _join(self, ask: SpfAsk, task: "asyncio.Task[SpfReport]") -> SpfReport:
        """Wait for another's evaluation of the same domain; if that proves personal, ask anew."""
        report = await asyncio.shield(task)
        if not report.personal:
            _answers[_JOINED] += 1
            return report
        answer = self._personal(ask)
        return answer if isinstance(answer, SpfReport) else await answer

    def _evaluate(self, ask: SpfAsk, key: Key) -> SpfReport | Awaitable[SpfReport]:
        if len(self._asking) >= MOST_UNDER_WAY:
            return _unknown(ask, f"more than {MOST_UNDER_WAY} SPF evaluations are under way")
        _answers[_EVALUATED] += 1
        try:
            answer = spf.evaluate(Until(self._resolver, self._seconds), ask, self._limits)
        except Exception as error:
            return _failed(ask, error)
        if isinstance(answer, SpfReport):
            return self._done(ask, key, answer)
        task = self._asking[key] = asyncio.create_task(self._awaited(ask, key, answer))
        task.add_done_callback(lambda done: self._asking.pop(key, None))
        return asyncio.shield(task)  # who gives up waiting must not take the answer from the others

    async def _awaited(self, ask: SpfAsk, key: Key, answer: Awaitable[SpfReport]) -> SpfReport:
        try:
            report = await answer
        except Exception as error:
            return _failed(ask, error)
        return self._done(ask, key, report)

    def _done(self, ask: SpfAsk, key: Key, report: SpfReport) -> SpfReport:
        _results[report.result,] += 1
        report = msgspec.structs.replace(report, until=self._clock() + max(report.ttl, LEAST))
        self._keep(key, report)
        if report.personal:
            self._keep((ask.address, ask.helo, ask.sender), report)
        return report

    def _keep(self, key: Key, report: SpfReport) -> None:
        self._kept.pop(key, None)
        while len(self._kept) >= CAPACITY:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = report


def _failed(ask: SpfAsk, error: Exception) -> SpfReport:
    _log.error("an SPF evaluation failed", exc_info=error)
    return _unknown(ask, f"failed: {type(error).__name__}")


def _unknown(ask: SpfAsk, why: str) -> SpfReport:
    """What was asked about is named: a pass of that very domain may be what is missing (DMARC)."""
    scope, _, domain = spf.identity(ask)
    return SpfReport(result="temperror", scope="helo" if scope == "helo" else "mfrom", domain=domain, reason=why)
