"""What scenarios share: strangers, mails with a token each, and the comparison of what came with what was expected.

Contract: a scenario gives a Result and raises only for what makes the test itself impossible. Every token that was
refused, or is to be dropped, is remembered, so that the last scenario can see whether any of them was delivered all
the same.
"""

import itertools
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from appliance.cli.selftest import earlier, excepted
from appliance.cli.selftest.arrived import marks
from appliance.cli.selftest.expect import DELIVER, Expected, expect
from appliance.cli.selftest.fate import Fate
from appliance.cli.selftest.gateway import Gateway
from appliance.cli.selftest.inner import Inner
from appliance.cli.selftest.places import file_of
from appliance.cli.selftest.result import ROW, Result, unlike
from appliance.cli.selftest.scene import DOMAIN, HONEST, MAILBOX, Scene
from appliance.cli.selftest.scripted import Scanner
from appliance.cli.selftest.stranger import Reply, Stranger, Way, send
from appliance.cli.selftest.who import NO_TLS, UNSIGNED, Finding, Who
from appliance.config.snapshot import Snapshot
from appliance.engine.exceptions import Exemption
from appliance.engine.rules import PolicySet
from appliance.mail.verdict import Action

PLAINLY = Way()
#: What the honest stranger says its name is.
HELO = "mail.regular.example"


class Mail(NamedTuple):
    """A mail to send; `token` is its Message-ID and the local part of its sender. `facts`: what is true of it alone."""

    token: str
    sender: str
    octets: bytes
    facts: tuple[Finding, ...] = ()
    signed: bool = False


