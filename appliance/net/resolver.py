"""The one resolver that everything uses (design section 8): zone file, cache, then the name servers.

Contract: `query` answers or raises Unavailable (SERVFAIL, timeout, too many questions): it never invents "no record".
Equal questions that are under way are asked once. Two tries at least, over all servers, within `timeout` seconds
altogether; the server that answered last is asked first. What no server answers is served stale for an hour where it
was known.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from appliance.net import records
from appliance.net.answers import AnswerCache, Key
from appliance.net.client_name import ClientName, confirm
from appliance.net.upstream import Upstream, parse_server
from appliance.net.zone import Zone
from appliance.observe import metrics
from appliance.observe.contact import Contacts
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable

_QUERIES = metrics.counter("postgate_dns_queries_total", "Questions to name servers", ("server", "result"))
_SECONDS = metrics.histogram("postgate_dns_seconds", "Time that name servers took", ("server",))
_MAX_CNAMES = 8
_MAX_IN_FLIGHT = 1000
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
        self._zone = Zone(zone)
        self._timeout = timeout
        self._cache = AnswerCache(ttl_floor)
        self._asking: dict[Key, asyncio.Task[Answer]] = {}
        self._contacts = Contacts()

    def cached(self, name: str, rtype: str) -> Answer | None:
        """An answer that is at hand without IO (zone file, cache), else None."""
        key = (name.lower().rstrip("."), rtype)
        if answer := self._cache.get(key, time.monotonic()):
            return answer
        return self._local(key)

    def _local(self, key: Key) -> Answer | None:
        try:
            found = self._zone.answer(*key) if self._zone else None
            records.question(key[0])
        except ValueError:
            return Answer(*key, exists=False)  # what cannot be a name does not exist
        if found is None and key in _LOCALHOST:
            return Answer(*key, _LOCALHOST[key], 86400)
        return found

    async def query(self, name: str, rtype: str) -> Answer:
        """The answer (RFC 1035). Raises Unavailable if there is none in time and none that is stale."""
        if answer := self.cached(name, rtype):
            return answer
        key = (name.lower().rstrip("."), rtype)
        if why := self._cache.failure(key, time.monotonic()):
            return self._stale_or_raise(key, why)
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= _MAX_IN_FLIGHT:
                raise Unavailable(f"more than {_MAX_IN_FLIGHT} DNS questions are under way")
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        # Shielded: who gives up waiting must not take the answer from the others.
        return await asyncio.shield(task)

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        """All of them asked at once, the answers in their order; one that has none is its Unavailable."""
        found: list[Answer | Unavailable | None] = [self.cached(*question) for question in questions]
        open_ones = [number for number, answer in enumerate(found) if answer is None]
        for number, answer in zip(
            open_ones, await asyncio.gather(*(self._or_why(*questions[n]) for n in open_ones)), strict=True
        ):
            found[number] = answer
        return [answer for answer in found if answer is not None]

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
        chain = _Chain(records.question(key[0]), key[1])
        while True:
            message = await self._try_servers(chain.name, key[1], deadline)
            if (found := chain.follow(message)) is not None:
                return found._replace(name=key[0])

    async def _try_servers(self, name: dns.name.Name, rtype: str, deadline: float) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        servers = list(self.upstreams)
        tries = min(max(2, 2 * len(servers)), 6)
        share = self._timeout / tries
        why = ""
        for number in range(tries):
            server = servers[number % len(servers)]
            begun = loop.time()
            try:
                answer = await server.ask(name, rtype, min(deadline, loop.time() + share))
            except Unavailable as error:
                why = str(error)
                self._failed(server, why)
                if loop.time() >= deadline or (len(servers) == 1 and "answered" in why):
                    break
                continue
            server.failures = 0
            self._contacts.of(str(server)).answered()
            _QUERIES.labels(str(server), "answered").inc()
            _SECONDS.labels(str(server)).observe(loop.time() - begun)
            return answer
        raise Unavailable(why)

    def _failed(self, server: Upstream, why: str) -> None:
        server.failures += 1
        self._contacts.of(str(server)).failed(why)
        _QUERIES.labels(str(server), "failed").inc()
        if self.upstreams[0] is server:  # the next question begins with another one
            self.upstreams.append(self.upstreams.pop(0))

    async def client_name(self, address: str) -> ClientName:
        """The forward-confirmed name of an address, see net.client_name; never raises."""
        return await confirm(self.query, address)

    def health(self) -> dict[str, Any]:
        """Facts for status: the servers as they were when they were asked last, the size of the cache."""
        servers = {str(server): self._contacts.of(str(server)).facts() for server in self.upstreams}
        down = bool(servers) and all(server.failures >= 3 for server in self.upstreams)
        return {"servers": servers, "cached": len(self._cache), "degraded": ["no DNS server answers"] if down else []}


class _Chain:
    """Follows one name through CNAMEs over one or more answers."""

    def __init__(self, name: dns.name.Name, rtype: str) -> None:
        self.name = name
        self._rtype = dns.rdatatype.from_text(rtype)
        self._ttl = 2**31
        self._links = 0

    def follow(self, message: dns.message.Message) -> Answer | None:
        """The answer, or None: ask for `name` now. Raises Unavailable if the chain is too long."""
        while True:
            if found := self._find(message, self._rtype):
                return self._answer(tuple(map(records.text, found)), found.ttl, True)
            alias = self._find(message, dns.rdatatype.CNAME)
            if alias is None:
                break
            self._links += 1
            if self._links > _MAX_CNAMES:
                raise Unavailable(f"more than {_MAX_CNAMES} CNAMEs in a chain")
            self.name, self._ttl = alias[0].target, min(self._ttl, alias.ttl)
        negative = _negative_ttl(message)
        exists = message.rcode() != dns.rcode.NXDOMAIN
        if exists and negative is None and message.answer:
            return None  # the server did not follow to the end
        return self._answer((), negative or 0, exists)

    def _answer(self, found: tuple[str, ...], ttl: int, exists: bool) -> Answer:
        return Answer(str(self.name), dns.rdatatype.to_text(self._rtype), found, min(self._ttl, ttl), exists)

    def _find(self, message: dns.message.Message, rtype: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
        return message.get_rrset(message.answer, self.name, dns.rdataclass.IN, rtype)


def _negative_ttl(message: dns.message.Message) -> int | None:
    """Seconds that "no such thing" may be kept (RFC 2308): None without an SOA record."""
    for rrset in message.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return min(int(rrset.ttl), int(rrset[0].minimum))
    return None
