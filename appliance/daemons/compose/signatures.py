"""DKIM and ARC of a message for all who ask: keys from DNS, body hashes in pieces, each result remembered.

Contract: `dkim` and `arc` answer at once where all keys are at hand and the message is small, else they give something to
await; they never raise. A message is read, and its body hashed, once for both, and forgotten with its content. While a
large body is hashed others have their turn between any two pieces. What failure means for the mail: what DNS could not
answer within DEADLINE is `temperror` of the signatures it is about; trouble with the content itself is one of the whole.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import ref

from appliance.mail.auth import ArcReport, DkimReport, Signature
from appliance.mail.ports import Content, Resolver, Unavailable
from appliance.mailauth import arc, dkim
from appliance.mailauth.dkim import Answers, Rules
from appliance.mailauth.dkim_message import Message
from appliance.observe import oplog

#: Seconds for all keys of a message together.
DEADLINE = 10.0
#: Octets of a message that is verified without a pause.
SMALL = 131072

Report = TypeVar("Report", DkimReport, ArcReport)
Work = Generator[None, None, Report]
_log = oplog.get("signatures")
#: What arc.judge says of nearly every message.
_NO_CHAIN = ArcReport(result="none")


class Case:
    """What was read of one message, and the reports, ready or under way. Its content is not held: when that is gone,
    `gone` is called."""

    __slots__ = ("arc", "chain", "content", "dkim", "message", "rules", "signatures", "unread")

    def __init__(self, content: Content, rules: Rules, gone: Callable[[object], object]) -> None:
        self.content, self.rules = ref(content, gone), rules
        self.message = Message(content)
        self.signatures, self.unread = dkim.read(self.message, rules.signatures)
        self.chain = arc.read(self.message)
        self.dkim: DkimReport | asyncio.Future[DkimReport] | None = None
        self.arc: ArcReport | asyncio.Future[ArcReport] | None = None


class Signatures:
    """The DKIM and ARC part of mail.ports.Authentication. `rules(now)` are those of the policies in force."""

    def __init__(
        self, resolver: Resolver, rules: Callable[[float], Rules], clock: Callable[[], float] = time.time
    ) -> None:
        self._resolver, self._rules, self._clock = resolver, rules, clock
        #: By the identity of the content, as long as that lives.
        self._cases: dict[int, Case] = {}

    def dkim(self, content: Content) -> DkimReport | Awaitable[DkimReport]:
        try:
            case = self._cases.get(id(content)) or self._open(content)
            if case.dkim is None:
                case.dkim = self._dkim_at_once(content, case)
            if case.dkim is None:
                names = dkim.questions(case.signatures)
                case.dkim = self._answer(
                    content,
                    names,
                    lambda said: dkim.judge(content, case.message, case.signatures, case.unread, said, case.rules),
                    _no_dkim,
                )
        except Exception as error:
            return _no_dkim(error)
        return _settled(case.dkim)

    def arc(self, content: Content) -> ArcReport | Awaitable[ArcReport]:
        try:
            case = self._cases.get(id(content)) or self._open(content)
            if not case.chain.instances:
                return _NO_CHAIN
            if case.arc is None:
                names = arc.questions(case.chain)
                case.arc = self._answer(
                    content, names, lambda said: arc.judge(content, case.message, case.chain, said, case.rules), _no_arc
                )
        except Exception as error:
            return _no_arc(error)
        return _settled(case.arc)

    def _open(self, content: Content) -> Case:
        key = id(content)
        case = Case(content, self._rules(self._clock()), partial(self._cases.pop, key))
        self._cases[key] = case
        return case

    def _dkim_at_once(self, content: Content, case: Case) -> DkimReport | None:
        """Nearly every message: small, one signature, its key at hand. None for others."""
        if len(case.signatures) != 1:
            return None
        name = case.signatures[0].key_name
        answer = self._resolver.cached(name, "TXT") if not case.signatures[0].broken else None
        if answer is None:
            return None
        return dkim.at_once(content, case.message, case.signatures, case.unread, {name: answer}, case.rules)

    def _answer(
        self,
        content: Content,
        names: Sequence[str],
        begin: Callable[[Answers], "Work[Report]"],
        failed: Callable[[Exception], Report],
    ) -> "Report | asyncio.Future[Report]":
        """At once if nothing has to be waited for."""
        known: dict[str, Any] = {name: self._resolver.cached(name, "TXT") for name in names}
        if content.size > SMALL or None in known.values():
            return asyncio.ensure_future(self._later(known, begin, failed))
        work = begin(known)
        try:
            next(work)
        except StopIteration as end:
            report: Report = end.value
            return report
        return asyncio.ensure_future(_finish(work, failed))

    async def _later(
        self,
        known: dict[str, Any],
        begin: Callable[[Answers], "Work[Report]"],
        failed: Callable[[Exception], Report],
    ) -> Report:
        missing = [name for name, answer in known.items() if answer is None]
        if missing:
            known.update(zip(missing, await self._ask(missing), strict=True))
        return await _finish(begin(known), failed)

    async def _ask(self, names: Sequence[str]) -> Sequence[Any]:
        """The keys, all asked together."""
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._resolver.query_all([(name, "TXT") for name in names])
        except TimeoutError:
            return [Unavailable(f"no answer within {DEADLINE:g} s")] * len(names)
        except Exception as error:
            _log.error("asking for keys failed", exc_info=error)
            return [Unavailable(f"failed: {type(error).__name__}")] * len(names)


async def _finish(work: "Work[Report]", failed: Callable[[Exception], Report]) -> Report:
    """Do the work piece by piece; others have their turn in between."""
    try:
        while True:
            next(work)
            await asyncio.sleep(0)
    except StopIteration as end:
        report: Report = end.value
        return report
    except Exception as error:
        return failed(error)


def _settled(found: "Report | asyncio.Future[Report]") -> Report | Awaitable[Report]:
    """The report if it is there. Shielded: who gives up waiting must not take it from the others."""
    if not isinstance(found, asyncio.Future):
        return found
    return found.result() if found.done() and not found.cancelled() else asyncio.shield(found)


def _no_dkim(error: Exception) -> DkimReport:
    return DkimReport(signatures=(Signature(result="temperror", reason=_why(error)),))


def _no_arc(error: Exception) -> ArcReport:
    return ArcReport(result="temperror", reason=_why(error))


def _why(error: Exception) -> str:
    """Not in a generator: a StopIteration would look like its end."""
    if not isinstance(error, OSError):
        _log.error("verifying signatures failed", exc_info=error)
    return f"the message could not be read: {type(error).__name__}"
