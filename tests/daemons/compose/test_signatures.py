"""DKIM and ARC for all who ask: at once where that is possible, one evaluation, no DNS failure worse than temperror."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from appliance.daemons.compose import signatures as module
from appliance.daemons.compose.signatures import Signatures
from appliance.mail.auth import ArcReport, DkimReport
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable
from tests.mailauth.signing import BODY, HEADER, MAIL, NOW, RULES, Letter, record, seal, sign


class Dns:
    """A Resolver: what is known by heart, and what it finds out when it is asked."""

    def __init__(self, known: Mapping[str, Any] | None = None, found: Mapping[str, Any] | None = None) -> None:
        self.known, self.found = dict(known or {}), dict(found or {})
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    def cached(self, name: str, rtype: str) -> Answer | None:
        return Answer(name, rtype, (self.known[name],), 300) if name in self.known else None

    async def query(self, name: str, rtype: str) -> Answer:
        raise AssertionError("all are asked together")

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        self.asked += [name for name, rtype in questions if rtype == "TXT"]
        if self.gate is not None:
            await self.gate.wait()
        answers: list[Answer | Unavailable] = []
        for name, rtype in questions:
            said = self.found.get(name, ())
            if isinstance(said, Exception) and not isinstance(said, Unavailable):
                raise said
            answers.append(said if isinstance(said, Unavailable) else Answer(name, rtype, tuple(said), 300, bool(said)))
        return answers


KEY = "s._domainkey.example.org"
THERE, LATER = {KEY: record()}, {KEY: (record(),)}


def made(dns: Dns) -> Signatures:
    return Signatures(dns, lambda now: msgspec.structs.replace(RULES, now=now), lambda: NOW)


async def got(answer: Any) -> Any:
    return await answer if isinstance(answer, Awaitable) else answer


async def test_at_once_if_the_key_is_at_hand() -> None:
    ports = made(Dns(THERE))
    report = ports.dkim(Letter(sign()))
    assert isinstance(report, DkimReport) and report.signatures[0].counts
    chain = ports.arc(Letter(seal(sign())))
    assert isinstance(chain, ArcReport) and chain.result == "pass"
    assert ports.dkim(Letter(MAIL)) == DkimReport() and ports.arc(Letter(MAIL)) == ArcReport()


async def test_all_keys_are_asked_together_and_one_evaluation_serves_all() -> None:
    dns = Dns(found=LATER | {"t._domainkey.example.net": (record(),)})
    dns.gate = asyncio.Event()
    ports, letter = made(dns), Letter(seal(sign(sign(), s="t", d="example.net")))
    first, second = ports.dkim(letter), ports.dkim(letter)
    assert not isinstance(first, DkimReport) and not isinstance(second, DkimReport)
    waiting = asyncio.gather(first, second)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(dns.asked) == [KEY, "t._domainkey.example.net"]
    dns.gate.set()
    one, other = await waiting
    assert one is other and [found.counts for found in one.signatures] == [True, True]
    assert ports.dkim(letter) is one, "remembered"
    assert (await got(ports.arc(letter))).result == "pass"


@pytest.mark.parametrize("dns", [{"known": THERE}, {"found": LATER}], ids=["at once", "later"])
async def test_it_is_forgotten_with_the_content(dns: dict[str, Any]) -> None:
    ports, letter = made(Dns(**dns)), Letter(seal(sign()))
    await got(ports.dkim(letter))
    await got(ports.arc(letter))
    gone = weakref.ref(letter)
    del letter
    gc.collect()
    assert gone() is None and not ports._cases


async def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    dns = Dns(found=LATER)
    dns.gate = asyncio.Event()
    ports, letter = made(dns), Letter(sign())
    hasty, patient = (asyncio.ensure_future(got(ports.dkim(letter))) for _ in range(2))
    await asyncio.sleep(0)
    hasty.cancel()
    await asyncio.sleep(0)
    dns.gate.set()
    assert (await patient).signatures[0].counts
    assert hasty.cancelled()


async def test_servfail_at_one_of_two_selectors() -> None:
    found = LATER | {"t._domainkey.example.net": Unavailable("SERVFAIL")}
    report = await got(made(Dns(found=found)).dkim(Letter(sign(sign(), s="t", d="example.net"))))
    assert [(one.result, one.counts) for one in report.signatures] == [("temperror", False), ("pass", True)]


async def test_no_such_name_is_permerror() -> None:
    report = await got(made(Dns()).dkim(Letter(sign())))
    assert [(one.result, one.reason) for one in report.signatures] == [("permerror", "no key")]


async def test_dns_trouble_of_every_kind_is_temperror(monkeypatch: Any) -> None:
    for trouble in (Unavailable("timeout"), RuntimeError("a mistake"), OSError("no sockets")):
        report = await got(made(Dns(found={KEY: trouble})).dkim(Letter(sign())))
        assert [one.result for one in report.signatures] == ["temperror"]
        assert (await got(made(Dns(found={KEY: trouble})).arc(Letter(seal(sign()))))).result == "temperror"
    monkeypatch.setattr(module, "DEADLINE", 0.01)
    dns = Dns(found=LATER)
    dns.gate = asyncio.Event()
    report = await got(made(dns).dkim(Letter(sign())))
    assert [one.result for one in report.signatures] == ["temperror"] and "0.01" in report.signatures[0].reason


class Torn(Letter):
    """A content whose file cannot be read."""

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        yield self.header
        raise OSError("input/output error")


class Odd(Letter):
    @property
    def header_complete(self) -> bool:
        raise ValueError("a mistake of ours")

    @header_complete.setter
    def header_complete(self, value: bool) -> None:
        pass


async def test_it_never_raises() -> None:
    for kind, dns in ((Torn, Dns(THERE)), (Torn, Dns(found=LATER)), (Odd, Dns(THERE))):
        ports, letter = made(dns), kind(seal(sign()))
        assert [one.result for one in (await got(ports.dkim(letter))).signatures] == ["temperror"]
        assert (await got(ports.arc(letter))).result == "temperror"


async def test_a_large_message_is_read_in_pieces() -> None:
    """And once only for DKIM and ARC together."""
    letter = Counting(seal(sign(HEADER + b"\r\n" + BODY * 20_000)))
    ports = made(Dns(THERE))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(count())
    report = ports.dkim(letter)
    assert not isinstance(report, DkimReport)
    assert (await report).signatures[0].counts
    other.cancel()
    assert turns > letter.size / 65536 / 4
    assert letter.passes == 1
    assert (await got(ports.arc(letter))).result == "pass"
    assert letter.passes == 1


class Counting(Letter):
    passes = 0

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        self.passes += 1
        return super().chunks(size)
