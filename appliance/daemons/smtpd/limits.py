"""Limits of the SMTP server: who may come in, how long anybody may take, and the place where each trip is counted.

Contract: every limit that trips goes through `hit`: one metric, one log line. Counts here are those of this worker; the
counts over all workers are stated's, and they fail open. What failure means for the mail: a client over a limit gets 421
or 452 and comes again; nothing accepted is touched.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from appliance.config.model import Limits
from appliance.observe import maillog, metrics, oplog

_hits = metrics.counter("postgate_smtpd_limits_total", "Limits that SMTP clients ran into.", ["limit"])
_open = metrics.gauge("postgate_smtpd_sessions", "SMTP sessions that are open.")
_stress = metrics.gauge("postgate_smtpd_stress", "1 while timeouts are short because connections run out.")

#: Clients that are remembered because a message of theirs was accepted.
KNOWN_GOOD = 10_000
#: Seconds for which stated is not told again that a client is good.
TELL_AGAIN = 600.0
#: Share of the connections for strangers at which timeouts become short.
STRESS_AT = 0.75
#: A client that said it has no more than "." behind a bare LF waits for an answer: it gets one after this time.
PSEUDO_END_WAIT = 5.0


#: Seconds until a session that could not be ended at its deadline is tried again.
EXPIRE_AGAIN = 10.0
#: Names of what is no key of [limits]: sizes, space, manners.
OTHERS = frozenset({"accept", "proxy", "size", "space", "wrong_protocol"})
#: All names of limits in metrics and log.
NAMES = OTHERS | {
    "command_line", "header_size", "recipients", "errors", "errors_soft", "junk_commands", "messages_per_session",
    "connections", "connections_per_client", "connection_rate", "message_rate", "recipient_rate", "timeout_command",
    "timeout_data", "timeout_tls", "timeout_write", "session_life", "data_rate", "memory_messages", "stress",
}  # fmt: skip
log = oplog.get("smtpd")
_COUNTERS = {name: _hits.labels(name) for name in NAMES}


def hit(limit: str, text: str) -> None:
    """A limit tripped: `limit` is its name in metrics (KeyError: not one of NAMES), `text` says who and what."""
    _COUNTERS[limit].inc()
    maillog.capped(limit, f"warning: limit {limit}: {text}")


class Connections:
    """The open sessions of this worker, by client."""

    def __init__(self, limits: Limits) -> None:
        self.open = 0
        #: Connections run out: timeouts are short.
        self.stressed = False
        #: Workers that share the limits (0: not known).
        self.siblings = 0
        self._of: dict[str, int] = {}
        self._good: OrderedDict[str, float] = OrderedDict()
        self.follow(limits)

    def follow(self, limits: Limits) -> None:
        """Other limits are in force."""
        self.limit = limits.connections or math.inf
        self._per_client = limits.connections_per_client or math.inf
        self._reserve = min(limits.connections_reserve, limits.connections // 2)
        self._stress = (self.limit - self._reserve) * STRESS_AT
        self.stressed = self.open > self._stress

    def enter(self, address: str) -> None:
        self.open += 1
        self._of[address] = self._of.get(address, 0) + 1
        if self.open > self._stress and not self.stressed:
            hit("stress", f"{self.open} sessions are open: timeouts are short")
        self.stressed = self.open > self._stress

    def leave(self, address: str) -> None:
        self.open -= 1
        self.stressed = self.open > self._stress
        left = self._of.get(address, 1) - 1
        if left:
            self._of[address] = left
        else:
            self._of.pop(address, None)

    def of(self, address: str) -> int:
        """Sessions of this client, here."""
        return self._of.get(address, 0)

    def sparse(self, address: str) -> bool:
        """Are there so few, of this client and of all, that no limit over all workers is near? A worker that lets in no
        more than its share without asking cannot pass a limit together with others that do the same."""
        share = self.siblings * self.open <= self.limit - self._reserve
        return self.siblings > 0 and share and self.siblings * self._of.get(address, 0) <= self._per_client

    def praise(self, address: str, now: float) -> bool:
        """A message of this client was accepted: it may use the reserve. True: others have not been told for a while."""
        told = self._good.get(address, -math.inf)
        if told > 0:
            self._good.move_to_end(address)
        if now - told < TELL_AGAIN:
            return False
        self._good[address] = now
        if len(self._good) > KNOWN_GOOD:
            self._good.popitem(last=False)
        return True

    def known_good(self, address: str) -> bool:
        return address in self._good

    def full(self, good: bool) -> bool:
        """Is there no place for one more than those who entered? The reserve is for known-good clients."""
        return self.open > self.limit - (0 if good else self._reserve)

    def export(self) -> None:
        """Set the gauges; the watch does it now and then."""
        _open.set(self.open)
        _stress.set(self.stressed)


class Watched(Protocol):
    """What has a deadline in `loop.time()` seconds; `expired` must move or end it."""

    deadline: float

    def expired(self, now: float) -> None: ...


class Watch:
    """One timer for all sessions: it looks at their deadlines every `interval` seconds.

    A deadline is an attribute, so moving it costs nothing; it is kept to within one interval.
    """

    def __init__(self, then: Callable[[], None], interval: float = 0.5) -> None:
        self.interval, self._then = interval, then
        self.watched: set[Watched] = set()
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._tick()

    def _tick(self) -> None:
        self._handle = self._loop.call_later(self.interval, self._tick)
        now = self._loop.time()
        for late in [one for one in self.watched if one.deadline < now]:
            try:
                late.expired(now)
            except Exception:  # one session's trouble must not keep the others' deadlines from being looked at
                late.deadline = now + EXPIRE_AGAIN
                log.exception("a session could not be ended at its deadline")
        self._then()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
