"""Call-ahead: does the next hop take this recipient? With a cache, joined questions, and limits for the next hop's sake.

Contract (mail.ports.Recipients): `cached` never waits; `probe` answers within DEADLINE, and never raises for what a
next hop does. An address is `unknown` only if the next hop said so of the address itself; anything else it could not or
would not say is `unverifiable`, unless an older answer still holds. A random address asked first in the same
transaction tells a next hop that accepts everything: then the whole domain is `blind`, and said so in health().
Limits a next hop and its rest after a failure: connectors/probing.py.
What failure means for the mail: outcome `unverifiable`: what is known is taken, strangers' addresses are put off.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from appliance.connectors import smtp
from appliance.connectors.ahead_status import AheadStatus, no_way
from appliance.connectors.probing import Destination, Door, NobodyToAsk, state_of, verifies_nothing
from appliance.connectors.session import SmtpSession
from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.mail.later import answered, waits
from appliance.mail.ports import Probe, Unavailable
from appliance.net.mx import NoPlace
from appliance.observe import metrics
from appliance.protocol.smtp.address import Address
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient, Result, worded

DEADLINE = 10.0

_probes = metrics.counter("postgate_callahead_probes_total", "Call-ahead probes by what they found.", ["state"])


#: The places for an address, best first. Raises Unavailable (DNS) or net.mx.NoPlace.
DoorsOf = Callable[[Address], Awaitable[Sequence[Door]]]
#: The names of the next hops of an address as they are now (Door.name). Raises Unavailable.
NamesOf = Callable[[Address], Collection[str] | Awaitable[Collection[str]]]


Names = Collection[str] | None


class Held(Protocol):
    """A cached result; `stale`: it holds, but should be asked again."""

    @property
    def probe(self) -> Probe: ...
    @property
    def stale(self) -> bool: ...


class Cache(Protocol):
    """stores.callahead_cache.CallaheadCache."""

    def look(self, key: str) -> Held | None: ...

    async def get(self, key: str) -> Held | None: ...

    def put(self, key: str, probe: Probe) -> None: ...


class Found(NamedTuple):
    """What one transaction found out: of the address, and of the domain ("blind", "exact", or "" = nothing)."""

    address: Probe
    domain: str = ""


class Callahead:
    """mail.ports.Recipients. `hostname` (may change) is our EHLO name, `sender` the probes' MAIL FROM ("" = `<>`).
    `names_of`: a "no" or "blind" that another next hop said before the routes changed does not count. `own` are next hops
    of this machine that take every address on purpose: nothing is degraded by that."""

    def __init__(
        self,
        doors_of: DoorsOf,
        cache: Cache,
        *,
        hostname: str,
        sender: str = "",
        deadline: float = DEADLINE,
        names_of: NamesOf | None = None,
        own: Collection[str] = (),
    ) -> None:
        self._doors_of, self._cache, self._names_of, self.own = doors_of, cache, names_of, own
        self.hostname, self._sender, self._deadline = hostname, sender, deadline
        #: A step ends a little before the whole, so that it is told which one it was.
        self._timeouts = Timeouts.each(0.9 * deadline)
        self._status = AheadStatus()
        self._destinations: dict[tuple[str, Target], Destination] = {}
        self._running: dict[str, asyncio.Task[Probe]] = {}
        #: Domains whose next hop (by name) takes every address.
        self._blind: dict[str, str] = {}

    def cached(self, address: Address) -> Probe | None:
        """What is at hand. A positive answer that is stale is given, and asked again meanwhile."""
        return self._answer(address, self._cache.look(_domain_key(address)), self._cache.look(_key(address)))

    def _answer(self, address: Address, domain: Held | None, held: Held | None, names: Names = None) -> Probe | None:
        """What the cache answers, None: ask the next hop."""
        blind = domain is not None and domain.probe.state == "blind" and not domain.stale
        if domain is not None and blind and self._counts(address, domain, names):
            self._blind[address.domain] = domain.probe.source
            return domain.probe
        if held is None or not self._counts(address, held, names) or (held.stale and held.probe.state != "known"):
            return None
        if held.stale:
            self._start(address)
        return held.probe

    def _counts(self, address: Address, held: Held, names: Names = None) -> bool:
        """Whether what was found still says something of where mail goes now (`names`: there, if that is known)."""
        if held.probe.state not in ("unknown", "blind") or self._names_of is None or not held.probe.source:
            return True
        try:
            found = self._names_of(address) if names is None else names
            return not waits(found) and held.probe.source in found  # type: ignore[operator]
        except Unavailable:
            return True

    def _is_of(self, domain: Held, address: Address, names: Names) -> bool:
        """Whether it was the next hop of this very address that told strangers from users, or did not."""
        if self._names_of is None or not domain.probe.source:
            return True
        try:
            found = self._names_of(address) if names is None else names
            return waits(found) or domain.probe.source in found  # type: ignore[operator]
        except Unavailable:
            return True

    async def _names(self, address: Address) -> Names:
        """Where its mail goes now, if only a table that is not in memory knows."""
        try:
            found = () if self._names_of is None else self._names_of(address)
            return await answered(found) if waits(found) else None
        except Unavailable:
            return None

    async def probe(self, address: Address) -> Probe:
        """Ask the cache, then the next hop. Identical questions share one answer."""
        held, names = await self._cache.get(_key(address)), await self._names(address)
        known = self._answer(address, await self._cache.get(_domain_key(address)), held, names)
        if known is not None:
            return known
        found = await asyncio.shield(self._start(address))
        if found.state == "unverifiable" and held is not None and self._counts(address, held, names):
            return held.probe
        if found.state == "unverifiable":
            self._status.unverified(found.source, self._destinations.values())
        return found

    def _start(self, address: Address) -> asyncio.Task[Probe]:
        key = _key(address)
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(self._run(address))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def _run(self, address: Address) -> Probe:
        asked = [""]
        try:
            async with asyncio.timeout(self._deadline):
                found = await self._ask(address, asked)
        except TimeoutError:
            found = Found(_unverifiable("no answer in time", asked[-1]))
        except NobodyToAsk as end:
            return Probe("known", f"{end} takes every address", time.time(), str(end))
        except (Unavailable, NoPlace) as error:
            found = Found(_unverifiable(str(error), no_way(address.domain)))
        except (OSError, ValueError) as error:
            found = Found(_unverifiable(str(error)))
        _probes.labels(found.address.state).inc()
        if found.domain:
            self._cache.put(_domain_key(address), Probe(found.domain, "", time.time(), found.address.source))
        if found.domain == "blind":
            self._blind[address.domain] = found.address.source
            return found.address
        self._blind.pop(address.domain, None)
        self._cache.put(_key(address), found.address)
        return found.address

    async def _ask(self, address: Address, asked: list[str]) -> Found:
        """Try the places in their order; the first that talks to us answers. `asked` gets their names."""
        domain = await self._cache.get(_domain_key(address))
        with_random = domain is None or domain.stale or not self._is_of(domain, address, await self._names(address))
        why = ""
        for door in await self._doors(address):
            asked.append(door.name)
            place = door.name, door.target
            destination = self._destinations.get(place)
            if destination is None:
                destination = self._destinations[place] = Destination(door.name)
            if time.monotonic() < destination.rests_until:
                why = destination.trouble
                continue
            try:
                async with destination.slots:
                    if not destination.may_ask():
                        return Found(_unverifiable(f"{door.name}: too many probes"))
                    begun = time.monotonic()
                    return await self._transact(destination, door, address, with_random)
            except ConnectFailed as error:
                why = f"{error}, after {time.monotonic() - begun:.1f} s"
                destination.failed(why)
            except asyncio.CancelledError:
                destination.failed(f"{door.name}: no answer in time")
                raise
        return Found(_unverifiable(why, asked[-1]))

    async def _doors(self, address: Address) -> Sequence[Door]:
        """The places to ask, one at least. Raises Unavailable and NoPlace."""
        try:
            if doors := await self._doors_of(address):
                self._status.found(address.domain)
                return doors
            raise NoPlace("no next hop is configured", "5.4.4")
        except (Unavailable, NoPlace) as error:
            self._status.lost(address.domain, str(error))
            raise

    async def _transact(self, destination: Destination, door: Door, address: Address, with_random: bool) -> Found:
        """One transaction. An old session that proves dead is replaced by a new one. One question at a time: an answer
        too many is noticed before it is taken for the next question's."""
        asked = [address.text]
        if with_random:
            asked.insert(0, f"postgate-probe-{random.getrandbits(64):016x}@{address.domain}")
        session = destination.take()
        if session is not None:
            results = await self._once(session, asked, destination)
            if session.alive or results[-1].code:
                return self._found(destination, door.target.peer, results)
        session = await smtp.connect(
            door.target, self.hostname, door.level, door.context, self._timeouts, chunking=False, pipelining=False
        )
        results = await self._once(session, asked, destination)
        if not session.alive and not results[-1].code:
            raise ConnectFailed(f"{door.name}: {results[-1].text}")
        return self._found(destination, door.target.peer, results)

    async def _once(self, session: SmtpSession, asked: Sequence[str], destination: Destination) -> tuple[Result, ...]:
        envelope = Outgoing(self._sender, tuple(OutgoingRecipient(address) for address in asked))
        try:
            finished = await session.send(envelope, b"", probe=True)
        except BaseException:
            session.close()
            raise
        destination.give(session)
        return finished.results

    def _found(self, destination: Destination, peer: str, results: Sequence[Result]) -> Found:
        mine = results[-1]
        if verifies_nothing(mine):
            destination.impaired(worded(mine, peer))
        else:
            destination.answered()
        state = state_of(mine)
        domain = ""
        if len(results) == 2:
            domain = {"known": "blind", "unknown": "exact"}.get(state_of(results[0]), "")
        if domain == "blind":
            state = "blind"
        return Found(Probe(state, mine.text, time.time(), destination.name), domain)

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`."""
        degraded = self._status.degraded(self._destinations.values())
        blind = sorted(domain for domain, name in self._blind.items() if name not in self.own)
        degraded += [f"call-ahead: the next hop of {domain} accepts every address" for domain in blind]
        return {
            "probing": len(self._running),
            "blind": sorted(self._blind),
            "next hops": {place.name: place.contact.facts() for place in list(self._destinations.values())[:20]},
            "degraded": degraded,
        }

    async def close(self) -> None:
        """Give up what runs and hang up everywhere."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for destination in self._destinations.values():
            destination.close()


def _key(address: Address) -> str:
    """Case counts: where the inside keeps it apart, nobody shall spoil another's entry by asking for BOB."""
    return f"{address.local}@{address.domain}"


def _domain_key(address: Address) -> str:
    return f"@{address.domain}"


def _unverifiable(why: str, source: str = "") -> Probe:
    return Probe("unverifiable", why, time.time(), source)
