"""A next hop as call-ahead sees it: where it is, how it may be asked, and what its answers mean.

Contract: Destination keeps the limits of one place of a next hop: CONCURRENCY sessions, RATE questions a second with
BURST at once; after a failure it rests for REST seconds. Sessions are used again, and closed when idle. state_of is pure.
What failure means for the mail: a next hop that rests, or was asked too often, verifies nothing: unverifiable.
"""

import asyncio
import ssl
import time

import msgspec

from appliance.connectors.session import SmtpSession
from appliance.connectors.target import Target
from appliance.net import tls
from appliance.observe import oplog
from appliance.observe.contact import Contact
from appliance.protocol.smtp.outgoing import Result, is_of_host

CONCURRENCY = 4
RATE, BURST = 20.0, 100.0
#: A next hop that failed is not asked again for so long (seconds).
REST = 5.0
#: A failure is told in status for so long, unless the place answers again.
TOLD = 300.0
#: A session is given up when it was idle for so long, or after so many questions.
IDLE, REUSE = 30.0, 100
log = oplog.get("callahead")


class NobodyToAsk(Exception):
    """No server takes the address's mail in the end, but what this names: a command, `discard:`. It takes all."""


class Door(msgspec.Struct, frozen=True):
    """One place that mail for a domain would go to. `name` is the destination in limits, cache and status
    ("smtp:[10.0.0.25]:25"); TLS as in deliveries."""

    name: str
    target: Target
    level: tls.Level = "none"
    context: ssl.SSLContext | None = None


def state_of(result: Result) -> str:
    """known, unknown or unverifiable. Only a final refusal that is about the mailbox makes an address unknown: class
    5.1.x, 5.2.1 (disabled), 5.4.1 (Exchange Online), 5.0.0, or no enhanced code at all with 550, 551, 553 or 554."""
    if result.command != "RCPT TO":
        return "unverifiable"
    if result.kind == "delivered":
        return "known"
    if result.kind != "failed":
        return "unverifiable"
    if not result.enhanced:
        return "unknown" if result.code in (550, 551, 553, 554) else "unverifiable"
    about_mailbox = result.enhanced.startswith("5.1.") or result.enhanced in ("5.2.1", "5.4.1", "5.0.0")
    return "unknown" if about_mailbox else "unverifiable"


def verifies_nothing(result: Result) -> bool:
    """Would it have said that of any other recipient, too: before it was asked for this one, or as being out of order?"""
    return is_of_host(result) or (result.kind != "delivered" and result.command not in ("", "RCPT TO"))


class Destination:
    """One place of a next hop: its idle sessions, its limits, its rest after a failure."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots = asyncio.Semaphore(CONCURRENCY)
        self.idle: list[tuple[SmtpSession, float]] = []
        self.tokens, self.at = BURST, time.monotonic()
        self.rests_until = self._failed_at = 0.0
        self.trouble = ""
        self.contact = Contact()
        self._tidying: asyncio.TimerHandle | None = None

    def may_ask(self) -> bool:
        """Take one token of the rate."""
        now = time.monotonic()
        self.tokens = min(BURST, self.tokens + (now - self.at) * RATE)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def take(self) -> SmtpSession | None:
        """An idle session that is still good."""
        while self.idle:
            session, since = self.idle.pop()
            if session.alive and time.monotonic() - since < IDLE:
                return session
            session.quit()
        return None

    def give(self, session: SmtpSession) -> None:
        """Keep a session for the next question, if it can take one."""
        if session.alive and session.uses < REUSE:
            self.idle.append((session, time.monotonic()))
            if self._tidying is None:
                self._tidying = asyncio.get_running_loop().call_later(IDLE, self._tidy)
        else:
            session.quit()

    def failed(self, why: str) -> None:
        """It was not reached, or did not speak SMTP: it rests."""
        self.impaired(why)
        self.rests_until = self._failed_at + REST

    def impaired(self, why: str) -> None:
        """It verified nothing."""
        if not self.trouble:
            log.error("call-ahead fails", next_hop=self.name, why=why)
        self.trouble, self._failed_at = why, time.monotonic()
        self.contact.failed(why)

    def answered(self) -> None:
        """It said what it knows of a mailbox."""
        if self.trouble:
            log.warning("call-ahead well again", next_hop=self.name)
        self.trouble, self.rests_until = "", 0.0
        self.contact.answered()

    @property
    def is_away(self) -> bool:
        """Did the last question fail, not long ago?"""
        return bool(self.trouble) and time.monotonic() < self._failed_at + TOLD

    def _tidy(self) -> None:
        """Close what was idle for too long."""
        limit = time.monotonic() - IDLE
        old = [session for session, since in self.idle if since <= limit]
        self.idle = [(session, since) for session, since in self.idle if since > limit]
        for session in old:
            session.quit()
        self._tidying = asyncio.get_running_loop().call_later(IDLE, self._tidy) if self.idle else None

    def close(self) -> None:
        """Hang up everywhere."""
        if self._tidying is not None:
            self._tidying.cancel()
        for session, _ in self.idle:
            session.quit()
        self.idle.clear()
