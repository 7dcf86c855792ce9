"""A content filter before the queue: one message over one SMTP session, as Postfix's smtpd_proxy_filter has it.

Contract: `send` gives one result a recipient, what the filter said, or raises Unavailable; then nobody may take the
message for handed over, though a filter whose last answer was lost may have it. At most `concurrency` messages are in it
at once; who comes above waits. Each step has its deadline, and all of it, the wait included, one that nothing extends. A
message is never begun with a second place; a connection takes one message. TLS is not spoken, and content goes by DATA:
filters of this kind were made for Postfix, which does so. What failure means for the mail: it is put off.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from appliance.connectors import smtp
from appliance.connectors.faring import Fares, Meters
from appliance.connectors.session import SmtpSession
from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.mail.policy_service import Place
from appliance.observe import metrics, oplog
from appliance.protocol.errors import Unavailable
from appliance.protocol.smtp.outgoing import Outgoing, Result, is_confused

log = oplog.get("proxy_filter")
#: Only this behind the content means that the message is taken (threats D2).
CONSENT = 250
METERS = Meters(
    metrics.counter(
        "postgate_proxy_filter_answers_total",
        "What filters before the queue said of messages, by word.",
        ("filter", "word"),
    ),
    metrics.histogram("postgate_proxy_filter_seconds", "Time of a message in such a filter.", ("filter", "stage")),
    metrics.gauge("postgate_proxy_filter_degraded", "1 while such a filter fails.", ("filter",)),
)
#: Steps of which a filter that is there again has recovered.
CONNECTING, WAITING = "connecting", "waiting for a free place"


class Settings(msgspec.Struct, frozen=True):
    """One filter. `ehlo`: what we call ourselves; times in seconds, `timeout` for a step, `total_timeout` for all."""

    name: str
    places: tuple[Place, ...]
    ehlo: str
    concurrency: int
    timeout: float
    total_timeout: float


class Health(Fares):
    """How it fares: it is there if it greets us and answers EHLO."""

    before = WAITING

    def __init__(self, settings: Settings) -> None:
        places = ", ".join(map(str, settings.places))
        super().__init__("proxy filter", settings.name, places, log, METERS, (CONNECTING,))
        self._settings = settings

    async def answers(self) -> bool:
        try:
            async with asyncio.timeout(self._settings.timeout):
                session = await connected(self._settings)
        except (ConnectFailed, TimeoutError):
            return False
        session.quit()
        return True


class ProxyFilter:
    """One filter, for all sessions of a process. `share`: how many messages of ours may be in it at once."""

    def __init__(self, settings: Settings, share: int) -> None:
        self.settings, self.health = settings, Health(settings)
        self._places = asyncio.Semaphore(share)

    async def send(self, message: Outgoing, content: Iterator[bytes], transaction: str) -> tuple[Result, ...]:
        """Hand `message` over. Raises Unavailable, ValueError for an envelope that cannot be sent, and what `content`
        raises."""
        health, clock = self.health, asyncio.get_running_loop().time
        began, one = clock(), _Handing(self.settings, health)
        try:
            if left := health.left_alone:
                raise Unavailable(left)
            async with asyncio.timeout(self.settings.total_timeout), self._places:
                results = await one.hand_over(message, content)
        except (ConnectFailed, TimeoutError, Unavailable) as error:
            why = str(error) or "no answer in time"
            late = isinstance(error, TimeoutError) or clock() - one.began >= self.settings.timeout
            health.failed(one.step, clock() - began, why, transaction, late)
            raise Unavailable(f"{why}, at {one.step}") from error
        health.well()
        health.took("message", clock() - began)
        health.said(_word(results))
        return results


class _Handing:
    """One message on its way. `step`: where it is, for the log; `began`: when it was its turn."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings, self._health = settings, health
        self.step, self.began = WAITING, 0.0

    async def hand_over(self, message: Outgoing, content: Iterator[bytes]) -> tuple[Result, ...]:
        """There is a place. Raises as `send`, and ConnectFailed."""
        if left := self._health.left_alone:  # since it waited
            raise Unavailable(left)
        self.step, self.began = CONNECTING, asyncio.get_running_loop().time()
        session = await connected(self._settings)
        self._health.connections += 1
        try:
            finished = await session.send(message, content)
        except BaseException:
            self.step = session.machine.waiting_for
            session.abort()
            raise
        finally:
            self._health.connections -= 1
        session.quit()
        if session.content_error is not None:
            raise session.content_error
        for result in _troubles(finished.results):
            self.step = result.command or "EHLO"
            raise Unavailable(result.text)
        return finished.results


async def connected(settings: Settings) -> SmtpSession:
    """The first place that gives a session. Raises ConnectFailed."""
    last = ConnectFailed("no place is configured")
    for place in settings.places:
        target = Target(host=place.host or "localhost", address=place.host, port=place.port, path=place.path)
        try:
            return await smtp.connect(target, settings.ehlo, timeouts=Timeouts.each(settings.timeout), chunking=False)
        except ConnectFailed as error:
            last = error
    raise last


def _troubles(results: tuple[Result, ...]) -> list[Result]:
    """Those that are no answers to the message: no reply, a farewell, a reply that nothing here has, or a filter that
    lost the thread."""
    troubles = [result for result in results if _is_none(result)]
    if not troubles and not any(result.kind == "delivered" for result in results):
        troubles = [result for result in results if is_confused(result)]
    return troubles


def _is_none(result: Result) -> bool:
    if result.kind == "delivered":
        return result.code != CONSENT
    return result.kind == "deferred" and (result.code == 421 or result.code // 100 not in (4, 5))


def _word(results: tuple[Result, ...]) -> str:
    """For the counts."""
    kinds = {result.kind for result in results}
    if "deferred" in kinds:
        return "defer"
    return "accept" if "delivered" in kinds else "reject"


class ProxyFilters:
    """All of one process. `workers`: processes that share what a filter takes at once (0: not known)."""

    def __init__(self, workers: int) -> None:
        self._workers = max(1, workers)
        self._known: dict[Settings, ProxyFilter] = {}

    def of(self, settings: Settings) -> ProxyFilter:
        """The filter with these settings."""
        known = self._known.get(settings)
        if known is None:
            share = max(1, settings.concurrency // self._workers)
            known = self._known[settings] = ProxyFilter(settings, share)
        return known

    def follow(self, wanted: Iterable[Settings]) -> None:
        """Listeners name these, from now on; others that a rule names are known again when it does."""
        kept = {settings: self.of(settings) for settings in wanted}
        for settings in self._known.keys() - kept.keys():
            self._known[settings].health.close()
        self._known = kept

    def health(self) -> dict[str, Any]:
        """For status."""
        fares = [known.health for known in self._known.values()]
        facts: dict[str, Any] = {one.name: one.facts() for one in fares}
        return {**facts, "degraded": [one.degraded for one in fares if one.degraded]}

    def close(self) -> None:
        for known in self._known.values():
            known.health.close()
