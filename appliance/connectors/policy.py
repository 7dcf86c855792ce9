"""Policy services of others: kept connections, failover, retries, one deadline around all of it.

Contract: one question is outstanding on a connection; after any oddity, a timeout, or octets behind an answer the
connection is thrown away. A kept connection that the server has closed meanwhile costs no attempt. Of several places one
that hangs has its share of the time, then the next one is asked; who failed a moment ago is asked last. A place that
keeps failing is left alone for a while and looked at by ourselves (connecting, nothing is asked). What failure means for
the mail: Unavailable, which names who, which step and how long; others are served meanwhile.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from appliance.connectors.breaker import Breaker
from appliance.connectors.policy_line import Failed, Line
from appliance.mail.policy_service import Place, Service
from appliance.mail.ports import Unavailable
from appliance.observe import maillog, metrics, trouble
from appliance.observe.contact import Contact
from appliance.observe.text import counted, in_words
from appliance.protocol.policy import Answer, encode_request

_answers = metrics.counter("postgate_policy_service_answers_total", "Answers of policy services.", ("service", "kind"))
_seconds = metrics.histogram("postgate_policy_service_seconds", "Time of a question, retries included.", ("service",))
_degraded = metrics.gauge("postgate_policy_service_degraded", "1 while a policy service fails.", ("service",))


#: Seconds that a place which failed is asked last.
REST = 30.0


class _LeftAlone(Failed):
    """No place was asked."""


class _Site:
    """One place with its kept connections."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.idle: deque[Line] = deque()
        self.breaker = Breaker(self.probe)
        #: Until then it is asked last.
        self.rests = 0.0
        self._closed = False

    async def connect(self) -> Line:
        loop = asyncio.get_running_loop()
        try:
            if self.place.path:
                pair = await asyncio.open_unix_connection(self.place.path)
            else:
                pair = await asyncio.open_connection(self.place.host, self.place.port)
        except OSError as error:
            raise Failed(f"connecting to {self.place}: {in_words(error)}") from None
        return Line(self.place, *pair, loop.time())

    def failed(self, now: float) -> None:
        """It gave no answer."""
        self.breaker.failed()
        self.rests = now + REST

    async def probe(self) -> bool:
        """Does anybody listen?"""
        try:
            async with asyncio.timeout(5.0):
                (await self.connect()).close()
        except (Failed, TimeoutError):
            return False
        return True

    def keep(self, line: Line, now: float) -> None:
        """It may be used again, unless the place has been given up meanwhile."""
        line.idle_since = now
        if self._closed:
            line.close()
        else:
            self.idle.append(line)

    def kept(self, service: Service, now: float) -> Line | None:
        """The connection used last that is still good."""
        while self.idle:
            line = self.idle.pop()
            if line.fresh(service, now):
                return line
            line.close()
        return None

    def sweep(self, service: Service, now: float) -> None:
        """Close what was kept for too long."""
        for line in [line for line in self.idle if not line.fresh(service, now)]:
            self.idle.remove(line)
            line.close()

    def close(self) -> None:
        self._closed = True
        self.breaker.close()
        while self.idle:
            self.idle.pop().close()