class Play:
    """The whole stage of a self-test."""

    def __init__(
        self, scene: Scene, snapshot: Snapshot, gateway: Gateway, inner: Inner, clamd: Scanner, spamd: Scanner
    ) -> None:
        self.scene, self.snapshot, self.gateway, self.inner = scene, snapshot, gateway, inner
        self.clamd, self.spamd = clamd, spamd
        self.fate = Fate(gateway, inner)
        #: Scanners of the operator's that do not answer, and why.
        self.dead: dict[str, str] = {}
        #: What became of asking the operator's policy services and milters, by (check, name).
        self.services: dict[tuple[str, str], Result] = {}
        #: Seconds that are left for things to be well again after trouble.
        self.patience = math.inf
        self.refused: set[str] = set()
        #: Of which row a token is.
        self.rows: dict[str, str] = {}
        #: What strangers do since they were asked for it, and the tokens of mails that went so.
        self.signs = self.tls = False
        self._signed: set[str] = set()
        self._encrypted: dict[str, str] = {}
        #: The last mail in a flow of mails that was not taken.
        self.turned_away: tuple[Mail, Reply] | None = None
        self._numbers = itertools.count(1)

    @property
    def policies(self) -> PolicySet:
        return self.snapshot.policies

    def stranger(self, address: str = HONEST, helo: str = HELO, port: int = 0) -> Stranger:
        """Somebody who is seen as `address`, at another listener than that of all if there is a `port`."""
        return Stranger("127.0.0.1", port or self.gateway.port, address, helo)

    def mail(
        self,
        body: str = "A mail of the self-test.\r\n",
        *,
        domain: str = "regular.example",
        author: str = "",
        headers: str = "",
        kind: str = "text/plain; charset=utf-8",
        sender: str = "",
    ) -> Mail:
        """An honest mail of `domain`, or of this `sender`, or one with another `author`. `headers`: more of them, CRLF at
        the end of each."""
        token = f"selftest-{next(self._numbers):04}"
        self.rows[token] = ROW.get()
        sender = sender or f"{token}@{domain}"
        text = (
            f"{headers}From: {author or f'Self-test <{sender}>'}\r\nTo: <{MAILBOX}>\r\nSubject: self-test\r\n"
            f"Date: Sat, 28 Nov 2026 04:00:00 +0000\r\nMessage-ID: <{token}@{domain}>\r\n"
            f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n{body}"
        )
        return Mail(token, sender, text.encode("utf-8", "surrogateescape"))

    async def send(
        self, mail: Mail, stranger: Stranger | None = None, recipient: str = MAILBOX, way: Way = PLAINLY
    ) -> Reply:
        """The whole dialogue; the reply that decided. Who is asked for a signature, or for TLS, comes again with it."""
        stranger = stranger or self.stranger()
        while True:
            went = self.signs, self.tls
            reply = await self._sent(mail, stranger, recipient, way)
            if reply.code == 250 or not await self._learns(mail, reply, stranger, went):
                break
        if reply.code != 250:
            self.refused.add(mail.token)
        return reply

    async def _sent(self, mail: Mail, stranger: Stranger, recipient: str, way: Way) -> Reply:
        octets = mail.octets
        if self.signs and not mail.signed:
            octets = self.scene.signer.sign(octets, mail.sender.rpartition("@")[2])
        self._signed |= {mail.token} if octets != mail.octets else set()
        reply = await send(stranger, mail.sender, recipient, octets, way._replace(tls=way.tls or self.tls))
        self._encrypted |= {mail.token: stranger.tls} if stranger.tls else {}
        return reply

    async def _learns(self, mail: Mail, reply: Reply, stranger: Stranger, went: tuple[bool, bool]) -> bool:
        """Whether strangers are asked for something that was not done when this mail `went`: from now on they do it."""
        if all(went) or not earlier.asks(self.policies):
            return False
        decided = await self.gateway.decided(reply)
        asked = earlier.remedies(self.policies, self._who(mail, stranger), decided) if decided else set()
        self.signs, self.tls = self.signs or UNSIGNED in asked, self.tls or NO_TLS in asked
        return went != (self.signs, self.tls)

    def _who(self, mail: Mail, stranger: Stranger | None, found: tuple[Finding, ...] = ()) -> Who:
        address, helo, tls = (stranger.address, stranger.helo, stranger.tls) if stranger else (HONEST, HELO, "")
        version = self._encrypted.get(mail.token, tls)
        signed = mail.signed or mail.token in self._signed
        domain, facts = mail.sender.rpartition("@")[2], (*mail.facts, *found)
        return Who(address, domain, version, signed, facts, mail.sender, helo)

    async def judge(self, mail: Mail, expected: Expected, why: str = "", stranger: Stranger | None = None) -> Result:
        """Send it, and see whether what comes of it is what was expected."""
        if expected.kind == "skip":
            return Result("skipped", "-", "-", expected.words)
        return await self.compare(mail, await self.send(mail, stranger), expected, why, stranger)

    async def compare(
        self, mail: Mail, reply: Reply, expected: Expected, why: str = "", stranger: Stranger | None = None
    ) -> Result:
        """`reply` was the answer to `mail`. Who is stopped by another check than the one that is expected to is a miss,
        unless the configuration wants it; who is stopped by that one, but not as expected, is always one."""
        result = await self._compared(mail, reply, expected, why)
        if result.state == "ok" and expected.kind not in ("refuse", "defer"):
            return result
        decided = await self.gateway.decided(reply)
        its_own = decided is not None and (decided.check, decided.outcome) in expected.found
        if result.state == "ok" and (decided is None or its_own):
            return result
        if (decided is None or its_own) and (explained := await self._excepted(mail, reply, expected, stranger)):
            return explained
        if decided is None:
            return result._replace(why=self._guessed(result.why, mail, stranger, expected.found))
        if not its_own and (first := self._first(decided, mail, expected.found, stranger)):
            return first
        reason = f" ({decided.reason})" if decided.reason else ""
        got = f"{result.got}, by {decided.check}:{decided.outcome}{reason}"
        if its_own:
            result = result._replace(why=self._guessed(result.why, mail, stranger, expected.found))
        return result._replace(state="miss", got=got)

    async def stopped(self, mail: Mail, reply: Reply, stranger: Stranger | None = None) -> Result | None:
        """The result for a mail that this configuration stops before all else, None for any other."""
        decided = await self.gateway.decided(reply)
        return self._first(decided, mail, (), stranger) if decided is not None else None

    def _first(
        self, decided: earlier.Decided, mail: Mail, found: tuple[Finding, ...], stranger: Stranger | None
    ) -> Result | None:
        who = self._who(mail, stranger, found)
        why = earlier.why(self.policies, self.scene.policy_folders, who, decided)
        return Result("skipped", "-", "-", self.scene.theirs_named(why)) if why else None

    async def _compared(self, mail: Mail, reply: Reply, expected: Expected, why: str) -> Result:
        if reply.code != 250:
            ok = expected.kind in ("refuse", "defer") and reply.code == expected.code
            return Result("ok" if ok else "miss", expected.words, reply.short, why)
        ok, got = (
            (False, reply.short) if expected.kind in ("refuse", "defer") else await self._after(mail, reply, expected)
        )
        if not expected.found:
            return Result("ok" if ok else "miss", expected.words, got, why)
        unfound, said = await self._said(mail, expected)
        if unfound or not ok or (expected.kind == "deliver" and not expected.mark):
            got = f"{got}, {', '.join(said)}"
        return Result("ok" if ok and not unfound else "miss", expected.words, got, self.because(expected, why))

    async def _excepted(self, mail: Mail, reply: Reply, expected: Expected, stranger: Stranger | None) -> Result | None:
        """The result where exceptions that fit the stranger say that there is to be what there is."""
        who, checks = self._who(mail, stranger), [check for check, _ in expected.found]
        fitting = self._fitting(who, checks)
        if not fitting:
            return None
        told = excepted.under(self.policies, who, checks)
        what = expect(told, *expected.found)
        again = await self._compared(mail, reply, DELIVER if what.kind == "skip" else what, "")
        off = [check for check in checks if told.checks[check].mode == "off"]
        asked = await self.gateway.verdicts(mail.sender) if off else []
        if again.state != "ok" or any(verdict["check"] in off for verdict in asked):
            return None
        why = f"{excepted.named(self.policies, fitting, self._folders)} fits this stranger: {what.words}"
        return Result("skipped", "-", "-", why)

    def _fitting(self, who: Who, checks: Iterable[str]) -> list[tuple[str, Exemption]]:
        """The operator's exceptions, of these checks, that fit a stranger."""
        return [(check, one) for check in dict.fromkeys(checks) for one in who.fitting(self.policies.checks[check])]

    @property
    def _folders(self) -> list[str]:
        return self.scene.policy_folders

    def _guessed(self, why: str, mail: Mail, stranger: Stranger | None, found: Iterable[Finding]) -> str:
        """With the exceptions that fit, of checks that were to find something."""
        fitting = self._fitting(self._who(mail, stranger), [check for check, _ in found])
        perhaps = f"perhaps {excepted.named(self.policies, fitting, self._folders)}" if fitting else ""
        return "; ".join(filter(None, (why, perhaps)))

    def because(self, expected: Expected, why: str) -> str:
        """The lines that let pass what was found, with their files; without any: `why`."""
        folders = self.scene.policy_folders if expected.loosened else ()
        lines = [f"{line} in {file_of(check, folders)}" for check, line in expected.loosened]
        return "; ".join(lines) or why

    async def _said(self, mail: Mail, expected: Expected) -> tuple[bool, list[str]]:
        """Whether a check did not find what it must in a mail that was taken; what each of them said. Where one accepts,
        others may not be asked."""
        verdicts = await self.gateway.verdicts(mail.sender)
        rulings = [self.policies.checks[check].rulings[outcome] for check, outcome in expected.found]
        accepting = any(ruling.action is Action.ACCEPT for ruling in rulings)
        unfound, said = False, []
        for check, outcome in expected.found:
            outcomes = dict.fromkeys(verdict["outcome"] for verdict in verdicts if verdict["check"] == check)
            unfound = unfound or (outcome not in outcomes and bool(outcomes or not accepting))
            said.append(f"{check}:{outcome if outcome in outcomes else '/'.join(outcomes) or 'not asked'}")
        return unfound, said

    async def _after(self, mail: Mail, reply: Reply, expected: Expected) -> tuple[bool, str]:
        """What became of a mail that was taken."""
        if expected.kind == "keep":
            where = await self.fate.kept(mail.token, mail.sender)
            return where == expected.place, f"kept in {where}" if where else "250, and it is not kept"
        if expected.kind == "drop":
            self.refused.add(mail.token)
            return True, "taken"
        became = await self.fate.of(mail.token, mail.sender, reply)
        if became.arrived is None:
            return False, became.got
        found = marks(became.arrived)
        got = became.got + (f", marked {', '.join(found)}" if found else "")
        return not expected.mark or expected.mark in found, got


