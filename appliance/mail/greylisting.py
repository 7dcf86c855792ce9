"""What a check asks the greylist, and what it is answered.

Contract: values, and the protocols of whoever keeps the greylist (stores). What failure means for the mail: a step that
cannot be taken raises ports.Unavailable, the check's `temperror`; it is neither a stranger's nor a known one's.
"""

from collections.abc import Awaitable
from typing import Protocol

import msgspec


class GreylistAsk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One atomic greylist step. `keys`: origin keys, strongest first (identity, then network); all are read, all are
    written; only the strongest may be accepted automatically, and not if it is `shared` by strangers. Times in seconds;
    `now` is wall time."""

    keys: tuple[str, ...]
    sender: str
    recipient: str
    client: str
    now: float
    delay: float
    window: float
    remember: float
    auto_accept: int
    shared: bool = False


class GreylistAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`state`: new, early (came back too soon), passed (first time after the delay), known, auto (origin accepted
    automatically), loop (kept coming at or after the delay from other addresses). `first` is when it was first seen.
    `until`: up to when (monotonic seconds) the same step has the same answer; 0: it must be asked."""

    state: str
    first: float
    attempts: int
    passes: int = 0
    wait: float = 0.0
    key: str = ""
    until: float = 0.0


class Greylist(Protocol):
    def step(self, ask: GreylistAsk) -> GreylistAnswer | Awaitable[GreylistAnswer]:
        """One step; at once where the answer is at hand. Raises Unavailable."""


def first_attempt(ask: GreylistAsk, now: float) -> GreylistAnswer:
    """What a stranger is answered."""
    return GreylistAnswer(state="new", first=now, attempts=1, wait=ask.delay, key=ask.keys[0])


class Strangers(Protocol):
    """Steps of the greylist that differ in their recipient and moment only."""

    def first(self, recipient: str) -> bool:
        """Whether a step about this recipient is a stranger's, who has never come before: then it is taken, and answered
        by `first_attempt`. False: it is to be asked. Never raises."""


class StrangersAtSight(Protocol):
    """A Greylist that may know by itself who has never come before."""

    def strangers(self, ask: GreylistAsk) -> Strangers:
        """Steps like `ask`."""
