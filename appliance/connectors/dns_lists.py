"""The DNS lists that policies name, tested at start and daily by their test entries (RFC 5782 section 5).

Contract: mail.ports.DnsLists. A list is dead if its test entry (127.0.0.2, TEST) is not listed or gets an error code, if
it lists what nobody lists (127.0.0.1, INVALID), or if two tests in a row find no answer while DNS itself is well. One
line when it dies, one when it is well again; the state is degraded meanwhile. A list that fails for mail several times in
a row is tested at once.
What failure means for the mail: a dead list is not asked and counts nothing.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from appliance.mail.dns_list import Kind, error, shown
from appliance.mail.ports import Resolver, Unavailable
from appliance.observe import metrics, oplog
from appliance.protocol.dns import Answer

log = oplog.get("dnsbl")
#: Seconds between two tests; while a list is dead; after a test without an answer.
EVERY, DEAD, SOON = 86400.0, 300.0, 60.0
#: Failures in a row, for mail, after which a list is tested at once; tests without an answer until it is dead.
FAILURES, SILENCES = 5, 2
_ENTRIES: dict[Kind, tuple[str, str]] = {"address": ("2.0.0.127", "1.0.0.127"), "domain": ("test", "invalid")}
_dead = metrics.gauge("postgate_dns_list_degraded", "1 while a DNS list does not work and is not asked.", ("list",))


class Wanted(NamedTuple):
    """A list that a policy names. `entry`: it has a test entry."""

    zone: str
    kind: Kind
    entry: bool = True


class Server(Resolver, Protocol):
    """What is needed of net.resolver.Resolver."""

    def public(self) -> list[str]: ...

    @property
    def down(self) -> bool: ...


class _Watched:
    """One list. `why` it is dead, "" if it is not."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.why = ""
        self.due = 0.0
        self.silences = self.failures = 0
        self.silent = False
        self.tested = "not yet"

    @property
    def name(self) -> str:
        return shown(self.wanted.zone)


class DnsLists:
    """Give it up with close(). `says`: this process writes the log lines (one of all workers does)."""

    def __init__(self, *, says: bool) -> None:
        self._says = says
        self._watched: dict[tuple[str, Kind], _Watched] = {}
        self._resolver: Server | None = None
        self._public: list[str] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def follow(self, resolver: Server, wanted: Iterable[Wanted]) -> None:
        """These lists are those in force, asked through this resolver; other servers mean a new test of all."""
        lists = list(wanted)
        anew = resolver is not self._resolver
        old = {} if anew else self._watched
        watched: dict[tuple[str, Kind], _Watched] = {}
        for one in lists:
            kept = old.get((one.zone, one.kind))
            watched[one.zone, one.kind] = kept if kept is not None and kept.wanted == one else _Watched(one)
        for gone in self._watched.keys() - watched.keys():
            _dead.labels(self._watched[gone].name).set(0)
        if anew or self._watched.keys() != watched.keys():
            self._told(resolver, lists, anew or not self._watched or not watched)
        self._resolver, self._watched = resolver, watched
        self._changed.set()

    def _told(self, resolver: Server, lists: list[Wanted], news: bool) -> None:
        """Say once what is in force: a public resolver, or no list at all."""
        self._public = resolver.public()
        if not (self._says and news):
            return
        if self._public:
            level = log.warning if lists else log.info
            level("the name server is a public resolver: DNS lists do not answer it", servers=", ".join(self._public))
        if not lists:
            log.info("no DNS list is configured, the check dnsbl answers skipped")

    def trouble(self, zone: str, kind: Kind) -> str:
        """See the port."""
        watched = self._watched.get((zone, kind))
        return watched.why if watched is not None else ""

    def heard(self, zone: str, kind: Kind, why: str) -> None:
        """See the port."""
        watched = self._watched.get((zone, kind))
        if watched is None:
            return
        watched.failures = watched.failures + 1 if why else 0
        if watched.failures == FAILURES or (watched.silent and not why):
            watched.due = 0.0
            self._changed.set()

    def start(self) -> None:
        """Begin to test."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            now = clock()
            due = [watched for watched in self._watched.values() if watched.due <= now]
            await asyncio.gather(*map(self._test, due))
            soonest = min((watched.due for watched in self._watched.values()), default=None)
            try:
                async with asyncio.timeout(None if soonest is None else max(1.0, soonest - clock())):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _test(self, watched: _Watched) -> None:
        """One list; never raises."""
        clock, resolver = asyncio.get_running_loop().time, self._resolver
        assert resolver is not None
        zone, kind, entry = watched.wanted
        try:
            answers = await resolver.query_all([(f"{label}.{zone}", "A") for label in _ENTRIES[kind]])
            why, silent = judge(answers[0], answers[1], entry)
        except Exception:
            log.exception("a DNS list could not be tested by a mistake of ours", list=watched.name)
            why, silent = "no answer", True
        watched.failures, watched.silent = 0, silent
        watched.tested = why or "well"
        watched.due = clock() + (SOON if silent else DEAD if why else EVERY)
        if not silent:
            watched.silences = 0
        elif not resolver.down:  # else it is no fault of the list
            watched.silences += 1
        if not silent or watched.silences >= SILENCES:
            self._found(watched, why)

    def _found(self, watched: _Watched, why: str) -> None:
        was, watched.why = watched.why, why
        _dead.labels(watched.name).set(int(bool(why)))
        if self._says and why and not was:
            hint = {"public_resolver": ", ".join(self._public)} if self._public else {}
            log.error("a DNS list is dead and not asked any more", list=watched.name, why=why, **hint)
        elif self._says and was and not why:
            log.warning("a DNS list is well again", list=watched.name)

    @property
    def degraded(self) -> list[str]:
        """What is wrong, in words."""
        dead = [
            f"DNS list {watched.name} is not asked: {watched.why}" for watched in self._watched.values() if watched.why
        ]
        if self._watched and self._public:
            return [
                f"the name server is a public resolver ({', '.join(self._public)}): DNS lists do not answer it",
                *dead,
            ]
        return dead

    def facts(self) -> dict[str, Any]:
        """For status."""
        return {f"{watched.name} ({watched.wanted.kind})": watched.tested for watched in self._watched.values()}

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


def judge(listed: Answer | Unavailable, unlisted: Answer | Unavailable, entry: bool) -> tuple[str, bool]:
    """(why the list is dead or "", whether that is for want of an answer), of the answers for the entry that must be
    listed and the one that must not."""
    for answer in (listed, unlisted):
        if isinstance(answer, Answer) and (wrong := next(filter(None, map(error, answer.records)), "")):
            return wrong, False
    if isinstance(unlisted, Answer) and unlisted.records:
        return "it lists everything", False
    if isinstance(listed, Unavailable) or isinstance(unlisted, Unavailable):
        return "no answer", True
    if entry and not listed.records:
        return "its test entry is not listed", False
    return "", False
