"""Limits of the SMTP server: who may come in, how long anybody may take, and the place where each trip is counted.

Contract: every limit that trips goes through `hit`: one metric, one log line. Counts here are those of this worker; the
counts over all workers are stated's, and they fail open. What failure means for the mail: a client over a limit gets 421
or 452 and comes again; nothing accepted is touched.
"""

import asyncio
from collections import OrderedDict
from typing import Protocol

from appliance.config.model import Limits
from appliance.observe import maillog, metrics

_hits = metrics.counter("postgate_smtpd_limits_total", "Limits that SMTP clients ran into.", ["limit"])
_open = metrics.gauge("postgate_smtpd_sessions", "SMTP sessions that are open.")
_stress = metrics.gauge("postgate_smtpd_stress", "1 while timeouts are short because connections run out.")

#: Clients that are remembered because a message of theirs was accepted.
KNOWN_GOOD = 10_000
#: Share of the connections for strangers at which timeouts become short.
STRESS_AT = 0.75
#: A client that said it has no more than "." behind a bare LF waits for an answer: it gets one after this time.
PSEUDO_END_WAIT = 5.0


def hit(limit: str, text: str) -> None:
    """A limit tripped: `limit` is its name in metrics, `text` says who and what."""
    _hits.labels(limit).inc()
    maillog.log(f"warning: limit {limit}: {text}")


class Connections:
    """The open sessions of this worker, by client."""

    def __init__(self) -> None:
        self.open = 0
        self._of: dict[str, int] = {}
        self._good: OrderedDict[str, None] = OrderedDict()

    def enter(self, address: str) -> None:
        self.open += 1
        self._of[address] = self._of.get(address, 0) + 1
        _open.set(self.open)

    def leave(self, address: str) -> None:
        self.open -= 1
        _open.set(self.open)
        left = self._of.get(address, 1) - 1
        if left:
            self._of[address] = left
        else:
            self._of.pop(address, None)

    def of(self, address: str) -> int:
        """Sessions of this client, here."""
        return self._of.get(address, 0)

    def praise(self, address: str) -> None:
        """A message of this client was accepted: it may use the reserve."""
        self._good[address] = None
        self._good.move_to_end(address)
        if len(self._good) > KNOWN_GOOD:
            self._good.popitem(last=False)

    def known_good(self, address: str) -> bool:
        return address in self._good

    def full(self, limits: Limits, good: bool) -> bool:
        """Is there no place for one more than those who entered? The reserve is for known-good clients."""
        if not limits.connections:
            return False
        return self.open > limits.connections - (0 if good else min(limits.connections_reserve, limits.connections // 2))

    def stress(self, limits: Limits) -> bool:
        """Do connections run out?"""
        places = limits.connections - min(limits.connections_reserve, limits.connections // 2)
        stressed = bool(limits.connections) and self.open > places * STRESS_AT
        _stress.set(stressed)
        return stressed


class Watched(Protocol):
    """What has a deadline in `loop.time()` seconds; `expired` must move or end it."""

    deadline: float

    def expired(self, now: float) -> None: ...


class Watch:
    """One timer for all sessions: it looks at their deadlines every `interval` seconds.

    A deadline is an attribute, so moving it costs nothing; it is kept to within one interval.
    """

    def __init__(self, interval: float = 0.5) -> None:
        self.interval = interval
        self.watched: set[Watched] = set()
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._tick()

    def _tick(self) -> None:
        self._handle = self._loop.call_later(self.interval, self._tick)
        now = self._loop.time()
        for late in [one for one in self.watched if one.deadline < now]:
            late.expired(now)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
