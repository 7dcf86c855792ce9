"""The one resolver that everything uses (design section 8): zone file, cache, then the name servers.

Contract: `query` answers or raises Unavailable (SERVFAIL, timeout, too many questions): it never invents "no record".
Equal questions that are under way are asked once. Two tries at least, over all servers, within `timeout` seconds
altogether; the server that answered last is asked first. What no server answers is served stale for an hour where it
was known, after 1.8 s of waiting at most (RFC 8767).
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from appliance.net import message
from appliance.net.answers import AnswerCache, Key
from appliance.net.client_name import ClientName, confirm
from appliance.net.message import Question, Reply
from appliance.net.public import public_servers
from appliance.net.upstream import Failed, Upstream, parse_server
from appliance.net.zone import Zone
from appliance.observe import metrics, trouble
from appliance.protocol import quota
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable

_STALE = metrics.counter("postgate_dns_stale_total", "Answers served after their time because no server answered")
_MAX_CNAMES = 8
_MAX_IN_FLIGHT = 1000
#: RFC 8767 section 5: who has a stale answer does not wait longer than this for a fresh one.
_STALE_AFTER = 1.8
#: What fails is asked again by ourselves, in so many seconds after the last time.
_LOOK = 10.0
_NO_ANSWER = "no DNS server answers"
_LOCALHOST = {("localhost", "A"): ("127.0.0.1",), ("localhost", "AAAA"): ("::1",)}


def system_nameservers(path: str = "/etc/resolv.conf") -> list[str]:
    """The system's name servers; 127.0.0.1 where there is no such file or no server in it (as resolv.conf(5) says)."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = [line.split() for line in file]
    except OSError:
        words = []
    found = [word[1].partition("%")[0] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return found[:3] or ["127.0.0.1"]


class Resolver:
    """Implements mail.ports.Resolver. `nameservers` as an operator writes them (none: the system's); `zone` the octets of
    a zone file; `timeout` and `ttl_floor` in seconds. Raises ValueError for a server or zone that cannot be read."""

    def __init__(
        self, nameservers: Sequence[str] = (), zone: bytes = b"", timeout: float = 5.0, ttl_floor: float = 0.0
    ) -> None:
        self.upstreams = [Upstream(*parse_server(text)) for text in nameservers or system_nameservers()]
        zone_file = Zone(zone)
        self._zone = lru_cache(8192)(zone_file.answer) if zone_file else None
        self._timeout = timeout
        self._cache = AnswerCache(ttl_floor)
        self._asking: dict[Key, asyncio.Task[Answer]] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._touched = trouble.Touched()

    def cached(self, name: str, rtype: str) -> Answer | None:
        """An answer that is at hand without IO (zone file, cache), else None."""
        key = (name.lower().rstrip("."), rtype)
        return self._cache.get(key, time.monotonic()) or self._local(key)

    def _local(self, key: Key) -> Answer | None:
        try:
            found = self._zone(*key) if self._zone else None
            message.name_octets(key[0])
        except ValueError:
            return Answer(*key, exists=False)  # what cannot be a name does not exist
        if found is None and key in _LOCALHOST:
            return Answer(*key, _LOCALHOST[key], 86400)
        return found

    async def query(self, name: str, rtype: str) -> Answer:
        """The answer (RFC 1035). Raises Unavailable if there is none in time and none that is stale."""
        if answer := self.cached(name, rtype):
            return answer
        try:
            return await self._find((name.lower().rstrip("."), rtype))
        except (Unavailable, asyncio.CancelledError):
            if (touched := quota.message()) and all(server.silent for server in self.upstreams):
                self._touched.touch(_NO_ANSWER, touched)
            raise

    async def _find(self, key: Key) -> Answer:
        """What is not at hand."""
        if why := self._cache.failure(key, time.monotonic()):
            return self._stale_or_raise(key, why)
        if (allowed := quota.current.get()) is not None:
            allowed.take()
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= _MAX_IN_FLIGHT:
                return self._stale_or_raise(key, f"more than {_MAX_IN_FLIGHT} DNS questions are under way")
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        if self._cache.stale(key, time.monotonic()) is not None:
            done, _ = await asyncio.wait((task,), timeout=min(_STALE_AFTER, self._timeout))
            return task.result() if done else self._stale_or_raise(key, "no answer in time")
        # Shielded: who gives up waiting must not take the answer from the others.
        return await asyncio.shield(task)

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        """All of them asked at once, the answers in their order; one that has none is its Unavailable."""
        found = [self.cached(*question) for question in questions]
        open_ones = [question for question, answer in zip(questions, found, strict=True) if answer is None]
        asked = iter(await asyncio.gather(*(self._or_why(*question) for question in open_ones)))
        return [answer or next(asked) for answer in found]

    async def _or_why(self, name: str, rtype: str) -> Answer | Unavailable:
        try:
            return await self.query(name, rtype)
        except Unavailable as error:
            return error

    def _asked(self, key: Key, task: "asyncio.Task[Answer]") -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, even if everybody who waited is gone

    def _stale_or_raise(self, key: Key, why: str) -> Answer:
        if answer := self._cache.stale(key, time.monotonic()):
            _STALE.inc()
            return answer
        raise Unavailable(why)

    async def _ask(self, key: Key) -> Answer:
        try:
            answer = await self._resolve(key)
        except Unavailable as error:
            self._cache.fail(key, str(error), time.monotonic())
            return self._stale_or_raise(key, str(error))
        self._cache.put(key, answer, time.monotonic())
        return answer

    async def _resolve(self, key: Key) -> Answer:
        """Ask, following CNAMEs that a server left open, at most 8 of them altogether."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            chain = _Chain(key)
            while True:
                reply = await self._try_servers(Question(chain.name, chain.rtype), deadline)
                if (found := chain.follow(reply)) is not None:
                    return found
        except ValueError as error:
            raise Unavailable(f"rubbish for {key[0]} {key[1]}: {error}") from error

    async def _try_servers(self, question: Question, deadline: float) -> Reply:
        """Each server twice, or once if it said that it has no answer."""
        loop = asyncio.get_running_loop()
        servers = self.upstreams[:3] * 2
        share = self._timeout / len(servers)
        said: set[Upstream] = set()
        why = ""
        for server in servers:
            if server in said:
                continue
            try:
                return await server.ask(question, min(deadline, loop.time() + share))
            except Failed as error:
                why = str(error)
                if error.kind in ("servfail", "refused"):
                    said.add(server)
                self._step_back(server)
            if loop.time() >= deadline:
                break
        raise Unavailable(why)

    def _step_back(self, server: Upstream) -> None:
        if self.upstreams[0] is server:  # the next question begins with another one
            self.upstreams.append(self.upstreams.pop(0))

    async def client_name(self, address: str) -> ClientName:
        """The forward-confirmed name of an address, see net.client_name; never raises."""
        return await confirm(self.query, address)

    def public(self) -> list[str]:
        """Those of the servers that are public resolvers, with their operators, see net.public."""
        return public_servers(server.host for server in self.upstreams)

    @property
    def down(self) -> bool:
        """No server answers."""
        return all(server.down for server in self.upstreams)

    def health(self) -> dict[str, Any]:
        """Facts for status: the servers as they were when they were asked last, the size of the cache."""
        self._look()
        servers = {str(server): server.contact.facts() for server in self.upstreams}
        facts: dict[str, Any] = {"servers": servers, "cached": len(self._cache), "degraded": self._degraded()}
        return {**facts, "public": public} if (public := self.public()) else facts

    def _degraded(self) -> list[trouble.Said]:
        """Of several servers those that fail; if all do, the messages that went without an answer, too."""
        if self.down:
            return [self._touched.told(_NO_ANSWER, self.upstreams[0].contact.trouble)]
        down = [server for server in self.upstreams if server.down]
        return [trouble.said(f"DNS server {server} fails", server.contact.trouble) for server in down]

    def _look(self) -> None:
        """Ask those that failed what they did not answer last: the others are asked before them, and who needs nothing
        would never know that they are back."""
        for server in self.upstreams:
            if server.missed is None or not server.trouble:
                continue
            now = asyncio.get_running_loop().time()
            if now - server.asked_at >= _LOOK:
                task = asyncio.create_task(_look(server, server.missed, now + self._timeout))
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)


async def _look(server: Upstream, question: Question, deadline: float) -> None:
    with suppress(Failed):  # the server knows
        await server.ask(question, deadline)


class _Chain:
    """Follows one name through CNAMEs over one or more replies."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self.name, self.rtype = message.name_octets(key[0]), message.type_number(key[1])
        self._ttl = 2**31
        self._links = 0

    def follow(self, reply: Reply) -> Answer | None:
        """The answer, or None: ask for `name` now. Raises Unavailable for too long a chain, ValueError for rubbish."""
        asked = self.name
        while True:
            if found := reply.sets.get((self.name, self.rtype)):
                return self._answer(reply.texts(self.rtype, found), reply.ttl(found), True)
            alias = reply.sets.get((self.name, message.CNAME))
            if alias is None:
                break
            self._links += 1
            if self._links > _MAX_CNAMES:
                raise Unavailable(f"more than {_MAX_CNAMES} CNAMEs in a chain")
            self.name, self._ttl = reply.target(alias[0]), min(self._ttl, reply.ttl(alias))
        exists = reply.rcode != message.NXDOMAIN
        if exists and reply.negative is None and reply.sets:
            if self.name == asked:  # to ask it again would have no end
                raise ValueError("records of other names only")
            return None  # the server did not follow to the end
        return self._answer((), reply.negative or 0, exists)

    def _answer(self, found: tuple[str, ...], ttl: int, exists: bool) -> Answer:
        return Answer(*self._key, found, min(self._ttl, ttl), exists)
