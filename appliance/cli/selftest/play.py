"""What scenarios share: strangers, mails with a token each, and the comparison of what came with what was expected.

Contract: a scenario gives a Result and raises only for what makes the test itself impossible. Every token that was
refused, or is to be dropped, is remembered, so that the last scenario can see whether any of them was delivered all
the same.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from appliance.cli.selftest.expect import DELIVER, Expected
from appliance.cli.selftest.gateway import Gateway
from appliance.cli.selftest.inner import Inner
from appliance.cli.selftest.scene import DOMAIN, HONEST, MAILBOX, Scene
from appliance.cli.selftest.scripted import Scanner
from appliance.cli.selftest.stranger import Reply, Stranger, send
from appliance.config.snapshot import Snapshot
from appliance.engine.rules import PolicySet

#: Seconds that a mail may take to arrive inside.
ARRIVAL = 15.0
State = Literal["ok", "miss", "skipped"]


class Result(NamedTuple):
    """One row of the table."""

    state: State
    expected: str
    got: str
    why: str = ""


class Mail(NamedTuple):
    """A mail to send; `token` is its Message-ID and the local part of its sender."""

    token: str
    sender: str
    octets: bytes


class Play:
    """The whole stage of a self-test."""

    def __init__(
        self, scene: Scene, snapshot: Snapshot, gateway: Gateway, inner: Inner, clamd: Scanner, spamd: Scanner
    ) -> None:
        self.scene, self.snapshot, self.gateway, self.inner = scene, snapshot, gateway, inner
        self.clamd, self.spamd = clamd, spamd
        self.refused: set[str] = set()
        self._numbers = itertools.count(1)

    @property
    def policies(self) -> PolicySet:
        return self.snapshot.policies

    def stranger(self, address: str = HONEST, helo: str = "mail.regular.example") -> Stranger:
        """Somebody who is seen as `address`."""
        return Stranger("127.0.0.1", self.gateway.port, address, helo)

    def mail(
        self,
        body: str = "A mail of the self-test.\r\n",
        *,
        domain: str = "regular.example",
        author: str = "",
        headers: str = "",
        kind: str = "text/plain; charset=utf-8",
    ) -> Mail:
        """An honest mail of `domain`, or one with another `author`. `headers`: more of them, CRLF at the end of each."""
        token = f"selftest-{next(self._numbers):04}"
        sender = f"{token}@{domain}"
        text = (
            f"{headers}From: {author or f'Self-test <{sender}>'}\r\nTo: <{MAILBOX}>\r\nSubject: self-test\r\n"
            f"Date: Sat, 28 Nov 2026 04:00:00 +0000\r\nMessage-ID: <{token}@{domain}>\r\n"
            f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n{body}"
        )
        return Mail(token, sender, text.encode("utf-8", "surrogateescape"))

    async def send(self, mail: Mail, stranger: Stranger | None = None, recipient: str = MAILBOX) -> Reply:
        """The whole dialogue; the reply that decided."""
        reply = await send(stranger or self.stranger(), mail.sender, recipient, mail.octets)
        if reply.code != 250:
            self.refused.add(mail.token)
        return reply

    async def judge(self, mail: Mail, expected: Expected, why: str = "", stranger: Stranger | None = None) -> Result:
        """Send it, and see whether what comes of it is what was expected."""
        if expected.kind == "skip":
            return Result("skipped", "-", "-", expected.words)
        return await self.compare(mail, await self.send(mail, stranger), expected, why)

    async def compare(self, mail: Mail, reply: Reply, expected: Expected, why: str = "") -> Result:
        """`reply` was the answer to `mail`."""
        if expected.kind in ("refuse", "defer"):
            ok = reply.code == expected.code
            return Result("ok" if ok else "miss", expected.words, reply.short, why)
        if reply.code != 250:
            return Result("miss", expected.words, reply.short, why)
        ok, got = await self._after(mail, expected)
        return Result("ok" if ok else "miss", expected.words, got, why)

    async def _after(self, mail: Mail, expected: Expected) -> tuple[bool, str]:
        """What became of a mail that was taken."""
        if expected.kind == "keep":
            where = await self._kept(mail.sender)
            return bool(where), f"kept in {where}" if where else "250, and it is not kept"
        if expected.kind == "drop":
            self.refused.add(mail.token)
            return True, "taken"
        arrived = await self.inner.has(mail.token.encode(), ARRIVAL)
        if arrived is None:
            where = await self.gateway.kept(mail.sender)
            return False, f"250, then kept in {where}" if where else f"250, not delivered within {ARRIVAL:.0f} s"
        found = marks(arrived)
        got = "delivered" + (f", marked {', '.join(found)}" if found else "")
        return not expected.mark or expected.mark in found, got

    async def _kept(self, sender: str) -> str:
        """Where it waits; it takes a moment until delivery has it."""
        for _ in range(40):
            if where := await self.gateway.kept(sender):
                return where
            await asyncio.sleep(0.05)
        return ""


def header_of(mail: bytes) -> str:
    """The header, unfolded."""
    block = mail.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    return block.replace("\r\n\t", " ").replace("\r\n ", " ")


def marks(mail: bytes) -> list[str]:
    """The marks of a delivered mail."""
    lines = header_of(mail).split("\r\n")
    return [line.partition(":")[2].strip() for line in lines if line.lower().startswith("x-postgate-mark:")]


Run = Callable[[Play], Awaitable[Result]]


class Scenario(NamedTuple):
    """One line of the table, and how it is played."""

    name: str
    run: Run


class Scenarios(list[Scenario]):
    """A group, filled by decorating functions with their name in the table."""

    def __call__(self, name: str) -> Callable[[Run], Run]:
        def add(run: Run) -> Run:
            self.append(Scenario(name, run))
            return run

        return add


def unlike(problems: list[str], expected: str, got: str, why: str = "") -> Result:
    """A result of several observations: `problems` in words."""
    return Result("miss" if problems else "ok", expected, "; ".join(problems) or got, why)


__all__ = ["DELIVER", "DOMAIN", "Mail", "Play", "Result", "Scenario", "Scenarios", "header_of", "marks", "unlike"]