Run = Callable[[Play], Awaitable[Result]]


class Scenario(NamedTuple):
    """One line of the table, and how it is played. `ahead`: it mostly waits, and begins with the first one. `beside`:
    others may be played at the same time. `always`: it costs no time, so it is played however late it is."""

    name: str
    run: Run
    ahead: bool = False
    always: bool = False
    beside: bool = False


class Scenarios(list[Scenario]):
    """A group, filled by decorating functions with their name in the table. `beside`: none depends on another."""

    def __init__(self, beside: bool = False) -> None:
        super().__init__()
        self._beside = beside

    def __call__(self, name: str, *, ahead: bool = False, always: bool = False) -> Callable[[Run], Run]:
        def add(run: Run) -> Run:
            self.append(Scenario(name, run, ahead, always, self._beside))
            return run

        return add


async def once(play: Play, mail: Mail, result: Result) -> Result:
    """`result`, a miss if a mail that was delivered came a second time."""
    if result.state == "ok" and play.inner.told(mail.token.encode()) and await play.inner.has_again(mail.token.encode()):
        return result._replace(state="miss", got=f"{result.got}, twice")
    return result


__all__ = ["DELIVER", "DOMAIN", "Mail", "Play", "Result", "Scenario", "Scenarios", "once", "unlike"]
