"""Triplets that were known a moment ago: a list's burst to one recipient costs one question to stated, not a hundred.

Contract: only what stated called known is remembered, for KEPT seconds, in this worker; each question behind that goes to
stated again, which moves `last`. What an operator takes out of the greylist is forgotten here as late as that. What
failure means for the mail: none; Unavailable of stated is passed on.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import msgspec

from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.mail.later import later
from appliance.mail.promise import Promise

KEPT, MOST = 5.0, 10000
_Key = tuple[tuple[str, ...], str, str]


class Steps(Protocol):
    """stores.remote.StateClient."""

    def step(self, ask: GreylistAsk) -> GreylistAnswer | Awaitable[GreylistAnswer]: ...


class RecentlyKnown:
    """mail.greylisting.Greylist before another one; `clock` is monotonic."""

    def __init__(self, state: Steps, clock: Callable[[], float]) -> None:
        self._state, self._clock = state, clock
        self._known: dict[_Key, tuple[float, GreylistAnswer]] = {}

    def step(self, ask: GreylistAsk) -> GreylistAnswer | Awaitable[GreylistAnswer]:
        """At once where it is known."""
        found = self._known.get((ask.keys, ask.sender, ask.recipient)) if self._known else None
        if found is not None and found[0] > self._clock():
            return found[1]
        answer = self._state.step(ask)
        if isinstance(answer, GreylistAnswer):
            return answer  # it was a stranger
        keep = partial(self._heard, ask)
        return answer.map(keep) if isinstance(answer, Promise) else later(answer, keep)

    def _heard(self, ask: GreylistAsk, answer: GreylistAnswer) -> GreylistAnswer:
        if answer.state == "known":
            if len(self._known) >= MOST:
                self._known.clear()
            until = self._clock() + KEPT
            answer = msgspec.structs.replace(answer, until=until)
            self._known[ask.keys, ask.sender, ask.recipient] = until, answer
        return answer