class _Peer:
    """One service with its places, its condition, its turn."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.sites = [_Site(place) for place in service.places]
        self.turns = asyncio.Semaphore(service.connections)
        self.contact = Contact()
        self.defaulted = 0
        self._touched, self._what = trouble.Touched(), f"policy service {service.name} fails"
        #: The last failure was that nobody listened: whether somebody does is looked at without asking.
        self._unreachable = False
        self._looking: asyncio.Task[None] | None = None

    async def ask(self, request: bytes, transaction: str) -> Answer:
        """Raises Unavailable."""
        service, began = self.service, time.monotonic()
        trail: list[str] = []
        try:
            until = asyncio.get_running_loop().time() + service.timeout
            async with asyncio.timeout_at(until), self.turns:
                answer = await self._attempts(request, trail, until)
        except (Failed, TimeoutError) as error:
            if isinstance(error, _LeftAlone):
                why = f"left alone after failures: {self.contact.trouble or 'all its places fail'}"
            else:
                step = trail[-1] if trail else "waiting for a free connection"
                why = f"no answer within {service.timeout:g} s, {step}" if isinstance(error, TimeoutError) else step
                why = f"{why} ({time.monotonic() - began:.1f} s)"
                self.contact.failed(why)
                self._unreachable = why.startswith("connecting")
            self._failed(why, transaction)
            raise Unavailable(f"policy service {service.name}: {why}") from None
        _seconds.labels(service.name).observe(time.monotonic() - began)
        self._answered(answer)
        return answer

    def look(self, now: float) -> None:
        """Each second: close what was kept for too long; see whether who was away is back."""
        for site in self.sites:
            site.sweep(self.service, now)
        if self._unreachable and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        for site in self.sites:
            if self._unreachable and await site.probe():
                self._well("is there again")

    def _well(self, how: str) -> None:
        if self.contact.trouble:
            maillog.log(f"policy service {self.service.name} {how}")
        self.contact.answered()
        self._unreachable = False
        _degraded.labels(self.service.name).set(0)

    def _answered(self, answer: Answer) -> None:
        self._well("answers again")
        _answers.labels(self.service.name, "answer").inc()
        if answer.oddity:
            maillog.capped("odd policy answer", f"policy service {self.service.name}: {answer.oddity}")

    def _failed(self, why: str, transaction: str) -> None:
        self.defaulted += 1
        self._touched.touch(self._what, transaction)
        _degraded.labels(self.service.name).set(1)
        _answers.labels(self.service.name, "none").inc()
        maillog.capped("policy service", f"{transaction}: policy service {self.service.name}: {why}")

    async def _attempts(self, request: bytes, trail: list[str], until: float) -> Answer:
        """Every place in order, so many times. `trail` says how far it got."""
        clock = asyncio.get_running_loop().time
        for attempt in range(self.service.tries):
            if attempt:
                await asyncio.sleep(self.service.retry_delay)
            well = [site for site in self.sites if not site.breaker.is_open]
            well.sort(key=lambda site: site.rests > clock())
            if not well:
                raise Failed if trail else _LeftAlone
            for left, site in zip(range(len(well), 0, -1), well, strict=True):
                try:
                    answer = await self._share(site, request, trail, (until - clock()) / left if left > 1 else None)
                except Failed as error:
                    trail.append(str(error))
                    site.failed(clock())
                except BaseException:
                    if clock() > until - 0.01:  # else who asked is gone: that says nothing of the place
                        site.failed(clock())
                    raise
                else:
                    site.breaker.succeeded()
                    site.rests = 0.0
                    return answer
        raise Failed

    async def _share(self, site: _Site, request: bytes, trail: list[str], seconds: float | None) -> Answer:
        """One place, in its share of the time."""
        try:
            async with asyncio.timeout(seconds) as share:
                return await self._exchange(site, request, trail)
        except TimeoutError:
            if not share.expired():
                raise
            raise Failed(f"{trail[-1]}: nothing within {seconds:.1f} s") from None

    async def _exchange(self, site: _Site, request: bytes, trail: list[str]) -> Answer:
        now = asyncio.get_running_loop().time()
        line = site.kept(self.service, now)
        if line is not None:
            trail.append(f"waiting for the answer of {site.place}")
            with contextlib.suppress(Failed):  # it had gone away meanwhile: that is no failure yet
                return await self._over(line, site, request)
        trail.append(f"connecting to {site.place}")
        line = await site.connect()
        trail.append(f"waiting for the answer of {site.place}")
        return await self._over(line, site, request)

    async def _over(self, line: Line, site: _Site, request: bytes) -> Answer:
        good = False
        try:
            answer, good = await line.ask(request)
        finally:
            if not good:
                line.close()
        if good:
            site.keep(line, asyncio.get_running_loop().time())
        return answer

    def trouble(self) -> dict[str, Any]:
        """The reason is "" if nothing is wrong."""
        return self._touched.told(self._what, self.contact.trouble)

    def facts(self) -> dict[str, Any]:
        facts = {**self.contact.facts(), "connections kept": sum(len(site.idle) for site in self.sites)}
        if self.defaulted:
            facts["default taken"] = f"{counted(self.defaulted, 'time')} (last: {', '.join(self.trouble()['last'])})"
        return facts

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for site in self.sites:
            site.close()


class PolicyClients:
    """mail.policy_service.PolicyServices: all services of a process. `follow` takes over those that stay the same."""

    def __init__(self) -> None:
        self._peers: dict[Service, _Peer] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, service: Service, attributes: Mapping[str, str], transaction: str) -> Answer:
        """Raises Unavailable."""
        return await self._peer(service).ask(encode_request(attributes), transaction)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _peer(self, service: Service) -> _Peer:
        peer = self._peers.get(service)
        if peer is None:
            peer = self._peers[service] = _Peer(service)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(1.0, self._sweep)
        return peer

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(1.0, self._sweep)
        for peer in self._peers.values():
            peer.look(loop.time())

    def follow(self, services: tuple[Service, ...]) -> None:
        """Only these are in force; questions under way end over what they have."""
        for service in self._peers.keys() - set(services):
            self._peers.pop(service).close()
        for service in services:
            self._peer(service)

    def health(self) -> dict[str, Any]:
        """For status."""
        degraded = [peer.trouble() for peer in self._peers.values() if peer.contact.trouble]
        return {**{peer.service.name: peer.facts() for peer in self._peers.values()}, "degraded": degraded}

    def close(self) -> None:
        """Hang up everywhere."""
        if self._timer is not None:
            self._timer.cancel()
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
