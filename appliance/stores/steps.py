"""Greylist steps over the shelves: what is read for one, the machine (stores.greylist), what is written.

Contract: each step is answered at once. A step of which the filter says that neither its triplets nor its pair can be
there, and whose origin is not accepted, is what the machine would make of nothing, without asking it (strangers are most
of what comes); all others go the whole way. What failure means for the mail: none of its own (stores.state).
"""

from collections.abc import Sequence
from typing import Any

from appliance.observe import oplog
from appliance.stores import greylist, wire
from appliance.stores.greylist import Origin, Pair, Triplet
from appliance.stores.seen import Filter
from appliance.stores.shelf import Read, Shelf
from appliance.stores.strangers import ORIGINS, PAIRS, SEP, Board

log = oplog.get("stated")


def pair_of(key: str) -> str:
    """The pair that a triplet's key is about."""
    return key.partition(SEP)[2]


class Steps:
    """See the module's head. All times are the steady clock's; `offset` makes them wall time for answers."""

    def __init__(self, read: Read, board: Board | None = None) -> None:
        #: Which pairs may have a triplet or a record of their own.
        self.met = Filter("triplet", "pair", slots=PAIRS, memory=board.pairs if board else None)
        self.triplets = Shelf("triplet", Triplet, read, about=pair_of, filter=self.met)
        known = Filter("origin", slots=ORIGINS, memory=board.origins if board else None)
        self.origins = Shelf("origin", Origin, read, filter=known)
        self.pairs = Shelf("pair", Pair, read, filter=self.met)
        #: Answers since the start by their state.
        self.outcomes: dict[str, int] = {}
        self._now = -1.0
        self._triplet, self._pair = Triplet(0.0, 0.0, 1), Pair(0.0, 0.0)

    def step(self, ask: wire.Step, now: float, offset: float) -> Sequence[Any]:
        """The answer as it travels."""
        pair = f"{ask.sender}{SEP}{ask.recipient}"
        seen = self.met.seen
        if seen is None or pair in seen or self._accepts(ask):
            return self._decide(ask, pair, now, offset)
        self.met.note(pair)
        self._put_new(ask, [pair], now)
        return "new", now + offset, 1, 0, ask.delay, ask.keys[0]

    def told(self, ask: wire.Strangers, now: float) -> None:
        """Steps that a worker answered by itself, for they are strangers' (stores.strangers). Who is known by now was
        told of twice: that is no second attempt."""
        pairs: Sequence[str] = [f"{ask.sender}{SEP}{recipient}" for recipient in ask.recipients]
        new: Sequence[str] = ()
        if not self._accepts(ask):
            new, pairs = self.met.note_new(pairs)
            if new:
                self._put_new(ask, new, now)
        for pair in pairs:
            if not any(self._lives(self.triplets.get(f"{key}{SEP}{pair}"), ask, now) for key in ask.keys):
                self._decide(ask.step(pair.partition(SEP)[2]), pair, now, 0.0)

    @staticmethod
    def _lives(triplet: Triplet | None, ask: wire.Strangers, now: float) -> bool:
        return triplet is not None and greylist.expires(triplet, ask.window, ask.remember) >= now

    def _put_new(self, ask: wire.Step | wire.Strangers, pairs: Sequence[str], now: float) -> None:
        """What the machine makes of nothing, for pairs that have been noted."""
        if now != self._now:  # all strangers of a frame have the same records
            self._now, self._triplet, self._pair = now, Triplet(now, now, 1), Pair(now, now)
        end = now + ask.window
        for key in ask.keys:
            self.triplets.put_all_new([f"{key}{SEP}{pair}" for pair in pairs], (self._triplet, end))
        self.pairs.put_all_new(pairs, (self._pair, end))
        self.outcomes["new"] = self.outcomes.get("new", 0) + len(pairs)

    def _accepts(self, ask: wire.Step | wire.Strangers) -> bool:
        """Its origin may be accepted."""
        return bool(ask.auto_accept) and not ask.shared and self.origins.get(ask.keys[0]) is not None

    def _decide(self, ask: wire.Step, pair: str, now: float, offset: float) -> Sequence[Any]:
        keys = [f"{key}{SEP}{pair}" for key in ask.keys]
        get, origin = self.triplets.get, self.origins.get
        known = greylist.Known([get(key) for key in keys], [origin(key) for key in ask.keys], self.pairs.get(pair))
        step = greylist.decide(ask, now, known)
        self._write(ask, step, known, keys, pair)
        answer = step.answer
        self.outcomes[answer.state] = self.outcomes.get(answer.state, 0) + 1
        if answer.state == "loop":
            log.warning("greylist let a pool in", sender=ask.sender, recipient=ask.recipient, client=ask.client)
        return answer.state, answer.first + offset, answer.attempts, answer.passes, answer.wait, answer.key

    def _write(self, ask: wire.Step, step: greylist.Step, known: greylist.Known, keys: Sequence[str], pair: str) -> None:
        if step.triplet is not None:
            first, end = step.triplet.first, greylist.expires(step.triplet, ask.window, ask.remember)
            # A retry that came too early changes counts only, not the clock: not worth a write.
            same = step.answer.state == "early" and all(t is not None and t.first == first for t in known.triplets)
            store = self.triplets.touch if same else self.triplets.put
            for key in keys:
                store(key, step.triplet, end)
        for key, origin in zip(ask.keys, step.origins, strict=False):
            if origin is not None:
                self.origins.put(key, origin, origin.last + ask.remember)
        if step.pair is not None:
            self.pairs.put(pair, step.pair, greylist.expires(step.pair, ask.window, ask.remember))

    def let_pass(self, ask: wire.PassGreylist, now: float) -> None:
        """An operator lets a pair pass from every address."""
        record = Pair(now, now, ("operator",), now)
        self.pairs.put(f"{ask.sender}{SEP}{ask.recipient}", record, now + ask.remember)
